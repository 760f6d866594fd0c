"""Every estimator with every objective: scikit-learn's conventions, and what users expect of a fit beyond them."""

import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from equipoise.estimators import EquipoiseClassifier, LightGBMRankingClassifier, XGBoostRankingClassifier
from equipoise.estimators.boosting import OWN_LOSSES, RANKING_OBJECTIVES
from equipoise.ranking import Criterion
from equipoise.training import OBJECTIVES

_BOUNDS = {"max_fpr": 0.3, "min_tpr": 0.2}
_ROUNDS = {"n_estimators": 8, "learning_rate": 0.3, "n_jobs": 1, "random_state": 0}


def _network(objective, **settings):
    small = {"hidden": (8,), "epochs": 5, "batch_size": 64, "learning_rate": 0.02, "random_state": 0}
    return EquipoiseClassifier(objective, **{**small, **settings})


def _lightgbm(objective, **settings):
    leaves = {"num_leaves": 7, "min_data_in_leaf": 2}
    return LightGBMRankingClassifier(objective, booster_params=leaves, **{**_ROUNDS, **settings})


def _xgboost(objective, **settings):
    depth = {"max_depth": 3, "min_child_weight": 0.01}
    return XGBoostRankingClassifier(objective, booster_params=depth, **{**_ROUNDS, **settings})


def _bounds(objective):
    declared = OBJECTIVES[objective]
    return {name: bound for name, bound in _BOUNDS.items() if getattr(declared, f"needs_{name}")}


OFFERED = [
    *((_network, name) for name in OBJECTIVES),
    *((make, name) for make in (_lightgbm, _xgboost) for name in (*OWN_LOSSES, *RANKING_OBJECTIVES)),
]
IDS = [f"{make.__name__[1:]}-{name}" for make, name in OFFERED]
# What batches and folds are dealt are rows; without either, the tests below hold weights to be repeated rows.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "batches and folds hold rows, of which repeated ones are several"
}
FAST = {"network-auc", "lightgbm-auc", "xgboost-auc"}


@pytest.fixture(params=OFFERED, ids=IDS)
def offered(request):
    """An unfitted estimator and the number of its classes."""
    make, objective = request.param
    return make(objective, **_bounds(objective)), 2 if OBJECTIVES[objective].binary else 3


def _data(classes, rows=160, seed=0):
    """Features (rows, 4) that float32 holds exactly, and class indices with noise in them."""
    random = np.random.RandomState(seed)
    features = random.randn(rows, 4).astype(np.float32).astype(np.float64)
    order = (features[:, 0] + 0.5 * features[:, 1] + 0.3 * random.randn(rows)).argsort().argsort()
    return features, order * classes // rows


def _state():
    return torch.random.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state())  # noqa: NPY002


@pytest.mark.parametrize(
    ("make", "objective"),
    [pytest.param(*o, id=i, marks=() if i in FAST else pytest.mark.slow) for o, i in zip(OFFERED, IDS, strict=True)],
)
def test_scikit_learn_accepts_it(make, objective, plain_inputs):
    model = make(objective, **_bounds(objective))
    results = check_estimator(model, on_skip=None, on_fail=None, expected_failed_checks=EXPECTED)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    if not OBJECTIVES[objective].binary:
        # scikit-learn has no tag for "more than two classes only", and many checks fit two.
        failed = {name: why for name, why in failed.items() if "is for several classes, got 2" not in why}
    assert not failed


def test_it_says_honestly_how_many_classes_it_takes(offered, plain_inputs):
    model, _ = offered
    declared = model.__sklearn_tags__().classifier_tags.multi_class
    assert declared == OBJECTIVES[model.objective].multiclass
    features, target = _data(3)
    if declared:
        assert model.fit(features, target).decision_function(features).shape == (160, 3)
    else:
        with pytest.raises(ValueError, match=f"Only binary .* {model.objective!r} is for two classes, got 3"):
            model.fit(features, target)


