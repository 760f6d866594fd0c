"""XGBoost with ranking objectives: as plain callables, as a `train` with a warm start, and as a classifier.

    xgb.train({}, data, obj=objective_function(RankingObjective("auc")), custom_metric=metric_function(criterion))
    train(params, data, objective=RankingObjective("partial_auc", max_fpr=0.05), warm_start_rounds=20)
    XGBoostRankingClassifier("partial_auc", max_fpr=0.05).fit(features, target)

See `estimators.boosting` for the objectives and their scale. Ask a booster for raw scores with `output_margin=True`:
the sigmoid that XGBoost applies otherwise is not calibrated for a ranking objective, and ties high scores in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import xgboost as xgb

from equipoise.estimators.boosted_classifier import BoostedRankingClassifier, Part
from equipoise.estimators.boosting import Array, RankingObjective, Watch, judge, parameters, phases
from equipoise.estimators.saving import plain
from equipoise.ranking.criteria import Criterion

_ALIASES = (
    {"learning_rate", "eta"},
    {"nthread", "n_jobs"},
    {"seed", "random_state"},
    {"metric", "eval_metric"},
    {"num_iterations", "num_boost_round", "num_round", "n_estimators"},
    {"early_stopping_round", "early_stopping_rounds"},
)
_OURS = {
    "metric": "criterion",
    "num_iterations": "num_boost_round",
    "early_stopping_round": "early_stopping_rounds",
}


def _aliases(name: str) -> set[str]:
    return next((names for names in _ALIASES if name in names), {name})


def objective_function(objective: RankingObjective) -> Callable[[Array, xgb.DMatrix], tuple[Array, Array]]:
    """The objective in the form of `obj` of `xgboost.train`; sample weights of the data are used.

    Args:
        objective: what is to be minimised.

    >>> import numpy as np, xgboost as xgb
    >>> data = xgb.DMatrix(np.arange(40.0)[:, None], np.arange(40) % 4 == 0)
    >>> xgb.train({}, data, 2, obj=objective_function(RankingObjective())).num_boosted_rounds()
    2
    """

    def gradient_hessian(scores: Array, data: xgb.DMatrix) -> tuple[Array, Array]:
        return objective.gradient_hessian(scores, data.get_label(), _weight(data))

    return gradient_hessian


def _weight(data: xgb.DMatrix) -> Array | None:
    weight = data.get_weight()
    return weight if weight.size else None


def metric_function(criterion: Criterion) -> Callable[[Array, xgb.DMatrix], tuple[str, float]]:
    """The criterion in the form of `custom_metric`: (name, value), higher being better (`maximize=True`).

    Sample weights of the data are used.

    Args:
        criterion: what early stopping is to look at, for example `Criterion("opauc", max_fpr=0.05)`.
    """

    def evaluate(scores: Array, data: xgb.DMatrix) -> tuple[str, float]:
        return criterion.name, judge(criterion, scores, data.get_label(), _weight(data))

    return evaluate


class _Stop(xgb.callback.TrainingCallback):
    """Early stopping that looks at both phases as one course."""

    def __init__(self, watch: Watch, name: str, *, keep: bool) -> None:
        self.watch, self.name, self.keep = watch, name, keep
        self.best = bytearray()

    def after_iteration(self, model: xgb.Booster, epoch: int, evals_log: Any) -> bool:
        stop = self.watch.stop(evals_log["valid"][self.name][-1])
        if self.keep and self.watch.is_best:
            self.best = model.save_raw()
        return stop


def train(
    params: dict[str, Any],
    train_set: xgb.DMatrix,
    num_boost_round: int = 100,
    *,
    objective: RankingObjective | None = None,
    warm_start_rounds: int = 0,
    valid_set: xgb.DMatrix | None = None,
    criterion: Criterion | None = None,
    early_stopping_rounds: int | None = None,
) -> xgb.Booster:
    """Train with XGBoost's own loss for some rounds, then with a ranking objective on top of what they predict.

    Args:
        params: as for `xgboost.train`, by any of their names. The "objective" is the own loss, "binary:logistic" if
            absent.
        train_set: the training data, with 0/1 labels or class indices.
        num_boost_round: rounds in all.
        objective: the ranking objective; None for the own loss throughout.
        warm_start_rounds: how many of the rounds, from the first, use the own loss.
        valid_set: what the criterion is computed on after each round; a `QuantileDMatrix` needs `ref=train_set`.
        criterion: higher is better; needed with `valid_set`.
        early_stopping_rounds: stop after so many rounds without a new best; the warm start is always completed.

    Returns:
        One booster of all rounds or, with a `valid_set`, of those up to the best round, of either phase; raw scores
        come from `predict(..., output_margin=True)`.

    Raises:
        ValueError: if rounds are out of range, only one of `valid_set` and `criterion` is given, or `params` hold a
            metric, a number of rounds or early stopping.

    >>> import numpy as np, xgboost as xgb
    >>> data = xgb.DMatrix(np.arange(40.0)[:, None], np.arange(40) % 4 == 0)
    >>> train({}, data, 5, objective=RankingObjective(), warm_start_rounds=2).num_boosted_rounds()
    5
    """
    plan = phases(None if objective is None else objective_function(objective), num_boost_round, warm_start_rounds)
    if (valid_set is None) != (criterion is None):
        raise ValueError("valid_set and criterion come together: give both or neither")
    # The own loss stays the booster's declared one throughout: it says in which units the base score is kept.
    defaults = {"objective": "binary:logistic", "disable_default_eval_metric": True}
    params = parameters(defaults, params, _aliases, _OURS)
    watch = Watch(early_stopping_rounds, warm_start_rounds if len(plan) > 1 else 0)
    # Trees of a tree booster stay as they are; what else there is changes in later rounds.
    trees = params.get("booster", "gbtree") == "gbtree"
    callback = None if criterion is None else _Stop(watch, criterion.name, keep=not trees)
    booster: xgb.Booster | None = None
    for rounds, function in plan:
        booster = xgb.train(
            params,
            train_set,
            rounds,
            obj=function,
            xgb_model=booster,
            evals=[] if valid_set is None else [(valid_set, "valid")],
            custom_metric=None if criterion is None else metric_function(criterion),
            callbacks=callback and [callback],
            verbose_eval=False,
        )
    if booster is None:
        raise ValueError("no round to train")
    if callback is None:
        return booster
    return booster[: watch.best_round] if trees else xgb.Booster(model_file=callback.best)


class XGBoostRankingClassifier(BoostedRankingClassifier):
    """XGBoost for the part of the ROC curve that matters, as a scikit-learn classifier.

    The arguments and attributes are those of `BoostedRankingClassifier`, of which this is the XGBoost form.

    >>> import numpy as np
    >>> features = np.random.RandomState(0).randn(300, 3)
    >>> labels = np.where(features[:, 0] + features[:, 1] ** 2 > 1.5, "fraud", "fine")
    >>> model = XGBoostRankingClassifier("partial_auc", max_fpr=0.1, n_estimators=20, n_jobs=1, random_state=0)
    >>> model.fit(features, labels).predict([[2.0, 2.0, 0.0]])
    array(['fraud'], dtype='<U5')
    """

    _booster_file = "booster.json"

    def _train(
        self, fit: Part, held_out: Part | None, objective: RankingObjective | None, criterion: Criterion
    ) -> xgb.Booster:
        classes = len(self.classes_)
        defaults = {
            "objective": "binary:logistic" if classes == 2 else "multi:softprob",
            "learning_rate": self.learning_rate,
            "nthread": self._threads(),
            "seed": self._seed(),
            **({} if classes == 2 else {"num_class": classes}),
        }
        params = parameters(defaults, plain(self.booster_params or {}), _aliases, self._ours)
        train_set = self._matrix(fit)
        return train(
            params,
            train_set,
            self.n_estimators,
            objective=objective,
            warm_start_rounds=self.warm_start_rounds,
            valid_set=held_out and self._matrix(held_out, ref=train_set),
            criterion=held_out and criterion,
            early_stopping_rounds=self.early_stopping_rounds,
        )

    def _matrix(self, part: Part, ref: xgb.DMatrix | None = None) -> xgb.DMatrix:
        return xgb.QuantileDMatrix(
            part.features, part.target, weight=part.weight, ref=ref, **self._reading(part.features)
        )

    def _reading(self, features: Array) -> dict[str, Any]:
        kinds = ["c" if place in self.categories_ else "q" for place in range(features.shape[1])]
        categories = {"feature_types": kinds, "enable_categorical": True} if self.categories_ else {}
        return {"nthread": self._threads(), **categories}

    def _raw_scores(self, booster: xgb.Booster, features: Array) -> Array:
        data = xgb.DMatrix(features, **self._reading(features))
        return booster.predict(data, output_margin=True)

    def _write_booster(self, path: Path) -> None:
        self.booster_.save_model(path)

    @staticmethod
    def _read_booster(path: Path) -> xgb.Booster:
        return xgb.Booster(model_file=path)
