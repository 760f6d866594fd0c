"""The model families of `fit`, each declared once: its estimator, the encoding it reads, and what trains it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from equipoise.core.registry import Declaration, by_name
from equipoise.estimators.boosting import OWN_LOSSES, RANKING_OBJECTIVES


@dataclass(frozen=True)
class Family(Declaration):
    """Classifiers of one kind of model.

    Attributes:
        module: of this package, loaded when first needed.
        estimator: name of the class there.
        network: whether it is a network: trained with every objective and optimizer, on filled cells.
    """

    module: str
    estimator: str
    network: bool = False

    @property
    def encoding(self) -> Literal["neural", "tree"]:
        """Which table encoding it reads: boosters keep missing cells, networks need them filled."""
        return "neural" if self.network else "tree"

    def load(self) -> Any:
        """The estimator's class."""
        return getattr(importlib.import_module(f"equipoise.estimators.{self.module}"), self.estimator)

    def trains(self, objective: str) -> bool:
        """Whether it can be trained with an objective.

        >>> FAMILIES["mlp"].trains("average_precision"), FAMILIES["lightgbm"].trains("average_precision")
        (True, False)
        """
        return self.network or objective in (*OWN_LOSSES, *RANKING_OBJECTIVES)


FAMILIES: dict[str, Family] = by_name(
    [
        Family("mlp", "a multi-layer perceptron", "network_classifier", "EquipoiseClassifier", network=True),
        Family("linear", "a linear model", "network_classifier", "EquipoiseClassifier", network=True),
        Family("lightgbm", "gradient boosting by LightGBM", "lightgbm", "LightGBMRankingClassifier"),
        Family("xgboost", "gradient boosting by XGBoost", "xgboost", "XGBoostRankingClassifier"),
    ]
)
