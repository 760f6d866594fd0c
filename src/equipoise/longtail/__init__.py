"""Classes that are hardly there: losses, optimizers, experts, label trees, and a microscope for their training.

Names are loaded when first touched.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name → module of this room.
_MODULES: dict[str, str] = {
    "AIGDL": "bidirectional_logits",
    "BalancedSoftmaxLoss": "class_dependent",
    "BiLT": "bidirectional_logits",
    "BiLTLoss": "bidirectional_logits",
    "BinaryAUCSquareLoss": "mistake_objectives",
    "CDTLoss": "class_dependent",
    "CVSLoss": "confidence_scale",
    "ClassConditionalSAM": "sharpness",
    "CollaborationGate": "branch_collaboration",
    "ComplementaryObjective": "mistake_objectives",
    "ConfidenceScaleBank": "confidence_scale",
    "ContextBranch": "branch_collaboration",
    "DetailBranch": "branch_collaboration",
    "DirMixELoss": "dirichlet_experts",
    "DirichletMixture": "dirichlet_experts",
    "DualStageLoss": "mistake_detection",
    "DualStageMoE": "mistake_detection",
    "EmbeddingCache": "video_features",
    "FlipTTA": "curvature",
    "FocalSAM": "sharpness",
    "FrameClassifier": "frames",
    "HierarchicalMetrics": "metrics.hierarchy",
    "ImbSAM": "sharpness",
    "LDAMLoss": "class_dependent",
    "LabelTree": "label_tree",
    "LoRALinear": "lora",
    "LogitAdjustedLoss": "class_dependent",
    "LogitChain": "bidirectional_logits",
    "MarginMetric": "margins",
    "MeanPoolVideoEncoder": "video_features",
    "MistakeDetectionMetrics": "metrics.mistakes",
    "NeuralCollapse": "metrics.collapse",
    "PhasedLoss": "class_dependent",
    "SAM": "sharpness",
    "SSESAM": "sharpness",
    "Segments": "mistake_pipeline",
    "ShotAccuracy": "metrics.groups",
    "SuiteResult": "metrics.label_mixes",
    "SymmetryResult": "collapse_monitor",
    "TPTMonitor": "collapse_monitor",
    "TestTimeAggregator": "test_time_aggregation",
    "Trials": "dirichlet_experts",
    "TwoBranchCollaboration": "branch_collaboration",
    "VSLoss": "class_dependent",
    "add_lora": "lora",
    "binary_auc_square_loss": "mistake_objectives",
    "class_factors": "class_dependent",
    "class_hessian_extremes": "curvature",
    "class_sharpness": "curvature",
    "classification_margins": "margins",
    "collaboration_gate_fusion": "branch_collaboration",
    "consistency_gap": "class_dependent",
    "covering_bound": "margins",
    "crm_decision": "bidirectional_logits",
    "detect_mistakes": "mistake_pipeline",
    "dirichlet_suite": "metrics.label_mixes",
    "dirichlet_test_counts": "metrics.label_mixes",
    "dirmixe_loss": "dirichlet_experts",
    "diverse_expert_loss": "dirichlet_experts",
    "estimate_lipschitz": "margins",
    "estimate_prior_bbse": "test_time_aggregation",
    "estimate_prior_em": "test_time_aggregation",
    "fit_confidence_scale": "confidence_scale",
    "fixed_suite": "metrics.label_mixes",
    "focal_coefficients": "sharpness",
    "frame_correlation": "frames",
    "grassmannian_frame": "frames",
    "greedy_cover_number": "margins",
    "hierarchical_metrics": "metrics.hierarchy",
    "inverse_prior": "dirichlet_experts",
    "level_weights": "bidirectional_logits",
    "localization_loss": "class_dependent",
    "loss_margin_bounds": "margins",
    "merge_lora": "lora",
    "mistake_detection_metrics": "metrics.mistakes",
    "multiclass_margin_bound": "margins",
    "neural_collapse_metrics": "metrics.collapse",
    "optimal_coherence": "frames",
    "pairwise_min_margin": "margins",
    "permute_frame": "frames",
    "post_hoc_adjust": "class_dependent",
    "random_rotation": "frames",
    "rotate_frame": "frames",
    "shot_accuracy": "metrics.groups",
    "simplex_etf": "frames",
    "sse_rho_head_schedule": "sharpness",
    "suite_accuracy": "metrics.label_mixes",
    "symmetric_generalization": "collapse_monitor",
    "tail_classes": "sharpness",
    "tune_threshold": "branch_collaboration",
    "ufm_svm_optimum": "margins",
    "view_consistency": "test_time_aggregation",
    "vs_local_lipschitz": "localized",
    "vs_loss": "class_dependent",
    "welch_bound": "frames",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
