"""What the LightGBM and XGBoost classifiers share: labels, the held-out part, calibration, saving."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from equipoise.core.validate import check_choice, check_fraction, check_positive
from equipoise.estimators.boosting import OWN_LOSSES, RANKING_OBJECTIVES, Array, RankingObjective
from equipoise.estimators.calibrating import Calibration, calibration_sample, check_calibration, fit_calibration
from equipoise.estimators.holding_out import HeldFraction, hold_out
from equipoise.estimators.sample_weights import counted_rows
from equipoise.estimators.saving import plain, written_whole
from equipoise.ranking.criteria import Criterion, fitting_criterion
from equipoise.training.objectives import OBJECTIVES

_FORMAT = 1
_DESCRIPTION = "estimator.json"
_MULTICLASS = (*OWN_LOSSES, "auc")


class Part(NamedTuple):
    """Rows with class indices and, where rows or classes are weighted, sample weights."""

    features: Array
    target: Array
    weight: Array | None = None

    def of(self, rows: Array) -> Part:
        """Some of the rows."""
        return Part(self.features[rows], self.target[rows], None if self.weight is None else self.weight[rows])


class BoostedRankingClassifier(ClassifierMixin, BaseEstimator):
    """What is trained, on which loss, and when it stops.

    Where no class is rare, a stratified part of the data is held out: training stops early by `metric` on it, and
    probabilities are calibrated on it, because a ranking objective leaves the scores without a unit. Elsewhere they are
    calibrated out of fold, see `calibration`.
    `decision_function` gives calibrated log-odds, which rank exactly as the booster's raw scores do; 0 is where
    `predict` changes its mind. Features may hold NaN. Columns of a pandas DataFrame whose dtype is "category" are split
    by category, and values that were none in `fit` count as missing.

    Args:
        objective: "cross_entropy" and "weighted_cross_entropy" (every class with the same weight) are the booster's own
            log loss; "auc", "partial_auc", "two_way_partial_auc" and "weighted_partial_auc" are those of
            `RankingObjective`. More than two classes: the cross-entropies, and "auc" as one-vs-one.
        max_fpr: false-positive budget in (0, 1], for partial objectives and metrics.
        min_tpr: least true-positive rate in [0, 1), for two-way ones.
        metric: what early stopping looks at, the name of a `Criterion`. None takes the one that `max_fpr` and `min_tpr`
            say, and one-vs-one AUROC for more classes.
        k: length of the list of a top-k metric; see `Criterion`.
        surrogate: the loss of a pair, by name.
        margin: margin or rate of the surrogate, in units of the raw score.
        widening: the selecting objectives are trained on this multiple of `max_fpr` (1 at most), because scores of
            training rows look better than they are, so that fewer negatives seem to spend the budget than will.
        warm_start_rounds: rounds of the booster's own log loss before a ranking objective takes over.
        n_estimators: the most rounds.
        learning_rate: shrinkage of each round.
        early_stopping_rounds: stop after so many rounds without a better metric; None trains all, and keeps the best.
        validation_fraction: share of the rows of each class that is held out, in [0, 1). 0 or None trains all rounds on
            all rows; so does a share of less than three rows of a class. "auto" holds out a fifth where every class has
            at least 50 rows, and nothing else.
        calibration: what probabilities are calibrated on; always the rows held out where there are some. Where there
            are none, "cross_fit" trains up to five more boosters, each without a fold of the rows, and calibrates on
            the scores of the rows left out: `fit` takes about five times as long. "held_out" makes do with the
            training scores, which makes probabilities too sure, and warns; so does "cross_fit" where a class has one
            row. None leaves the scores as they are: of a ranking objective, they only rank.
        booster_params: further parameters by any name that the booster knows, for example {"num_leaves": 63}; they
            override the settings here, but what is this estimator's to set (objective, metric, rounds) is refused.
        n_jobs: threads; None or -1 for all.
        random_state: seed of the held-out part and of the booster.

    Attributes:
        booster_: the booster, of which the best rounds are used.
        classes_: the labels.
        n_features_in_: how many features.
        categories_: place of each column of categories → its values.
    """

    _booster_file: str
    _ours: ClassVar = {
        "objective": "objective",
        "metric": "metric",
        "num_class": "the labels",
        "num_iterations": "n_estimators",
        "early_stopping_round": "early_stopping_rounds",
    }

    def __init__(
        self,
        objective: str = "auc",
        *,
        max_fpr: float | None = None,
        min_tpr: float | None = None,
        metric: str | None = None,
        k: int | None = None,
        surrogate: str = "logistic",
        margin: float = 1.0,
        widening: float = 2.0,
        warm_start_rounds: int = 0,
        n_estimators: int = 500,
        learning_rate: float = 0.1,
        early_stopping_rounds: int | None = 50,
        validation_fraction: HeldFraction = "auto",
        calibration: Calibration = "cross_fit",
        booster_params: dict[str, Any] | None = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.objective = objective
        self.max_fpr = max_fpr
        self.min_tpr = min_tpr
        self.metric = metric
        self.k = k
        self.surrogate = surrogate
        self.margin = margin
        self.widening = widening
        self.warm_start_rounds = warm_start_rounds
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.early_stopping_rounds = early_stopping_rounds
        self.validation_fraction = validation_fraction
        self.calibration = calibration
        self.booster_params = booster_params
        self.n_jobs = n_jobs
        self.random_state = random_state

    @abstractmethod
    def _train(self, fit: Part, held_out: Part | None, objective: RankingObjective | None, criterion: Criterion) -> Any:
        """The booster, trained on `fit` and stopped by `held_out`; None as objective is its own loss."""

    @abstractmethod
    def _raw_scores(self, booster: Any, features: Array) -> Array:
        """Raw scores (n,) or (n, C) of a booster."""

    @abstractmethod
    def _write_booster(self, path: Path) -> None: ...

    @staticmethod
    @abstractmethod
    def _read_booster(path: Path) -> Any: ...

    def __sklearn_tags__(self) -> Any:
        """Say that NaN is welcome, and whether the objective takes several classes."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = self.objective in _MULTICLASS
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BoostedRankingClassifier:
        """Train on features (n, d) and labels (n,) of any type.

        Args:
            X: (n, d), NaN where missing.
            y: (n,) labels.
            sample_weight: (n,) non-negative, how often each row counts: in the objective, where pairs count as the
                product of their rows' weights, in early stopping and calibration. What the booster counts in rows,
                such as LightGBM's `min_data_in_leaf` and its bins, it goes on counting in rows.

        Raises:
            ValueError: if a setting is unknown, missing, out of range or unfit for the number of classes, weights are
                not one non-negative number a row, or there are fewer than two classes.
        """
        self.categories_ = _categories(X)
        features, y = validate_data(
            self, self._coded(X), y, ensure_all_finite="allow-nan", dtype=[np.float64, np.float32]
        )
        features, y, weight = counted_rows(sample_weight, features, y)
        check_classification_targets(y)
        self.classes_, target = np.unique(y, return_inverse=True)
        check_calibration(self.calibration)
        objective, criterion = self._resolve(len(self.classes_))
        self._booster_seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        kept, held = hold_out(target, self.validation_fraction, np.random.RandomState(self._booster_seed))
        table, held = Part(features, target, weight), np.sort(held)

        def train(rows: Array, held_out: Part | None) -> Any:
            return self._train(self._class_weighted(table.of(np.sort(rows))), held_out, objective, criterion)

        self.booster_ = train(kept, table.of(held) if len(held) else None)
        self._scale, self._offset = 1.0, np.zeros(() if len(self.classes_) == 2 else len(self.classes_))
        if self.calibration is not None:
            raw, rows = calibration_sample(
                self.calibration,
                target,
                held,
                self._booster_seed,
                lambda rows: self._tensor_scores(self.booster_, features[rows]),
                lambda rows, left_out: self._tensor_scores(train(rows, None), features[left_out]),
            )
            judged = table.of(rows)
            self._scale, self._offset = fit_calibration(
                raw, judged.target, judged.weight, shift=not OBJECTIVES[self.objective].decides
            )
        return self

    def decision_function(self, X: Any) -> Array:
        """Calibrated log-odds (n,), or log-probabilities up to a constant (n, C) for more than two classes."""
        check_is_fitted(self, "booster_")
        features = validate_data(
            self, self._coded(X), reset=False, ensure_all_finite="allow-nan", dtype=[np.float64, np.float32]
        )
        return self._tensor_scores(self.booster_, features).numpy() * self._scale + self._offset

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (n, C) in the order of `classes_`, calibrated as `calibration` says."""
        scores = torch.from_numpy(self.decision_function(X))
        if scores.ndim == 2:
            return scores.softmax(1).numpy()
        return torch.stack([(-scores).sigmoid(), scores.sigmoid()], 1).numpy()

    def predict(self, X: Any) -> Array:
        """The most probable label of each row."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]

    def save(self, path: str | Path) -> None:
        """Write the folder `path`: the booster in its own text format, and JSON with all else.

        Raises:
            ValueError: if labels or categories are neither numbers, booleans nor strings.
        """
        check_is_fitted(self, "booster_")
        labels = plain(self.classes_)
        for value in (*labels, *(each for column in self.categories_.values() for each in column)):
            if not isinstance(value, bool | int | float | str):
                raise ValueError(
                    f"labels and categories of type {type(value).__name__} cannot be saved as JSON; use numbers, "
                    "booleans or strings"
                )
        settings = plain(self.get_params())
        if not isinstance(settings["random_state"], int | None):
            settings["random_state"] = None
        description = {
            "format": _FORMAT,
            "estimator": type(self).__name__,
            "settings": settings,
            "classes": labels,
            "classes_dtype": str(self.classes_.dtype),
            "n_features": self.n_features_in_,
            "feature_names": list(getattr(self, "feature_names_in_", [])),
            "categories": list(self.categories_.items()),
            "scale": self._scale,
            "offset": self._offset.tolist(),
        }
        text = json.dumps(description, indent=2)
        with written_whole(path) as folder:
            self._write_booster(folder / self._booster_file)
            (folder / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> BoostedRankingClassifier:
        """Read what `save` has written.

        Raises:
            ValueError: if the folder holds another estimator or a format of another version.
            FileNotFoundError: if a file is missing.
        """
        folder = Path(path)
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        for key, wanted in (("estimator", cls.__name__), ("format", _FORMAT)):
            if description.get(key) != wanted:
                raise ValueError(f"{folder} holds {key} {description.get(key)!r}, wanted {wanted!r}")
        estimator = cls(**description["settings"])
        estimator.classes_ = np.array(description["classes"], dtype=description["classes_dtype"])
        estimator.categories_ = dict(description.get("categories", []))
        estimator.n_features_in_ = description["n_features"]
        if description["feature_names"]:
            estimator.feature_names_in_ = np.array(description["feature_names"], dtype=object)
        estimator._scale, estimator._offset = description["scale"], np.array(description["offset"])
        estimator.booster_ = cls._read_booster(folder / cls._booster_file)
        return estimator

    def _resolve(self, classes: int) -> tuple[RankingObjective | None, Criterion]:
        if classes < 2:
            raise ValueError(f"{type(self).__name__} needs at least 2 classes, the labels have 1 class")
        check_choice("objective", self.objective, [*OWN_LOSSES, *RANKING_OBJECTIVES])
        if classes > 2 and self.objective not in _MULTICLASS:
            raise ValueError(
                f"Only binary classification is supported. The objective {self.objective!r} is for two classes, got "
                f"{classes}; for more there are "
                "'cross_entropy', 'weighted_cross_entropy' and 'auc'"
            )
        criterion = fitting_criterion(self.metric, classes, max_fpr=self.max_fpr, min_tpr=self.min_tpr, k=self.k)
        if self.objective in OWN_LOSSES:
            return None, criterion
        check_positive("widening", self.widening)
        if self.max_fpr is not None:
            check_fraction("max_fpr", self.max_fpr)
        objective = RankingObjective(
            self.objective,
            surrogate=self.surrogate,
            margin=self.margin,
            max_fpr=None if self.max_fpr is None else min(1.0, self.widening * self.max_fpr),
            min_tpr=self.min_tpr,
        )
        return objective, criterion

    def _class_weighted(self, part: Part) -> Part:
        """The rows with the weights that training gives them."""
        if self.objective != "weighted_cross_entropy":
            return part
        weight = np.ones(len(part.target)) if part.weight is None else part.weight
        totals = np.bincount(part.target, weight)
        return part._replace(weight=weight * (weight.sum() / (len(totals) * totals))[part.target])

    def _coded(self, X: Any) -> Any:
        """Columns of categories as their numbers; missing and unknown ones as NaN."""
        if not self.categories_:
            return X
        if not hasattr(X, "isetitem"):
            raise ValueError(
                f"columns {list(self.categories_)} were categories in fit; give a pandas DataFrame, got "
                f"{type(X).__name__}"
            )
        coded = X.copy(deep=False)
        for place, categories in self.categories_.items():
            if place >= X.shape[1]:
                break
            codes = {category: code for code, category in enumerate(categories)}
            coded.isetitem(place, np.array([codes.get(value, np.nan) for value in X.iloc[:, place]], dtype=np.float64))
        return coded

    def _tensor_scores(self, booster: Any, features: Array) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self._raw_scores(booster, features), dtype=np.float64))

    def _threads(self) -> int:
        # Both boosters take 0 for "all there are".
        return 0 if self.n_jobs is None or self.n_jobs < 0 else int(self.n_jobs)

    def _seed(self) -> int:
        return self._booster_seed


def _categories(table: Any) -> dict[int, list[Any]]:
    """Place of each column of categories in a pandas DataFrame → its values."""
    if not hasattr(table, "isetitem"):
        return {}
    kinds = enumerate(table.dtypes)
    return {place: plain(kind.categories.to_numpy()) for place, kind in kinds if str(kind) == "category"}
