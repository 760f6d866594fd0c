"""The contest: who wins, what is compared, and that nothing outside the folds is touched."""

import numpy as np
import pytest
import torch

from equipoise.ranking import Criterion
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.scores.judging import curve_metrics, multiclass_judged, threshold_table
from equipoise.workflows.tables.candidates import Candidate, objectives_for
from equipoise.workflows.tables.contest import run_contest


class _Planned:
    """A classifier whose quality is planned: the truth plus noise."""

    def __init__(self, noise):
        self.noise = noise

    def fit(self, features, target):
        return self

    def decision_function(self, features):
        truth, number = features.T
        return truth + self.noise * np.sin(7.3 * number)


@pytest.fixture
def planned(monkeypatch):
    noise = {"cross_entropy": 1.0, "auc": 0.1, "weighted_cross_entropy": 4.0}
    monkeypatch.setattr(Candidate, "estimator", lambda self, *_, **__: _Planned(noise[self.objective]))
    target = (np.arange(200) % 5 == 0).astype(np.int64)
    folds = [(np.setdiff1d(np.arange(200), rows), rows) for rows in np.arange(200).reshape(50, 4).T]
    asked = []

    def encode(kind, fit_rows, held_rows):
        asked.append((kind, len(np.intersect1d(fit_rows, held_rows))))
        columns = np.stack([target.astype(float), np.arange(200.0)], 1)
        return columns[fit_rows], columns[held_rows]

    candidates = [Candidate("mlp", name) for name in noise]
    return run_contest(candidates, folds, target, encode, Criterion("auroc"), seed=0), asked


def test_the_best_mean_wins_and_is_compared_fold_by_fold(planned):
    contest, _ = planned
    assert contest.winner.candidate.objective == "auc"
    assert contest.baseline.objective == "cross_entropy"
    baseline = next(e for e in contest.entries if e.candidate == contest.baseline)
    assert baseline.gain is None
    difference = np.mean(contest.winner.scores) - np.mean(baseline.scores)
    assert contest.winner.gain.estimate == pytest.approx(difference)


def test_the_encoding_is_fitted_once_a_fold_and_never_on_held_out_rows(planned):
    _, asked = planned
    assert asked == [("neural", 0)] * 4


def test_the_verdict_says_whether_log_loss_would_have_done(planned):
    contest, _ = planned
    assert "would not have done" in contest.verdict(Criterion("auroc"))
    close = type(contest)(contest.entries[1:], contest.baseline)
    assert "Plain log loss did best" in close.verdict(Criterion("auroc"))


def test_a_contest_needs_plain_log_loss():
    with pytest.raises(ValueError, match="cross_entropy"):
        run_contest(
            [Candidate("mlp", "auc")], [], np.zeros(1, dtype=np.int64), lambda *_: (0, 0), Criterion("auroc"), seed=0
        )


@pytest.mark.parametrize(
    ("criterion", "last"),
    [
        (Criterion("auroc"), "auc"),
        (Criterion("opauc", 0.1), "weighted_partial_auc"),
        (Criterion("tpauc", 0.1, 0.5), "weighted_partial_auc"),
        (Criterion("ovo_auroc"), "auc"),
        (Criterion("average_precision"), "average_precision"),
    ],
)
def test_objectives_aim_at_the_metric(criterion, last):
    names = objectives_for(criterion)
    assert names[0] == "cross_entropy"
    assert names[-1] == last
    assert ("two_way_partial_auc" in names) == (criterion.min_tpr is not None)


def test_what_a_user_can_mend_is_told_from_what_is_ours():
    with pytest.raises(InputError, match="wrong"), mendable():
        raise ValueError("wrong")
    with pytest.raises(InputError, match=r"pip install 'equipoise\[all\]'"), mendable():
        raise ModuleNotFoundError("x", name="x")
    with pytest.raises(ZeroDivisionError), mendable():
        _ = 1 / 0


def test_thresholds_keep_their_rates_on_the_sample_and_guarantees_are_stricter():
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(2000, generator=generator) < 0.3).long()
    scores = torch.randn(2000, generator=generator, dtype=torch.float64) + target
    table = threshold_table(
        "s", scores, target, wanted_fpr=[0.05, 1e-4], wanted_tpr=[0.9], confidence=0.95, sample="all"
    )
    fpr, tiny, tpr = table.rows
    assert fpr.guaranteed.fpr < fpr.estimated.fpr <= 0.05
    assert tpr.guaranteed.tpr > tpr.estimated.tpr >= 0.9
    assert not np.isfinite(tiny.guaranteed.threshold)
    assert tiny.guaranteed.samples_needed > 1400


def test_reported_metrics_are_named_by_their_region():
    assert list(curve_metrics(0.01, None)) == [
        "AUROC",
        "OPAUC (FPR ≤ 0.01)",
        "TPAUC (FPR ≤ 0.01, TPR ≥ 0.5)",
        "average precision",
        "TPR at FPR ≤ 0.01",
    ]


def test_a_multiclass_metric_has_an_interval_around_it():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (120,), generator=generator)
    scores = torch.randn(120, 3, generator=generator) + torch.nn.functional.one_hot(target, 3)
    criterion = Criterion("top_k_accuracy", k=1)
    found = multiclass_judged(scores, target, criterion, confidence=0.9, resamples=100, seed=0)
    assert list(found) == [
        "top-k accuracy (k = 1)",
        "one-vs-one AUROC",
        "balanced accuracy",
        "accuracy of the worst class",
    ]
    assert all(0.4 < value.low < value.estimate < value.high < 1 for value in found.values())
    hits = scores.argmax(1) == target
    recalls = torch.stack([hits[target == c].double().mean() for c in range(3)])
    assert found["top-k accuracy (k = 1)"].estimate == pytest.approx(float(hits.double().mean()))
    assert found["balanced accuracy"].estimate == pytest.approx(float(recalls.mean()))
    assert found["accuracy of the worst class"].estimate == pytest.approx(float(recalls.min()))


def test_a_multiclass_interval_of_groups_is_that_of_their_number():
    generator = torch.Generator().manual_seed(0)
    member = torch.arange(15).repeat_interleave(20)
    target = member % 3
    scores = torch.randn(15, 3, generator=generator)[member] + torch.nn.functional.one_hot(target, 3)
    criterion = Criterion("top_k_accuracy", k=1)
    widths = []
    for groups in (None, member):
        found = multiclass_judged(scores, target, criterion, groups=groups, confidence=0.9, resamples=100, seed=0)
        value = found["top-k accuracy (k = 1)"]
        widths.append(value.high - value.low)
    assert widths[1] > 2 * widths[0]
