"""Model families × objectives: what a contest is held between, and how each contender is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from equipoise.core.validate import check_choice
from equipoise.estimators.boosting import OWN_LOSSES, RANKING_OBJECTIVES
from equipoise.ranking.criteria import Criterion
from equipoise.training.objectives import OBJECTIVES

LOG_LOSS = "cross_entropy"
NEURAL = ("mlp", "linear")
BOOSTERS = ("lightgbm", "xgboost")
MODELS = (*NEURAL, *BOOSTERS)


@dataclass(frozen=True)
class Candidate:
    """One contender.

    Attributes:
        model: one of `MODELS`.
        objective: one of `OBJECTIVES`.

    >>> Candidate("mlp", "partial_auc").name
    'mlp · partial_auc'
    """

    model: str
    objective: str

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS)
        check_choice("objective", self.objective, OBJECTIVES)

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.model} · {self.objective}"

    @property
    def encoding(self) -> str:
        """Which table encoding the family reads: boosters keep missing cells, networks need them filled."""
        return "tree" if self.model in BOOSTERS else "neural"

    def estimator(self, criterion: Criterion, seed: int) -> Any:
        """An unfitted classifier that stops early on `criterion`."""
        # The objective's region is the metric's, where the metric has one.
        common: dict[str, Any] = {
            "objective": self.objective,
            "metric": criterion.name,
            "max_fpr": criterion.max_fpr,
            "min_tpr": criterion.min_tpr,
            "k": criterion.k,
            "random_state": seed,
        }
        if self.model in NEURAL:
            from equipoise.estimators.network_classifier import EquipoiseClassifier

            return EquipoiseClassifier(model=self.model, **common)
        if self.model == "lightgbm":
            from equipoise.estimators.lightgbm import LightGBMRankingClassifier

            return LightGBMRankingClassifier(**common)
        from equipoise.estimators.xgboost import XGBoostRankingClassifier

        return XGBoostRankingClassifier(**common)


def trains(model: str, objective: str) -> bool:
    """Whether a model family can be trained with an objective: networks with every one, boosters with some.

    >>> trains("mlp", "average_precision"), trains("lightgbm", "average_precision"), trains("lightgbm", "auc")
    (True, False, True)
    """
    return model in NEURAL or objective in (*OWN_LOSSES, *RANKING_OBJECTIVES)


def objectives_for(criterion: Criterion) -> list[str]:
    """The objectives worth comparing when the user cares about `criterion`: log loss first, then what aims at it.

    >>> objectives_for(Criterion("auroc"))
    ['cross_entropy', 'weighted_cross_entropy', 'auc']
    """
    if criterion.name in ("balanced_accuracy", "worst_class_accuracy"):
        return [LOG_LOSS, "weighted_cross_entropy", "balanced_softmax", "logit_adjusted", "ldam", "vs"]
    if criterion.kind.uses_k:
        return [LOG_LOSS, "weighted_cross_entropy", "balanced_softmax", "autkc"]
    usual = [LOG_LOSS, "weighted_cross_entropy", "auc"]
    if criterion.min_tpr is not None:
        return [*usual, "partial_auc", "two_way_partial_auc", "instancewise_partial_auc", "weighted_partial_auc"]
    if criterion.max_fpr is not None:
        return [*usual, "partial_auc", "instancewise_partial_auc", "weighted_partial_auc"]
    if criterion.name == "average_precision":
        return [*usual, "average_precision"]
    return usual
