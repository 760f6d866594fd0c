"""Binary and multiclass AUC, partial AUC and average precision: losses and metrics."""

from equipoise.ranking.criteria import Criterion
from equipoise.ranking.metrics import (
    AUROC,
    OPAUC,
    TPAUC,
    AveragePrecision,
    MulticlassAUROC,
    PartialAUROC,
    auroc,
    average_precision,
    multiclass_auroc,
    opauc,
    pairwise_auroc,
    partial_auroc,
    precision_recall_curve,
    roc_curve,
    tpauc,
)

__all__ = [
    "AUROC",
    "OPAUC",
    "TPAUC",
    "AveragePrecision",
    "Criterion",
    "MulticlassAUROC",
    "PartialAUROC",
    "auroc",
    "average_precision",
    "multiclass_auroc",
    "opauc",
    "pairwise_auroc",
    "partial_auroc",
    "precision_recall_curve",
    "roc_curve",
    "tpauc",
]
