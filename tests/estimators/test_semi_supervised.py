"""The classifier for few labels: scikit-learn's conventions, tables, signals and images, and what marks no label."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_moons
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from equipoise.estimators import SemiSupervisedClassifier
from equipoise.semisup import METHODS

SMALL = {"steps": 40, "batch_size": 16, "learning_rate": 0.1, "random_state": 0}


def _moons(labels=6, n=240):
    x, y = make_moons(n, noise=0.1, random_state=0)
    few = np.full(n, -1)
    for label in (0, 1):
        few[np.flatnonzero(y == label)[:labels]] = label
    return x, y, few


@pytest.mark.slow
@pytest.mark.parametrize("mark", [-1, "none"])
def test_scikit_learn_accepts_it(mark, plain_inputs):
    model = SemiSupervisedClassifier(**{**SMALL, "steps": 60}, unlabelled=mark)
    results = check_estimator(model, on_skip=None, on_fail=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    if mark == -1:
        # It calls one of two classes −1.
        assert "got one class" in failed.pop("check_classifiers_classes")
    assert not failed


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_a_table(method):
    x, y, few = _moons()
    model = SemiSupervisedClassifier(method, **SMALL, settings={"unlabelled_weight": 0.5}).fit(x, few)
    assert (model.predict(x) == y).mean() > 0.8
    probabilities = model.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(probabilities[:, 1] > 0.5, model.decision_function(x) > 0)


def test_unlabelled_samples_help_where_they_should():
    """Two digits with two labels each: more is right with the other samples than without."""
    digits = load_digits(n_class=4)
    images, y = (digits.images / 16)[:, None], digits.target
    few = np.full(len(y), -1)
    for label in range(4):
        few[np.flatnonzero(y == label)[:2]] = label
    settings = {**SMALL, "steps": 60, "settings": {"threshold": 0.8, "ratio": 3}}
    accuracy = {
        method: (SemiSupervisedClassifier(method, **settings).fit(images, few).predict(images) == y).mean()
        for method in ("maxmatch", "supervised")
    }
    assert accuracy["maxmatch"] > accuracy["supervised"]


@pytest.mark.parametrize("shape", [(5,), (2, 30), (1, 8, 10)])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_tables_signals_and_images_come_as_arrays_or_tensors(shape, kind, tmp_path):
    random = np.random.default_rng(0)
    x = random.random((60, *shape)).astype(np.float32)
    y = np.where(np.arange(60) < 12, np.arange(60) % 3, -1)
    model = SemiSupervisedClassifier(**{**SMALL, "steps": 3}).fit(kind(x), kind(y))
    assert model.decision_function(kind(x)).shape == (60, 3)
    assert model.input_shape_ == shape
    model.save(tmp_path / "model")
    loaded = SemiSupervisedClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))
    with pytest.raises(ValueError, match=r"features|shape"):
        model.predict(x[:, :1] if len(shape) == 1 else x[..., :5])


@pytest.mark.parametrize(
    ("labels", "mark"),
    [
        (["b", "a"], "?"),
        (["b", "a"], -1),
        ([True, False], -1),
        ([2.0, 1.0], -1),
        ([-1, 1], 0),
    ],
)
def test_labels_come_back_and_a_mark_is_no_label(labels, mark):
    x, y, few = _moons()
    given = np.array([mark if code < 0 else labels[code] for code in few], dtype=object)
    columns = [given] if isinstance(labels[0], bool) else [given, np.array(given.tolist())]
    for column in columns:
        model = SemiSupervisedClassifier(**SMALL, unlabelled=mark).fit(x, column)
        assert [str(label) for label in model.classes_] == sorted(str(label) for label in labels)
        assert (model.predict(x).astype(str) == np.array(labels)[y].astype(str)).mean() > 0.75


def test_a_refit_and_a_clone_are_a_first_fit_and_state_is_left_alone():
    x, _, few = _moons()
    state, kept = torch.get_rng_state(), x.copy()
    model = SemiSupervisedClassifier(**SMALL)
    first = model.fit(x, few).decision_function(x)
    np.testing.assert_array_equal(model.fit(x, few).decision_function(x), first)
    np.testing.assert_array_equal(clone(model).fit(x, few).decision_function(x), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(x), first)
    assert not np.array_equal(clone(model).set_params(random_state=1).fit(x, few).decision_function(x), first)
    assert torch.get_rng_state().equal(state)
    np.testing.assert_array_equal(x, kept)


def test_a_network_and_views_of_ones_own_are_used_and_left_alone(tmp_path, plain_inputs):
    x, y, few = _moons()
    calls = []

    def view(batch, generator):
        calls.append(len(batch))
        return batch + 0.1 * torch.randn(batch.shape, generator=generator)

    with torch.random.fork_rng():
        network = nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    before = network[0].weight.detach().clone()
    model = SemiSupervisedClassifier(network=network, weak=view, strong=view, **SMALL).fit(x, few)
    assert calls
    assert network[0].weight.equal(before)
    assert (model.predict(x) == y).mean() > 0.75
    with pytest.raises(ValueError, match="network of its own cannot be saved"):
        model.save(tmp_path / "model")


def test_a_fit_goes_on_from_its_checkpoint_and_no_other(tmp_path):
    x, _, few = _moons()
    model = SemiSupervisedClassifier(**SMALL, checkpoint_folder=tmp_path)
    first = model.fit(x, few).decision_function(x)
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    np.testing.assert_array_equal(model.fit(x, few).decision_function(x), first)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == written
    model.fit(x + 1e-3, few)
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_array_equal(SemiSupervisedClassifier(**SMALL).fit(x, few).decision_function(x), first)


@pytest.mark.parametrize(
    ("changes", "labels", "message"),
    [
        ({}, np.full(240, -1), "no labels"),
        ({}, np.where(np.arange(240) < 5, 1, -1), "needs at least two classes, got one class"),
        ({"method": "mixmatch"}, None, "method='mixmatch'"),
        ({"steps": 0}, None, "steps=0"),
        ({"settings": {"threshold": 2.0}}, None, "threshold"),
        ({"learning_rate": -1.0}, None, "learning_rate"),
    ],
)
def test_bad_settings_and_labels_are_refused(changes, labels, message, plain_inputs):
    x, _, few = _moons()
    with pytest.raises(ValueError, match=message):
        SemiSupervisedClassifier(**{**SMALL, **changes}).fit(x, few if labels is None else labels)
    with pytest.raises(ValueError, match="network"):
        SemiSupervisedClassifier(**SMALL, weak=len, strong=len).fit(np.zeros((4, 1, 2, 2, 2)), [0, 1, -1, -1])