def test_a_refit_is_a_first_fit_also_after_other_data(offered):
    model, classes = offered
    features, target = _data(classes)
    first = model.fit(features, target).decision_function(features)
    np.testing.assert_array_equal(model.fit(features, target).decision_function(features), first)
    model.fit(*_data(classes, rows=120, seed=1))
    np.testing.assert_array_equal(model.fit(features, target).decision_function(features), first)


def test_a_clone_with_other_settings_and_a_pickle_behave_as_the_original(offered):
    model, classes = offered
    features, target = _data(classes)
    model.fit(features, target)
    scores = model.decision_function(features)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(features), scores)
    copy = clone(model).set_params(random_state=1)
    assert copy.get_params() == {**model.get_params(), "random_state": 1}
    assert not np.array_equal(copy.fit(features, target).decision_function(features), scores)
    copy.set_params(random_state=0).fit(features, target)
    np.testing.assert_array_equal(copy.decision_function(features), scores)


def test_the_callers_random_state_and_data_are_left_alone(offered):
    model, classes = offered
    features, target = _data(classes)
    before, kept = _state(), deepcopy((features, target))
    model.fit(features, target).predict_proba(features)
    assert _state() == before
    np.testing.assert_array_equal(features, kept[0])
    np.testing.assert_array_equal(target, kept[1])


@pytest.mark.parametrize("kind", ["pandas", "polars", "float32"])
def test_tables_and_single_precision_give_the_same_model(offered, kind):
    model, classes = offered
    features, target = _data(classes)
    expected = model.fit(features, target).predict_proba(features)
    names = ["a", "b", "c", "d"]
    if kind == "pandas":
        given = pd.DataFrame(features, columns=names)
    elif kind == "polars":
        given = pytest.importorskip("polars").DataFrame(features, schema=names)
    else:
        given = features.astype(np.float32)
    found = model.fit(given, target).predict_proba(given)
    np.testing.assert_allclose(found, expected, atol=1e-6 if kind == "float32" else 0)
    if kind != "float32":
        assert model.feature_names_in_.tolist() == names


@pytest.mark.parametrize("labels", [["b", "a", "c"], [True, False]], ids=["strings", "booleans"])
def test_labels_come_back_as_they_were(offered, labels):
    model, classes = offered
    if classes > len(labels):
        pytest.skip("two labels are too few for the objective")
    features, target = _data(classes)
    given = np.array(labels[:classes])[target]
    model.fit(features, given)
    assert model.classes_.dtype == given.dtype
    assert model.classes_.tolist() == sorted(labels[:classes])
    assert model.predict(features).dtype == given.dtype
    assert (model.predict(features) == given).mean() > 1 / classes


def test_one_class_is_refused_in_a_sentence(offered, plain_inputs):
    model, _ = offered
    with pytest.raises(ValueError, match=r"needs at least (two|2) classes, .* (one|1) class"):
        model.fit(_data(2)[0], np.zeros(160, dtype=int))


