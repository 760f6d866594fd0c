"""Every estimator with every objective: scikit-learn's conventions, and what users expect of a fit beyond them."""

import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import has_fit_parameter

from equipoise.estimators import EquipoiseClassifier, LightGBMRankingClassifier, XGBoostRankingClassifier
from equipoise.estimators.boosting import OWN_LOSSES, RANKING_OBJECTIVES
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
    results = check_estimator(model, on_skip=None, on_fail=None)
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


@pytest.mark.parametrize("make", [_network, _lightgbm, _xgboost])
def test_sample_weights_are_not_swallowed(make):
    model, (features, target) = make("auc"), _data(2)
    assert not has_fit_parameter(model, "sample_weight")
    with pytest.raises(TypeError, match="sample_weight"):
        model.fit(features, target, sample_weight=np.ones(160))


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
