"""XGBoost: the callables, the warm start in one booster with its base score, early stopping over both phases."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
xgb = pytest.importorskip("xgboost")

from equipoise.estimators.boosting import RankingObjective, judge  # noqa: E402
from equipoise.estimators.xgboost import metric_function, objective_function, train  # noqa: E402
from equipoise.ranking.criteria import Criterion  # noqa: E402

PARAMS = {"nthread": 1, "max_depth": 3, "seed": 0}
AUC = RankingObjective("auc", "logistic")


@pytest.fixture(scope="module")
def table():
    random = np.random.RandomState(0)
    features = random.randn(400, 4)
    target = (features[:, 0] + features[:, 1] ** 2 + 0.5 * random.randn(400) > 2).astype(int)
    return features, target


def _dataset(table, **settings):
    return xgb.DMatrix(*table, nthread=1, **settings)


def _raw(booster, features, **settings):
    return booster.predict(xgb.DMatrix(features, nthread=1), output_margin=True, **settings)


def test_the_booster_lowers_the_objective_in_every_round(table):
    booster = train(PARAMS, _dataset(table), 10, objective=AUC)
    values = [AUC.value(_raw(booster, table[0], iteration_range=(0, k)), table[1]) for k in range(1, 11)]
    assert (np.diff(values) < 0).all()
    assert values[-1] < 0.6 * AUC.value(np.zeros(400), table[1])


def test_the_callable_is_an_objective_of_xgboost(table):
    theirs = xgb.train({**PARAMS, "base_score": 0.5}, _dataset(table), 5, obj=objective_function(AUC))
    ours = train({**PARAMS, "base_score": 0.5}, _dataset(table), 5, objective=AUC)
    difference = _raw(theirs, table[0]) - _raw(ours, table[0])
    np.testing.assert_allclose(difference, difference[0], atol=1e-5)


def test_sample_weights_of_the_data_are_used(table):
    weight = np.random.RandomState(1).uniform(0.5, 2, 400).astype(np.float32)
    found = objective_function(AUC)(np.zeros(400), _dataset(table, weight=weight))
    np.testing.assert_allclose(found, AUC.gradient_hessian(np.zeros(400), table[1], weight), rtol=1e-6)
    unweighted = objective_function(AUC)(np.zeros(400), _dataset(table))
    np.testing.assert_allclose(unweighted, AUC.gradient_hessian(np.zeros(400), table[1]), rtol=1e-6)


def test_a_warm_start_goes_on_from_the_own_loss_and_predicts_the_sum(table):
    warm = train(PARAMS, _dataset(table), 4)
    both = train(PARAMS, _dataset(table), 10, objective=AUC, warm_start_rounds=4)
    features = table[0]
    start = _raw(warm, features)
    np.testing.assert_allclose(_raw(both, features, iteration_range=(0, 4)), start, atol=1e-6)
    # The first ranking tree is fitted to the gradient at the warm scores: a booster that is given them grows the same.
    data = _dataset(table, base_margin=start)
    alone = xgb.train(PARAMS, data, 6, obj=objective_function(AUC))
    with_margin = alone.predict(data, output_margin=True)
    np.testing.assert_allclose(_raw(both, features), with_margin, atol=1e-4)


def test_a_warm_started_booster_is_the_same_when_loaded(table, tmp_path):
    booster = train(PARAMS, _dataset(table), 10, objective=AUC, warm_start_rounds=4)
    booster.save_model(tmp_path / "booster.json")
    loaded = xgb.Booster(model_file=tmp_path / "booster.json")
    np.testing.assert_array_equal(_raw(loaded, table[0]), _raw(booster, table[0]))


def test_early_stopping_keeps_the_best_round_of_both_phases(table):
    features, target = table
    criterion = Criterion("opauc", max_fpr=0.2)
    settings = {"objective": AUC, "warm_start_rounds": 5}
    data, valid = _dataset((features[:250], target[:250])), _dataset((features[250:], target[250:]))
    stopped = train(PARAMS, data, 60, valid_set=valid, criterion=criterion, early_stopping_rounds=5, **settings)
    whole = train(PARAMS, data, 30, **settings)
    course = [judge(criterion, _raw(whole, features[250:], iteration_range=(0, k)), target[250:]) for k in range(1, 31)]
    waited = next(k for k in range(1, 31) if k - max(int(np.argmax(course[:k])) + 1, 5) >= 5)
    best = int(np.argmax(course[:waited])) + 1
    assert stopped.num_boosted_rounds() == best
    np.testing.assert_allclose(_raw(stopped, features), _raw(whole, features, iteration_range=(0, best)), atol=1e-6)


def test_the_metric_is_a_custom_metric_of_xgboost(table):
    history = {}
    data = _dataset(table)
    xgb.train(
        {**PARAMS, "disable_default_eval_metric": True},
        data,
        3,
        obj=objective_function(AUC),
        evals=[(data, "valid")],
        custom_metric=metric_function(Criterion("auroc")),
        evals_result=history,
        verbose_eval=False,
    )
    assert history["valid"]["auroc"][-1] > 0.8


def test_multiclass_auc_trains_on_from_softmax(table):
    target = np.digitize(table[0][:, 0], [-0.5, 0.5])
    params = {**PARAMS, "objective": "multi:softprob", "num_class": 3}
    data = _dataset((table[0], target))
    scores = [_raw(train(params, data, rounds, objective=AUC, warm_start_rounds=2), table[0]) for rounds in (3, 8)]
    assert AUC.value(scores[1], target) < AUC.value(scores[0], target)


def test_a_validation_set_without_a_criterion_is_refused(table):
    data = _dataset(table)
    with pytest.raises(ValueError, match="come together"):
        train(PARAMS, data, 3, valid_set=data)
    with pytest.raises(ValueError, match="less than num_boost_round=3"):
        train(PARAMS, data, 3, objective=AUC, warm_start_rounds=3)
