"""Labels that overlap, labels that go together, and classes that were never seen: losses, metrics and detectors.

Names are loaded when first touched.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name → module of this room.
_MODULES: dict[str, str] = {
    "AUTKC": "metrics.modular_topk",
    "AUTKCLoss": "topk_curve",
    "AsymmetricLoss": "multilabel_baselines",
    "ConfidenceControlLoss": "outlier_baselines",
    "DETECTORS": "detectors",
    "Detector": "detectors",
    "DilationDistance": "outlier_sets",
    "EDGELoss": "energy_gap",
    "EnergyMarginLoss": "outlier_baselines",
    "GMoP": "gated_prompts",
    "GatedPairwiseAUCLoss": "gated_pairs",
    "InterNeg": "interneg",
    "LSEPLoss": "multilabel_baselines",
    "Mahalanobis": "detectors",
    "MultilabelRankingMetrics": "metrics.modular_multilabel",
    "MultilabelTopKHingeLoss": "multilabel_baselines",
    "NegativeBank": "negative_bank",
    "ODIN": "detectors",
    "OpenAUC": "metrics.modular_open_world",
    "OpenAUCLoss": "open_set",
    "OpenSetClassifier": "open_set_classifier",
    "OpenWorldReport": "metrics.report",
    "OpenworldAUC": "metrics.modular_open_world",
    "OutlierExposureLoader": "energy_gap",
    "PairwiseRankingLoss": "multilabel_baselines",
    "PromptLearner": "prompt_learner",
    "TKPR": "metrics.modular_multilabel",
    "TKPRLoss": "topk_pairwise",
    "TextualInverter": "negative_bank",
    "TopKEntropyLoss": "topk_baselines",
    "TopKHingeLoss": "topk_baselines",
    "UniformExposureLoss": "outlier_baselines",
    "autkc": "metrics.topk",
    "autkc_loss": "topk_curve",
    "base_to_new_score": "gated_pairs",
    "class_image_prototypes": "negative_texts",
    "class_map": "metrics.multilabel",
    "class_score_histograms": "metrics.tail",
    "confidence_control_loss": "outlier_baselines",
    "detection_curve": "metrics.detection",
    "dilation_distance": "outlier_sets",
    "energy": "detectors",
    "energy_gap_loss": "energy_gap",
    "energy_margin_loss": "outlier_baselines",
    "entropy": "detectors",
    "estimator_detector": "detectors",
    "fooled_measures": "counterexamples",
    "foreign_words": "negative_texts",
    "gated_pairwise_auc_loss": "gated_pairs",
    "grouped_negative_score": "negative_texts",
    "hamming_loss": "metrics.multilabel",
    "harmonic_mean_accuracy": "metrics.open_world",
    "joint_energy": "detectors",
    "leading_singular_values": "outlier_sets",
    "manifold_mixup_outliers": "open_set",
    "max_energy": "detectors",
    "max_logit": "open_set",
    "mcm_score": "negative_texts",
    "msp": "detectors",
    "multilabel_ood_scores": "detectors",
    "multilabel_ranking_metrics": "metrics.multilabel",
    "multilabel_recall_curve": "metrics.multilabel",
    "neglabel_select": "negative_texts",
    "normalized_accuracy": "metrics.open_set",
    "ood_metrics": "metrics.detection",
    "open_auc": "metrics.open_set",
    "open_auc_pair_loss": "open_set",
    "open_set_classification_curve": "metrics.open_set",
    "open_set_confusion": "metrics.open_set",
    "open_set_curve": "metrics.open_set",
    "open_set_f1": "metrics.open_set",
    "openworld_auc": "metrics.open_world",
    "openworld_curve": "metrics.open_world",
    "overall_accuracy": "metrics.open_world",
    "pseudo_base_new_partitions": "gated_pairs",
    "select_negative_texts": "negative_texts",
    "select_outlier_set": "outlier_sets",
    "sum_probability": "detectors",
    "tail_ood_metrics": "metrics.tail",
    "tail_ood_profile": "metrics.tail",
    "tkpr": "metrics.multilabel",
    "tkpr_loss": "topk_pairwise",
    "top_k_accuracies": "metrics.topk",
    "topk_accuracy": "metrics.topk",
    "true_label_rank": "metrics.topk",
    "uniform_exposure_loss": "outlier_baselines",
    "update_negative_bank": "negative_bank",
    "youden_index": "metrics.open_set",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
