"""Binary and multiclass AUC, partial AUC and average precision: losses and metrics.

The metric classes are loaded when first touched, see `equipoise.ranking.metrics`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from equipoise.ranking import metrics
from equipoise.ranking.adversarial_auc import (
    PGDAttack,
    adversarial_auc_step,
    attacked_scores,
    first_order_stationarity,
    loss_agnostic_terms,
    robust_auroc,
)
from equipoise.ranking.auprc import AUPRCLoss, semi_variance, smooth_ap_loss, soprc_interpolate, soprc_query_loss
from equipoise.ranking.criteria import Criterion
from equipoise.ranking.exact_partial_square import (
    ExactPartialSquareLoss,
    PartialSquareRisk,
    exact_partial_square_risk,
)
from equipoise.ranking.instancewise_objective import (
    InnerVariables,
    inner_solution,
    instancewise_partial_auc_objective,
)
from equipoise.ranking.instancewise_partial_auc import (
    InstancewisePartialAUCLoss,
    UnbiasedInstancewisePartialAUCLoss,
)
from equipoise.ranking.metrics import (
    auroc,
    average_precision,
    multiclass_auroc,
    opauc,
    pairwise_auroc,
    partial_auroc,
    precision_recall_curve,
    retrieval_metrics,
    roc_curve,
    tpauc,
)
from equipoise.ranking.minmax_auc import (
    MinMaxAUCLoss,
    minmax_auc_loss,
    minmax_auc_terms,
    minmax_inner_solution,
    project_alpha,
)
from equipoise.ranking.multiclass_auc import MulticlassAUCLoss, multiclass_auc_loss, plugin_scores
from equipoise.ranking.multitask_auc import (
    MultiTaskAUCLoss,
    auc_quadratic_form,
    multitask_auc_loss,
    multitask_auc_objective,
)
from equipoise.ranking.multitask_estimator import MultiTaskAUC, multitask_auc_step
from equipoise.ranking.pairwise_auc import PairwiseAUCLoss, pairwise_auc_loss
from equipoise.ranking.partial_auc import PartialAUCLoss, partial_auc_loss
from equipoise.ranking.partial_auc_gap import SmoothingGap, smoothing_gap, smoothing_gap_table
from equipoise.ranking.retrieval import SOPRCLoss, soprc_batch_loss
from equipoise.ranking.robust_auc import (
    CorruptionReport,
    DRAUCLoss,
    corrupted_auroc,
    drauc_loss,
    margin_auc_terms,
)
from equipoise.ranking.wasserstein import (
    WassersteinPerturbation,
    class_budgets,
    dual_step,
    transport_cost,
    wasserstein_ascent,
)
from equipoise.ranking.weighted_partial_auc import (
    WeightedPartialAUCLoss,
    calibrated_penalty,
    calibrated_weight,
    weighted_partial_auc_loss,
)

if TYPE_CHECKING:
    from equipoise.ranking.metrics import (
        AUROC,
        OPAUC,
        TPAUC,
        AveragePrecision,
        MulticlassAUROC,
        PartialAUROC,
        RetrievalMetrics,
    )
    from equipoise.ranking.robust_metric import RobustAUROC

__all__ = [
    "AUROC",
    "OPAUC",
    "TPAUC",
    "AUPRCLoss",
    "AveragePrecision",
    "CorruptionReport",
    "Criterion",
    "DRAUCLoss",
    "ExactPartialSquareLoss",
    "InnerVariables",
    "InstancewisePartialAUCLoss",
    "MinMaxAUCLoss",
    "MultiTaskAUC",
    "MultiTaskAUCLoss",
    "MulticlassAUCLoss",
    "MulticlassAUROC",
    "PGDAttack",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "PartialAUROC",
    "PartialSquareRisk",
    "RetrievalMetrics",
    "RobustAUROC",
    "SOPRCLoss",
    "SmoothingGap",
    "UnbiasedInstancewisePartialAUCLoss",
    "WassersteinPerturbation",
    "WeightedPartialAUCLoss",
    "adversarial_auc_step",
    "attacked_scores",
    "auc_quadratic_form",
    "auroc",
    "average_precision",
    "calibrated_penalty",
    "calibrated_weight",
    "class_budgets",
    "corrupted_auroc",
    "drauc_loss",
    "dual_step",
    "exact_partial_square_risk",
    "first_order_stationarity",
    "inner_solution",
    "instancewise_partial_auc_objective",
    "loss_agnostic_terms",
    "margin_auc_terms",
    "minmax_auc_loss",
    "minmax_auc_terms",
    "minmax_inner_solution",
    "multiclass_auc_loss",
    "multiclass_auroc",
    "multitask_auc_loss",
    "multitask_auc_objective",
    "multitask_auc_step",
    "opauc",
    "pairwise_auc_loss",
    "pairwise_auroc",
    "partial_auc_loss",
    "partial_auroc",
    "plugin_scores",
    "precision_recall_curve",
    "project_alpha",
    "retrieval_metrics",
    "robust_auroc",
    "roc_curve",
    "semi_variance",
    "smooth_ap_loss",
    "smoothing_gap",
    "smoothing_gap_table",
    "soprc_batch_loss",
    "soprc_interpolate",
    "soprc_query_loss",
    "tpauc",
    "transport_cost",
    "wasserstein_ascent",
    "weighted_partial_auc_loss",
]


def __getattr__(name: str) -> Any:
    if name in metrics.__all__:
        return getattr(metrics, name)
    if name == "RobustAUROC":
        return getattr(importlib.import_module(f"{__name__}.robust_metric"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