_NUMPY = {
    "max_fpr": np.float32(0.5),
    "min_tpr": np.float32(0.25),
    "learning_rate": np.float32(0.125),
    "validation_fraction": np.float16(0.25),
    "random_state": np.int64(3),
}
_OF_NETWORK = {
    "hidden": np.array([8, 4]),
    "dropout": np.float32(0.25),
    "weight_decay": np.float64(0.5),
    "epochs": np.int64(4),
    "batch_size": np.int32(64),
    "positive_rate": np.float32(0.5),
    "patience": np.uint8(2),
    "progress": np.False_,
}
_OF_BOOSTER = {
    "margin": np.float32(0.5),
    "widening": np.float32(1.5),
    "warm_start_rounds": np.int64(2),
    "n_estimators": np.int16(6),
    "early_stopping_rounds": np.int64(3),
    "n_jobs": np.int64(1),
}


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
def test_numpy_numbers_are_settings_like_pythons(make, tmp_path, plain_inputs):
    given = {**_NUMPY, **(_OF_NETWORK if make is _network else _OF_BOOSTER)}
    features, target = _data(2)
    scores = []
    for settings in (given, {name: value.tolist() for name, value in given.items()}):
        model = make("two_way_partial_auc", **settings)
        if make is not _network:
            model.set_params(booster_params={"max_depth": np.int64(3), "reg_lambda": np.float32(0.5)})
        model.fit(features, target).save(tmp_path)
        scores.append(type(model).load(tmp_path).decision_function(features))
        np.testing.assert_array_equal(scores[-1], model.decision_function(features))
    np.testing.assert_array_equal(*scores)
    top = {"metric": "top_k_accuracy", "k": np.int64(2)}
    assert make("cross_entropy", **top).fit(*_data(3)).decision_function(features).shape == (160, 3)


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
def test_saving_writes_all_or_nothing(make, tmp_path):
    features, target = _data(2)
    labels = np.array([object(), "b"], dtype=object)
    labels[0] = np.datetime64("2020-01-01", "D").item()
    model = make("cross_entropy").fit(features, target)
    model.save(tmp_path / "good")
    before = {file.name: file.read_bytes() for file in (tmp_path / "good").iterdir()}
    model.classes_ = labels
    for folder in ("new", "good"):
        with pytest.raises((ValueError, TypeError)):
            model.save(tmp_path / folder)
    assert [file.name for file in tmp_path.iterdir()] == ["good"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "good").iterdir()} == before


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
def test_few_rare_rows_are_all_trained_on_by_default(make, plain_inputs):
    """Nothing is held out where a class has fewer than 50 rows, a fifth where none has, and nothing by 0 or None."""
    features = _data(2)[0]

    def scores(rare, **settings):
        return make("auc", **settings).fit(features, np.arange(160) < rare).decision_function(features)

    for nothing in (0, 0.0, None):
        np.testing.assert_array_equal(scores(49), scores(49, validation_fraction=nothing))
        assert not np.array_equal(scores(50), scores(50, validation_fraction=nothing))
    np.testing.assert_array_equal(scores(50), scores(50, validation_fraction=0.2))
    for wrong in (1.0, -0.1, "some"):
        with pytest.raises(ValueError, match="validation_fraction"):
            scores(50, validation_fraction=wrong)


_TIMES = np.random.RandomState(0).randint(0, 4, 160)


def _weighs(model):
    return not isinstance(model, EquipoiseClassifier) or OBJECTIVES[model.objective].weighs_samples


def _without_batches(model):
    """Settings under which no part of a fit is dealt rows."""
    if isinstance(model, EquipoiseClassifier):
        return model.set_params(model="linear", batch_size=10_000, validation_fraction=0, calibration=None)
    model.set_params(validation_fraction=0, calibration=None)
    if isinstance(model, LightGBMRankingClassifier):
        # Weights are no repeated rows in LightGBM's own counts: those of a bin, by which its edges are drawn unless one
        # row is enough, and those of a leaf, which are added up over bins, each guessed from its Hessian and rounded.
        # Where a bin holds a row or two, the rows that are left over fall below 0, and splits are not tried; with many
        # rows in a bin and a least Hessian the guess never comes into it.
        counted = {"min_data_in_leaf": 0, "min_data_in_bin": 1, "min_sum_hessian_in_leaf": 5.0}
        return model.set_params(booster_params={"num_leaves": 4, **counted})
    return model


def _centred(model, features):
    """Scores less their mean, which a loss of pairs leaves to the rounding of the optimizer's steps."""
    scores = model.decision_function(features)
    return scores - scores.mean(0)


def test_a_weight_of_two_is_a_row_given_twice(offered):
    model, classes = offered
    if not _weighs(model):
        pytest.skip("the objective takes no weights")
    _without_batches(model)
    for seed in range(5):
        features, target = _data(classes, seed=seed)
        features, times = np.round(2 * features) / 2, np.random.RandomState(seed).randint(0, 4, 160)
        found = _centred(model.fit(features, target, sample_weight=times), features)
        repeated = _centred(model.fit(features.repeat(times, 0), target.repeat(times)), features)
        np.testing.assert_allclose(found, repeated, rtol=1e-3, atol=1e-4, err_msg=f"seed {seed}")
        # Weights matter, by ten times what is let pass.
        assert np.abs(found - _centred(model.fit(features, target), features)).max() > 1e-3


