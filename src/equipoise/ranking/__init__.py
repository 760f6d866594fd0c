"""Binary and multiclass AUC, partial AUC and average precision: losses and metrics.

The metric classes are loaded when first touched, see `equipoise.ranking.metrics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equipoise.ranking import metrics
from equipoise.ranking.auprc import AUPRCLoss, semi_variance, smooth_ap_loss, soprc_interpolate, soprc_query_loss
from equipoise.ranking.criteria import Criterion
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
from equipoise.ranking.multiclass_auc import MulticlassAUCLoss, multiclass_auc_loss, plugin_scores
from equipoise.ranking.pairwise_auc import PairwiseAUCLoss, pairwise_auc_loss
from equipoise.ranking.partial_auc import PartialAUCLoss, partial_auc_loss
from equipoise.ranking.retrieval import SOPRCLoss, soprc_batch_loss
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

__all__ = [
    "AUROC",
    "OPAUC",
    "TPAUC",
    "AUPRCLoss",
    "AveragePrecision",
    "Criterion",
    "MulticlassAUCLoss",
    "MulticlassAUROC",
    "PairwiseAUCLoss",
    "PartialAUCLoss",
    "PartialAUROC",
    "RetrievalMetrics",
    "SOPRCLoss",
    "WeightedPartialAUCLoss",
    "auroc",
    "average_precision",
    "calibrated_penalty",
    "calibrated_weight",
    "multiclass_auc_loss",
    "multiclass_auroc",
    "opauc",
    "pairwise_auc_loss",
    "pairwise_auroc",
    "partial_auc_loss",
    "partial_auroc",
    "plugin_scores",
    "precision_recall_curve",
    "retrieval_metrics",
    "roc_curve",
    "semi_variance",
    "smooth_ap_loss",
    "soprc_batch_loss",
    "soprc_interpolate",
    "soprc_query_loss",
    "tpauc",
    "weighted_partial_auc_loss",
]


def __getattr__(name: str) -> Any:
    if name in metrics.__all__:
        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
