"""LightGBM with ranking objectives: as plain callables, as a `train` with a warm start, and as a classifier.

    lgb.train({"objective": objective_function(RankingObjective("auc"))}, data, feval=metric_function(criterion))
    train(params, data, objective=RankingObjective("partial_auc", max_fpr=0.05), warm_start_rounds=20)
    LightGBMRankingClassifier("partial_auc", max_fpr=0.05).fit(features, target)

See `estimators.boosting` for the objectives and their scale. A booster trained by an objective of ours predicts raw
scores; ask for `raw_score=True` where some rounds were LightGBM's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np

from equipoise.estimators.boosted_classifier import BoostedRankingClassifier, Part
from equipoise.estimators.boosting import Array, RankingObjective, Watch, judge, parameters, phases
from equipoise.estimators.saving import plain
from equipoise.ranking.criteria import Criterion

_OURS = {
    "metric": "criterion",
    "num_iterations": "num_boost_round",
    "early_stopping_round": "early_stopping_rounds",
}


def objective_function(objective: RankingObjective) -> Callable[[Array, lgb.Dataset], tuple[Array, Array]]:
    """The objective in the form of `params["objective"]` of `lightgbm.train`; sample weights of the data are used.

    With boosting "dart" and without rounds of its own loss before, `lightgbm.train` may not repeat itself under one
    seed, whatever function it is given; `train` does.

    Args:
        objective: what is to be minimised.

    >>> import lightgbm as lgb, numpy as np
    >>> data = lgb.Dataset(np.arange(99.0)[:, None], np.arange(99) % 4 == 0)
    >>> params = {"objective": objective_function(RankingObjective()), "verbosity": -1}
    >>> lgb.train(params, data, num_boost_round=2).num_trees()
    2
    """

    def gradient_hessian(scores: Array, data: lgb.Dataset) -> tuple[Array, Array]:
        return objective.gradient_hessian(scores, np.asarray(data.get_label()), _weight(data))

    return gradient_hessian


def _weight(data: lgb.Dataset) -> Array | None:
    weight = data.get_weight()
    return None if weight is None else np.asarray(weight)


def metric_function(criterion: Criterion) -> Callable[[Array, lgb.Dataset], tuple[str, float, bool]]:
    """The criterion in the form of `feval`: (name, value, higher is better); sample weights of the data are used.

    Args:
        criterion: what early stopping is to look at, for example `Criterion("opauc", max_fpr=0.05)`.
    """

    def evaluate(scores: Array, data: lgb.Dataset) -> tuple[str, float, bool]:
        return criterion.name, judge(criterion, scores, np.asarray(data.get_label()), _weight(data)), True

    return evaluate


def train(
    params: dict[str, Any],
    train_set: lgb.Dataset,
    num_boost_round: int = 100,
    *,
    objective: RankingObjective | None = None,
    warm_start_rounds: int = 0,
    valid_set: lgb.Dataset | None = None,
    criterion: Criterion | None = None,
    early_stopping_rounds: int | None = None,
) -> lgb.Booster:
    """Train with LightGBM's own loss for some rounds, then with a ranking objective on top of what they predict.

    Args:
        params: as for `lightgbm.train`, by any of their names. The "objective" is the own loss, "binary" if absent.
        train_set: the training data, with 0/1 labels or class indices.
        num_boost_round: rounds in all.
        objective: the ranking objective; None for the own loss throughout.
        warm_start_rounds: how many of the rounds, from the first, use the own loss.
        valid_set: what the criterion is computed on after each round; made with `reference=train_set`.
        criterion: higher is better; needed with `valid_set`.
        early_stopping_rounds: stop after so many rounds without a new best; the warm start is always completed.

    Returns:
        One booster of all rounds. With a `valid_set`, its `best_iteration` is the best round, of either phase, which
        `predict` and `save_model` use (a dart is kept as it was in that round); raw scores come from
        `predict(..., raw_score=True)`.

    Raises:
        ValueError: if rounds are out of range, only one of `valid_set` and `criterion` is given, or `params` hold a
            metric, a number of rounds or early stopping.

    >>> import lightgbm as lgb, numpy as np
    >>> data = lgb.Dataset(np.arange(99.0)[:, None], np.arange(99) % 4 == 0)
    >>> train({"verbosity": -1}, data, 5, objective=RankingObjective(), warm_start_rounds=2).num_trees()
    5
    """
    plan = phases(None if objective is None else objective_function(objective), num_boost_round, warm_start_rounds)
    if (valid_set is None) != (criterion is None):
        raise ValueError("valid_set and criterion come together: give both or neither")
    # One booster changes its loss between rounds, so that training scores, bins and trees simply carry on.
    params = {"metric": "None", **parameters({"objective": "binary"}, params, _aliases, _OURS)}
    booster, best = lgb.Booster(params, train_set), None
    # In a dart, later rounds change the trees of earlier ones: the best round's are not in the last round's model.
    dart = any(params.get(name) == "dart" for name in _aliases("boosting"))
    if dart and plan[0][1] is not None:
        _settle(booster)
    watch = Watch(early_stopping_rounds, warm_start_rounds if len(plan) > 1 else 0)
    if valid_set is not None:
        booster.add_valid(valid_set, "valid")
    for rounds, function in plan:
        for _ in range(rounds):
            _update(booster, function)
            if criterion is not None:
                evaluation = booster.eval_valid(metric_function(criterion))[0]
                stop = watch.stop(evaluation[2])
                if dart and watch.is_best:
                    best = booster.model_to_string()
                if stop:
                    break
    if criterion is not None:
        booster = booster if best is None else lgb.Booster(model_str=best)
        booster.best_iteration = watch.best_round
        booster.best_score = {"valid": {criterion.name: watch.history[watch.best_round - 1]}}
    return booster


def _settle(booster: lgb.Booster) -> None:
    """Let a dart that begins with an objective of ours draw the same trees to drop in every run.

    Whether its first look at the training scores draws, LightGBM decides by memory that it has not set; only a round of
    its own loss sets it. So look now, which sets it either way, and begin the draws anew, as a change of settings does.
    """
    booster.eval_train(lambda scores, data: ("seen", 0.0, True))
    booster.reset_parameter({"metric": "None"})


def _update(booster: lgb.Booster, function: Callable[..., Any] | None) -> None:
    try:
        booster.update(fobj=function)
    except lgb.basic.LightGBMError as error:
        if "num_features" not in str(error):
            raise
        raise ValueError(
            "no feature can be split: all are constant, or 'min_data_in_leaf' leaves too few rows on one side "
            "(lower it, and pass feature_pre_filter=False to the Dataset)"
        ) from error


def _aliases(name: str) -> set[str]:
    return lgb.basic._ConfigAliases.get(name)


class LightGBMRankingClassifier(BoostedRankingClassifier):
    """LightGBM for the part of the ROC curve that matters, as a scikit-learn classifier.

    The arguments and attributes are those of `BoostedRankingClassifier`, of which this is the LightGBM form.

    >>> import numpy as np
    >>> features = np.random.RandomState(0).randn(300, 3)
    >>> labels = np.where(features[:, 0] + features[:, 1] ** 2 > 1.5, "fraud", "fine")
    >>> model = LightGBMRankingClassifier("partial_auc", max_fpr=0.1, n_estimators=20, n_jobs=1, random_state=0)
    >>> model.fit(features, labels).predict([[2.0, 2.0, 0.0]])
    array(['fraud'], dtype='<U5')
    """

    _booster_file = "booster.txt"

    def _train(
        self, fit: Part, held_out: Part | None, objective: RankingObjective | None, criterion: Criterion
    ) -> lgb.Booster:
        classes = len(self.classes_)
        defaults = {
            "objective": "binary" if classes == 2 else "multiclass",
            "num_class": 1 if classes == 2 else classes,
            "learning_rate": self.learning_rate,
            "num_threads": self._threads(),
            "seed": self._seed(),
            # Sums of histograms depend on how threads share them out, which is otherwise decided by a stopwatch.
            "deterministic": True,
            "force_col_wise": True,
            "feature_pre_filter": False,
            "verbosity": -1,
        }
        params = parameters(defaults, plain(self.booster_params or {}), _aliases, self._ours)
        train_set = lgb.Dataset(
            fit.features,
            fit.target,
            weight=fit.weight,
            categorical_feature=list(self.categories_) or "auto",
            params=params,
        )
        return train(
            params,
            train_set,
            self.n_estimators,
            objective=objective,
            warm_start_rounds=self.warm_start_rounds,
            valid_set=held_out
            and train_set.create_valid(held_out.features, held_out.target, held_out.weight, params=params),
            criterion=held_out and criterion,
            early_stopping_rounds=self.early_stopping_rounds,
        )

    def _raw_scores(self, booster: lgb.Booster, features: Array) -> Array:
        return np.asarray(booster.predict(features, raw_score=True, num_threads=self._threads()))

    def _write_booster(self, path: Path) -> None:
        self.booster_.save_model(path)

    @staticmethod
    def _read_booster(path: Path) -> lgb.Booster:
        return lgb.Booster(model_file=path)