def test_a_row_without_weight_is_as_if_it_were_not_there(offered):
    model, classes = offered
    if not _weighs(model):
        pytest.skip("the objective takes no weights")
    features, target = _data(classes)
    kept = _TIMES > 0
    found = model.fit(features, target, sample_weight=_TIMES).predict_proba(features)
    alone = model.fit(features[kept], target[kept], sample_weight=_TIMES[kept]).predict_proba(features)
    np.testing.assert_array_equal(found, alone)


def test_an_objective_without_weights_says_which_have_them(offered, plain_inputs):
    model, classes = offered
    if _weighs(model):
        pytest.skip("the objective takes weights")
    features, target = _data(classes)
    with pytest.raises(ValueError, match=f"{model.objective!r} takes no sample_weight; .* use 'cross_entropy'.*'auc'"):
        model.fit(features, target, sample_weight=np.ones(160))


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(159), "inconsistent"),
        (np.ones((160, 1)), r"shape \(n,\), got \(160, 1\)"),
        (np.r_[-1.0, np.ones(159)], "sample_weight must be at least 0, got -1"),
        (np.r_[np.nan, np.ones(159)], "sample_weight contains NaN"),
        (np.zeros(160), "sample_weight is zero for every row"),
        (_data(2)[1], "at least (two|2) classes"),
    ],
)
def test_weights_that_are_none_are_refused(make, weight, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make("auc").fit(*_data(2), sample_weight=weight)


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
def test_weights_reach_early_stopping_and_calibration(make, monkeypatch):
    features, target = _data(2)
    weight = np.random.RandomState(0).rand(160) + 0.1
    seen = []
    judge = Criterion.__call__

    def noted(self, scores, target, sample_weight=None):
        seen.append(sample_weight)
        return judge(self, scores, target, sample_weight)

    monkeypatch.setattr(Criterion, "__call__", noted)
    model = make("auc", validation_fraction=0.25).fit(features, target, sample_weight=weight)
    assert seen
    for given in seen:
        assert len(given) == 40
        assert np.isin(np.round(given.numpy(), 6), np.round(weight, 6)).all()
    # Log-odds of the held-out rows mean their weighted share of positives, up to the smoothing.
    heavy = make("auc", validation_fraction=0.25).fit(features, target, sample_weight=np.where(target, 20.0, 1.0))
    assert heavy.predict_proba(features)[:, 1].mean() > model.predict_proba(features)[:, 1].mean() + 0.05


def test_an_optimizer_or_loss_without_weights_is_named(plain_inputs):
    data = _data(2)
    with pytest.raises(ValueError, match="optimizer='sam' takes no sample_weight"):
        _network("cross_entropy", optimizer="sam").fit(*data, sample_weight=np.ones(160))
    with pytest.raises(ValueError, match="loss _Scaled takes no sample_weight"):
        _network(_Scaled()).fit(*data, sample_weight=np.ones(160))


class _Weighted(torch.nn.Module):
    """Log loss of weighted samples."""

    def forward(self, logits, target, sample_weight=None):
        losses = torch.nn.functional.softplus(-(2.0 * target - 1) * logits)
        return losses.mean() if sample_weight is None else (losses * sample_weight).sum() / sample_weight.sum()


def test_a_loss_of_ones_own_may_take_weights():
    features, target = _data(2)
    own, ours = (_without_batches(_network(loss)) for loss in (_Weighted(), "cross_entropy"))
    scores = [m.fit(features, target, sample_weight=_TIMES).decision_function(features) for m in (own, ours)]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-5)


def _rare(rows, seed):
    """Features (rows, 5) and labels of which about 2 % are 1."""
    random = np.random.RandomState(seed)
    features = random.randn(rows, 5)
    log_odds = -5.2 + 1.2 * features[:, 0] + 0.8 * features[:, 1] * features[:, 2] + 0.6 * features[:, 3]
    return features, (random.rand(rows) < 1 / (1 + np.exp(-log_odds))).astype(int)


