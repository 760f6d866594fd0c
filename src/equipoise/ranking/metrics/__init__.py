"""How well scores rank: areas under ROC and precision-recall curves, whole and in part."""

from equipoise.ranking.metrics.functional import (
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
from equipoise.ranking.metrics.modular import AUROC, OPAUC, TPAUC, AveragePrecision, MulticlassAUROC, PartialAUROC
from equipoise.ranking.metrics.plots import plot_precision_recall, plot_roc

__all__ = [
    "AUROC",
    "OPAUC",
    "TPAUC",
    "AveragePrecision",
    "MulticlassAUROC",
    "PartialAUROC",
    "auroc",
    "average_precision",
    "multiclass_auroc",
    "opauc",
    "pairwise_auroc",
    "partial_auroc",
    "plot_precision_recall",
    "plot_roc",
    "precision_recall_curve",
    "roc_curve",
    "tpauc",
]
