"""What `fit` trains: no contender is cross-fitted for an order of scores, and the model that is kept is calibrated."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from equipoise.core.calibration import fit_platt
from equipoise.data import make_encoder
from equipoise.estimators import network_classifier
from equipoise.ranking import Criterion
from equipoise.workflows.tables.candidates import Candidate
from equipoise.workflows.tables.contest import run_contest
from equipoise.workflows.tables.fit import fit_table
from equipoise.workflows.tables.model_folder import FittedModel
from equipoise.workflows.tables.request import FitRequest


def _frame(rows, seed, classes=2):
    """Few rows of the rarest class, so that none is held out."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 2))
    cuts = [0.8] if classes == 2 else [-0.5, 0.9]
    return pd.DataFrame(x, columns=["a", "b"]).assign(y=np.digitize(x[:, 0] + random.normal(size=rows), cuts))


@pytest.fixture
def trained(monkeypatch):
    """Rows of every network that is trained, in order."""
    train, rows = network_classifier.fit_module, []

    def counted(network, loss, features, *rest, **settings):
        rows.append(len(features))
        return train(network, loss, features, *rest, **settings)

    monkeypatch.setattr(network_classifier, "fit_module", counted)
    return rows


def test_only_the_model_that_is_kept_is_cross_fitted_and_its_probabilities_are_calibrated(trained, tmp_path):
    _frame(160, 0).to_csv(tmp_path / "rows.csv", index=False)
    request = FitRequest(
        target="y", models=["linear"], objective="auc", compare=["auc"], folds=2, output=tmp_path / "out"
    )
    outcome = fit_table(tmp_path / "rows.csv", request)
    # Three objectives on two folds; then the one asked for with five folds of its own, and plain log loss.
    assert trained[:6] == [64] * 6
    assert trained[6] == trained[12] == 128
    assert len(trained) == 13
    assert sorted(trained[7:12]) == [102, 102, 102, 103, 103]
    model = FittedModel.load(outcome.folder)
    assert model.candidate == Candidate("linear", "auc")
    new = _frame(4000, 1)
    features = model.encoder.transform(new[["a", "b"]])
    scores = torch.from_numpy(model.estimator.decision_function(features))
    target = torch.from_numpy(new["y"].to_numpy())
    scale, offset = fit_platt(scores, target)
    found, best = (binary_cross_entropy(s.sigmoid(), target.double()) for s in (scores, scale * scores + offset))
    # A mean over pairs does not know where scores lie; 128 rows do, within the error of so many.
    assert float(found - best) < 0.02
    bare = model.estimator.calibration_
    raw = (scores - float(bare[1][0])) / bare[0]
    assert float(binary_cross_entropy(raw.sigmoid(), target.double()) - best) > 0.04


@pytest.mark.parametrize(
    ("metric", "objective", "trainings"),
    [
        ("ovo_auroc", "auc", 1),
        ("ovr_auroc", "cross_entropy", 1),
        ("balanced_accuracy", "weighted_cross_entropy", 1),
        ("top_k_accuracy", "autkc", 1),
        ("balanced_accuracy", "cross_entropy", 6),
        ("top_k_accuracy", "cross_entropy", 6),
        ("worst_class_accuracy", "auc", 6),
    ],
)
def test_a_contender_is_calibrated_where_offsets_of_classes_change_what_it_is_judged_by(
    trained, metric, objective, trainings
):
    frame = _frame(120, 0, classes=3)
    features = np.asarray(make_encoder("neural").fit_transform(frame[["a", "b"]]))
    target = frame["y"].to_numpy()
    criterion = Criterion(metric, k=1 if metric == "top_k_accuracy" else None)
    estimators = [
        Candidate("linear", objective).estimator(criterion, 0, probabilities=kept).set_params(epochs=3)
        for kept in (False, True)
    ]
    bare, calibrated = (estimator.fit(features, target).decision_function(features) for estimator in estimators)
    assert len(trained) == trainings + 6
    found = [float(criterion(torch.from_numpy(scores), torch.from_numpy(target))) for scores in (bare, calibrated)]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_the_contest_asks_for_no_probabilities(monkeypatch):
    asked = []

    class Constant:
        def fit(self, features, target):
            return self

        def decision_function(self, features):
            return np.zeros(len(features))

    def estimator(self, criterion, seed, *, probabilities=True):
        asked.append(probabilities)
        return Constant()

    monkeypatch.setattr(Candidate, "estimator", estimator)
    rows, target = np.arange(8), np.arange(8) % 2
    run_contest(
        [Candidate("mlp", "cross_entropy")],
        [(rows[:4], rows[4:]), (rows[4:], rows[:4])],
        target,
        lambda kind, train, held_out: (np.zeros((len(train), 1)), np.zeros((len(held_out), 1))),
        Criterion("auroc"),
        seed=0,
    )
    assert asked == [False, False]