def _default(make):
    if make is _network:
        return EquipoiseClassifier("auc", epochs=10, random_state=0)
    kind = LightGBMRankingClassifier if make is _lightgbm else XGBoostRankingClassifier
    return kind("auc", n_estimators=60, n_jobs=1, random_state=0)


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
def test_probabilities_of_a_rare_class_are_calibrated_out_of_fold(make):
    """The mean probability of new rows is the share of the class, where training scores make it far too small."""
    model, fresh = _default(make), _rare(10_000, 99)[0]
    tables = [_rare(1200, seed) for seed in range(5)]

    def share(model, features, target):
        assert 10 < target.sum() < 50
        return model.fit(features, target).predict_proba(fresh)[:, 1].mean() / target.mean()

    ratios = [share(model, *table) for table in tables]
    features, target = tables[-1]
    found = model.predict_proba(fresh)[:, 1]
    raw = clone(model).set_params(calibration=None).fit(features, target).decision_function(fresh)
    assert (np.diff(found[raw.argsort(kind="stable")]) >= 0).all()
    if make is _lightgbm:
        sure = clone(model).set_params(calibration="held_out")
        with pytest.warns(UserWarning, match="on training scores and will be too sure: calibration='held_out'"):
            shares = [share(sure, *table) for table in tables]
        assert np.mean(shares) < 0.8
    assert np.mean(ratios) == pytest.approx(1, abs=0.2)
    assert max(ratios) < 1.6 > 1 / min(ratios)


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
@pytest.mark.parametrize(
    ("settings", "rare", "fits"),
    [
        ({}, 20, 6),
        ({}, 3, 4),
        ({}, 50, 1),
        ({"calibration": None}, 20, 1),
        ({"calibration": "held_out", "validation_fraction": 0.25}, 20, 1),
        ({"validation_fraction": 0.25}, 20, 1),
    ],
)
def test_out_of_fold_costs_a_fit_a_fold_and_is_done_only_where_it_is_needed(make, settings, rare, fits, monkeypatch):
    model, calls = make("auc", **settings), []
    train = type(model)._train
    monkeypatch.setattr(type(model), "_train", lambda self, *data: calls.append(data[0]) or train(self, *data))
    model.fit(_data(2)[0], np.arange(160) < rare)
    assert len(calls) == fits
    folds = [len(part.target) for part in calls[1:]]
    assert sum(folds) == (len(folds) - 1) * 160 if folds else True


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
def test_calibration_is_impossible_out_of_fold_of_one_row_and_none_is_none(make, tmp_path, plain_inputs):
    features = _data(2)[0]
    model = make("auc", **({"batch_size": 160} if make is _network else {}))
    with pytest.warns(UserWarning, match="training scores and will be too sure: a class has one row"):
        probabilities = model.fit(features, np.arange(160) < 1).predict_proba(features)
    assert np.isfinite(probabilities).all()
    raw = make("auc", calibration=None).fit(features, np.arange(160) < 20)
    scores = raw.decision_function(features)
    np.testing.assert_allclose(raw.predict_proba(features)[:, 1], 1 / (1 + np.exp(-scores)), rtol=1e-6)
    raw.save(tmp_path)
    loaded = type(raw).load(tmp_path)
    assert loaded.calibration is None
    np.testing.assert_array_equal(loaded.decision_function(features), scores)
    with pytest.raises(ValueError, match="calibration='isotonic'"):
        make("auc", calibration="isotonic").fit(features, np.arange(160) < 20)


class _Scaled(torch.nn.Module):
    """Log loss with a temperature that is trained along."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(1.0))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, logits, target):
        self.steps += 1
        return torch.nn.functional.softplus(-(2.0 * target - 1) * logits * self.rate).mean()


def test_a_loss_of_ones_own_is_not_trained_in_place():
    loss = _Scaled()
    model, (features, target) = _network(loss), _data(2)
    first = model.fit(features, target).decision_function(features)
    assert model.objective is loss
    assert (loss.rate.item(), loss.steps.item(), loss.training) == (1.0, 0, True)
    np.testing.assert_array_equal(model.fit(features, target).decision_function(features), first)
