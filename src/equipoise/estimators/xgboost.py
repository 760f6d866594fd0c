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
from equipoise.estimators.boosting import Array, RankingObjective, Watch, judge, phases
from equipoise.ranking.criteria import Criterion


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

    Args:
        criterion: what early stopping is to look at, for example `Criterion("opauc", max_fpr=0.05)`.
    """

    def evaluate(scores: Array, data: xgb.DMatrix) -> tuple[str, float]:
        return criterion.name, judge(criterion, scores, data.get_label())

    return evaluate


class _Stop(xgb.callback.TrainingCallback):
    """Early stopping that looks at both phases as one course."""

    def __init__(self, watch: Watch, name: str) -> None:
        self.watch, self.name = watch, name

    def after_iteration(self, model: xgb.Booster, epoch: int, evals_log: Any) -> bool:
        return self.watch.stop(evals_log["valid"][self.name][-1])


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
        params: as for `xgboost.train`. `params["objective"]` is the own loss, "binary:logistic" if absent.
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
        ValueError: if rounds are out of range, or only one of `valid_set` and `criterion` is given.

    >>> import numpy as np, xgboost as xgb
    >>> data = xgb.DMatrix(np.arange(40.0)[:, None], np.arange(40) % 4 == 0)
    >>> train({}, data, 5, objective=RankingObjective(), warm_start_rounds=2).num_boosted_rounds()
    5
    """
    plan = phases(None if objective is None else objective_function(objective), num_boost_round, warm_start_rounds)
    if (valid_set is None) != (criterion is None):
        raise ValueError("valid_set and criterion come together: give both or neither")
    # The own loss stays the booster's declared one throughout: it says in which units the base score is kept.
    params = {"objective": "binary:logistic", "disable_default_eval_metric": True, **params}
    watch = Watch(early_stopping_rounds, warm_start_rounds if len(plan) > 1 else 0)
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
            callbacks=None if criterion is None else [_Stop(watch, criterion.name)],
            verbose_eval=False,
        )
    if booster is None:
        raise ValueError("no round to train")
    return booster if criterion is None else booster[: watch.best_round]


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
        self, fit: Part, held_out: Part, objective: RankingObjective | None, criterion: Criterion
    ) -> xgb.Booster:
        classes = len(self.classes_)
        params = {
            "objective": "binary:logistic" if classes == 2 else "multi:softprob",
            "learning_rate": self.learning_rate,
            "nthread": self._threads(),
            "seed": self._seed(),
            **({} if classes == 2 else {"num_class": classes}),
            **(self.booster_params or {}),
        }
        train_set = xgb.QuantileDMatrix(fit.features, fit.target, weight=fit.weight, nthread=self._threads())
        return train(
            params,
            train_set,
            self.n_estimators,
            objective=objective,
            warm_start_rounds=self.warm_start_rounds,
            valid_set=xgb.QuantileDMatrix(held_out.features, held_out.target, ref=train_set, nthread=self._threads()),
            criterion=criterion,
            early_stopping_rounds=self.early_stopping_rounds,
        )

    def _raw_scores(self, features: Array) -> Array:
        data = xgb.DMatrix(features, nthread=self._threads())
        return self.booster_.predict(data, output_margin=True)

    def _write_booster(self, path: Path) -> None:
        self.booster_.save_model(path)

    @staticmethod
    def _read_booster(path: Path) -> xgb.Booster:
        return xgb.Booster(model_file=path)
