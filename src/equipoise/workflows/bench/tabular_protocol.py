"""What `equipoise bench tabular` compares, and what every method may spend.

One budget for all: each method trains once per split with the settings below, none tuned for any method or table.
Networks are the same MLP with the same optimizer, epochs and early stopping (on AUROC, one-vs-one for several classes,
of a held-out share of the training part); boosters have the same rounds and the same early stopping. With nothing held
out, all of them train on the whole training part to the end. Missing cells get the training part's median, features its
mean and scale.
"""

from __future__ import annotations

from typing import Any

from equipoise.estimators.boosting import RANKING_OBJECTIVES
from equipoise.training.objectives import OBJECTIVES

MAX_FPR, WIDE_FPR, MIN_TPR = 0.05, 0.5, 0.5
TEST_SHARE = 0.25
BINARY = ("AUROC", "OPAUC(0.05)", "TPAUC(0.5, 0.5)", "AP")
MULTICLASS = ("MAUC",)
REFERENCE = "mlp · cross_entropy"
LINEAR = "logistic regression"
FIELDS = (
    "table",
    "split",
    "method",
    "rows",
    "features",
    "classes",
    "rarest",
    "seconds",
    "failure",
    *BINARY,
    *MULTICLASS,
)


def method_names(classes: int) -> list[str]:
    """The methods that can be trained with so many classes.

    >>> method_names(3)[:2]
    ['logistic regression', 'mlp · cross_entropy']
    """
    neural = [o.name for o in OBJECTIVES.values() if o.takes(classes)]
    boosted = [name for name in ("cross_entropy", *RANKING_OBJECTIVES) if name in neural]
    return [LINEAR, *(f"mlp · {n}" for n in neural), *(f"lightgbm · {n}" for n in boosted)]


def bounds(objective: str) -> dict[str, Any]:
    """The region of an objective that has one: a small budget, or both bounds where it needs both.

    >>> bounds("partial_auc")
    {'max_fpr': 0.05}
    """
    kind = OBJECTIVES[objective]
    if kind.needs_min_tpr:
        return {"max_fpr": WIDE_FPR, "min_tpr": MIN_TPR}
    return {"max_fpr": MAX_FPR} if kind.needs_max_fpr else {}


def settings() -> dict[str, Any]:
    """The fixed numbers of the protocol, for JSON."""
    return {"test_share": TEST_SHARE, "max_fpr": MAX_FPR, "two_way": {"max_fpr": WIDE_FPR, "min_tpr": MIN_TPR}}
