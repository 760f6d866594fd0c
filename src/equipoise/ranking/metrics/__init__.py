"""How well scores rank: areas under ROC and precision-recall curves, whole and in part.

The classes are loaded when first touched: torchmetrics, on which they stand, brings matplotlib along.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
from equipoise.ranking.metrics.plots import plot_precision_recall, plot_roc
from equipoise.ranking.metrics.retrieval import retrieval_metrics

if TYPE_CHECKING:
    from equipoise.ranking.metrics.modular import (
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
    "AveragePrecision",
    "MulticlassAUROC",
    "PartialAUROC",
    "RetrievalMetrics",
    "auroc",
    "average_precision",
    "multiclass_auroc",
    "opauc",
    "pairwise_auroc",
    "partial_auroc",
    "plot_precision_recall",
    "plot_roc",
    "precision_recall_curve",
    "retrieval_metrics",
    "roc_curve",
    "tpauc",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.modular"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
