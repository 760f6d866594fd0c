"""LightGBM: the callables, the warm start in one booster, early stopping over both phases."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("sklearn")
lgb = pytest.importorskip("lightgbm")

from equipoise.estimators.boosting import RankingObjective, judge  # noqa: E402
from equipoise.estimators.lightgbm import metric_function, objective_function, train  # noqa: E402
from equipoise.ranking.criteria import Criterion  # noqa: E402

PARAMS = {"verbosity": -1, "num_threads": 1, "num_leaves": 7, "min_data_in_leaf": 5, "seed": 0}
AUC = RankingObjective("auc", "logistic")


@pytest.fixture(scope="module")
def table():
    random = np.random.RandomState(0)
    features = random.randn(400, 4)
    target = (features[:, 0] + features[:, 1] ** 2 + 0.5 * random.randn(400) > 2).astype(int)
    return features, target


def _dataset(table, **settings):
    return lgb.Dataset(*table, params=PARAMS, **settings)


def test_the_booster_lowers_the_objective_in_every_round(table):
    values = []
    data = _dataset(table)
    booster = lgb.Booster(PARAMS, data)
    for _ in range(10):
        booster.update(fobj=objective_function(AUC))
        values.append(AUC.value(booster.predict(table[0], raw_score=True), table[1]))
    assert (np.diff(values) < 0).all()
    assert values[-1] < 0.75 * AUC.value(np.zeros(400), table[1])


def test_the_callable_is_an_objective_of_lightgbm(table):
    params = {**PARAMS, "objective": objective_function(AUC)}
    theirs = lgb.train(params, _dataset(table), 5).predict(table[0])
    ours = train(PARAMS, _dataset(table), 5, objective=AUC).predict(table[0], raw_score=True)
    np.testing.assert_allclose(theirs, ours)


def test_sample_weights_of_the_data_are_used(table):
    weight = np.random.RandomState(1).uniform(0.5, 2, 400)
    data = _dataset(table, weight=weight).construct()
    found = objective_function(AUC)(np.zeros(400), data)
    wanted = AUC.gradient_hessian(np.zeros(400), table[1], weight)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_warm_start_goes_on_from_the_own_loss_and_predicts_the_sum(table):
    warm = train(PARAMS, _dataset(table), 4)
    both = train(PARAMS, _dataset(table), 10, objective=AUC, warm_start_rounds=4)
    features = table[0]
    start = warm.predict(features, raw_score=True)
    np.testing.assert_allclose(both.predict(features, raw_score=True, num_iteration=4), start)
    # The first ranking tree is fitted to the gradient at the warm scores: a booster that is given them grows the same.
    data = _dataset(table, init_score=start)
    alone = lgb.train({**PARAMS, "objective": objective_function(AUC)}, data, 6)
    np.testing.assert_allclose(both.predict(features, raw_score=True), start + alone.predict(features), atol=1e-6)


def test_a_warm_started_booster_is_the_same_when_loaded(table, tmp_path):
    booster = train(PARAMS, _dataset(table), 10, objective=AUC, warm_start_rounds=4)
    booster.save_model(tmp_path / "booster.txt")
    loaded = lgb.Booster(model_file=tmp_path / "booster.txt")
    for one in (loaded, lgb.Booster(model_str=booster.model_to_string())):
        np.testing.assert_array_equal(one.predict(table[0], raw_score=True), booster.predict(table[0], raw_score=True))


def test_early_stopping_keeps_the_best_round_of_both_phases(table):
    features, target = table
    criterion = Criterion("opauc", max_fpr=0.2)
    data = lgb.Dataset(features[:250], target[:250], params=PARAMS)
    valid = data.create_valid(features[250:], target[250:], params=PARAMS)
    booster = train(
        PARAMS,
        data,
        60,
        objective=AUC,
        warm_start_rounds=5,
        valid_set=valid,
        criterion=criterion,
        early_stopping_rounds=5,
    )
    course = [
        judge(criterion, booster.predict(features[250:], raw_score=True, num_iteration=k), target[250:])
        for k in range(1, booster.num_trees() + 1)
    ]
    assert booster.best_iteration == int(np.argmax(course)) + 1
    assert booster.num_trees() == max(booster.best_iteration, 5) + 5 < 60
    assert booster.best_score["valid"]["opauc"] == pytest.approx(max(course))
    best = booster.predict(features, raw_score=True, num_iteration=booster.best_iteration)
    np.testing.assert_array_equal(booster.predict(features, raw_score=True), best)


def test_the_metric_is_a_feval_of_lightgbm(table):
    data = _dataset(table)
    history = {}
    lgb.train(
        {**PARAMS, "objective": objective_function(AUC), "metric": "None"},
        data,
        3,
        valid_sets=[data.create_valid(*table, params=PARAMS)],
        valid_names=["valid"],
        feval=metric_function(Criterion("auroc")),
        callbacks=[lgb.record_evaluation(history)],
    )
    assert history["valid"]["auroc"][-1] > 0.8


def test_multiclass_auc_trains_on_from_softmax(table):
    target = np.digitize(table[0][:, 0], [-0.5, 0.5])
    data = lgb.Dataset(table[0], target, params=PARAMS)
    params = {**PARAMS, "objective": "multiclass", "num_class": 3}
    scores = [
        train(params, data, rounds, objective=AUC, warm_start_rounds=2).predict(table[0], raw_score=True)
        for rounds in (3, 8)
    ]
    assert AUC.value(scores[1], target) < AUC.value(scores[0], target)


def test_nothing_to_split_is_said_in_words():
    data = lgb.Dataset(np.ones((20, 2)), np.arange(20) % 2, params={"verbosity": -1})
    with pytest.raises(ValueError, match="no feature can be split"):
        train({"verbosity": -1}, data, 3, objective=AUC)


def test_a_validation_set_without_a_criterion_is_refused(table):
    data = _dataset(table)
    with pytest.raises(ValueError, match="come together"):
        train(PARAMS, data, 3, valid_set=data)
    with pytest.raises(ValueError, match="less than num_boost_round=3"):
        train(PARAMS, data, 3, objective=AUC, warm_start_rounds=math.ceil(2.5))


def test_a_dart_repeats_itself_whatever_memory_held_before(table):
    features, target = table
    settings = {"boosting": "dart", "drop_rate": 0.5, "seed": 1, "num_threads": 1, "deterministic": True}
    settings |= {"force_col_wise": True, "verbosity": -1}
    found = []
    for byte in (0, 255, 0, 255):
        filled = [bytes([byte]) * (64 * size + 8) for size in range(1, 400)]
        del filled
        data = lgb.Dataset(features, target, params=settings)
        booster = train(settings, data, 12, objective=RankingObjective())
        assert booster.num_trees() == 12
        found.append(booster.predict(features, raw_score=True))
        train({**settings, "boosting": "gbdt" if byte == 0 else "dart"}, lgb.Dataset(features, target), 12)
    for scores in found[1:]:
        assert (scores == found[0]).all()
    other = train({**settings, "seed": 2}, lgb.Dataset(features, target), 12, objective=RankingObjective())
    assert (other.predict(features, raw_score=True) != found[0]).any()
