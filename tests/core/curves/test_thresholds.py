"""Thresholds keep the wanted rate on the sample, and the guaranteed ones on new data as often as they promise."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from equipoise.core.curves.thresholds import (
    guaranteed_threshold,
    guaranteed_threshold_at_tpr,
    threshold_at_fpr,
    threshold_at_tpr,
)


def _rate(scores, value):
    return float((scores > value).double().mean())


@pytest.mark.parametrize("share", [0.01, 0.1, 0.29, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_the_plug_in_fpr_is_kept_and_the_next_lower_score_would_break_it(share, levels):
    scores = torch.randint(levels, (100,), generator=torch.Generator().manual_seed(0)).double()
    cut = threshold_at_fpr(scores, share)
    assert cut.rate == _rate(scores, cut.value) <= share + 1e-12
    lower = scores[scores < cut.value]
    if len(lower):
        assert _rate(scores, float(lower.max())) > share


@pytest.mark.parametrize("share", [0.01, 0.1, 0.71, 0.999, 1.0])
@pytest.mark.parametrize("levels", [3, 50, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_plug_in_tpr_is_kept_and_the_next_higher_score_would_break_it(share, levels, dtype):
    scores = torch.randint(levels, (100,), generator=torch.Generator().manual_seed(0)).to(dtype)
    cut = threshold_at_tpr(scores, share)
    assert cut.rate == _rate(scores, cut.value) >= share - 1e-12
    assert _rate(scores, float(scores[scores > cut.value].min())) < share


def test_29_percent_of_a_hundred_are_29():
    assert threshold_at_fpr(torch.arange(100.0), 0.29).rate == 0.29
    assert threshold_at_tpr(torch.arange(100.0), 1 - 0.29).rate == 0.71


def test_a_wanted_fpr_of_one_lets_everything_through():
    scores = torch.tensor([1.0, 1.0, 2.0])
    for cut in (threshold_at_fpr(scores, 1.0), guaranteed_threshold(scores, 1.0)):
        assert cut.value == -math.inf
        assert cut.rate == 1.0


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("n", [1, 30, 59, 299, 1000, 20_000])
def test_the_order_is_the_largest_whose_binomial_tail_is_small_enough(n, share, confidence):
    cut = guaranteed_threshold(torch.arange(n, dtype=torch.float64), share, confidence)
    orders = np.arange(1, n + 1)
    allowed = orders[stats.binom.cdf(orders - 1, n, share) <= 1 - confidence]
    if len(allowed) == 0:
        assert cut.value == math.inf
        assert not cut.finite
        assert n < cut.samples_needed
    else:
        assert cut.value == n - allowed.max()
        assert n >= cut.samples_needed


@pytest.mark.parametrize(("share", "confidence", "needed"), [(0.05, 0.95, 59), (0.01, 0.95, 299), (0.5, 0.75, 2)])
def test_the_sample_needed_is_the_first_that_suffices(share, confidence, needed):
    assert guaranteed_threshold(torch.arange(1.0, needed), share, confidence).value == math.inf
    enough = guaranteed_threshold(torch.arange(float(needed)), share, confidence)
    assert enough.samples_needed == needed
    assert enough.value == needed - 1
    positives = guaranteed_threshold_at_tpr(torch.arange(float(needed)), 1 - share, confidence)
    assert positives.samples_needed == needed
    assert positives.rate == 1.0
    assert positives.finite


@pytest.mark.parametrize("levels", [None, 8])
def test_the_guaranteed_fpr_holds_as_often_as_promised_where_the_plug_in_fails_half_of_the_time(levels):
    generator = torch.Generator().manual_seed(3)
    n, share, trials = 400, 0.1, 500
    broken = {"plug-in": 0, "guaranteed": 0}
    for _ in range(trials):
        scores = torch.rand(n, generator=generator, dtype=torch.float64)
        if levels:
            scores = (scores * levels).floor() / levels
        for name, cut in (
            ("plug-in", threshold_at_fpr(scores, share)),
            ("guaranteed", guaranteed_threshold(scores, share, confidence=0.9)),
        ):
            true_fpr = 1 - cut.value if levels is None else 1 - (math.floor(cut.value * levels) + 1) / levels
            broken[name] += true_fpr > share + 1e-12
    slack = 3 * math.sqrt(0.1 * 0.9 / trials)
    assert broken["guaranteed"] / trials <= 0.1 + slack
    if levels is None:
        assert broken["guaranteed"] / trials >= 0.1 - 0.03 - slack  # exact up to the step of one order
        assert broken["plug-in"] / trials > 0.4


def test_the_guaranteed_tpr_holds_as_often_as_promised():
    generator = torch.Generator().manual_seed(4)
    trials, broken = 500, 0
    for _ in range(trials):
        scores = torch.rand(200, generator=generator, dtype=torch.float64)
        broken += 1 - guaranteed_threshold_at_tpr(scores, 0.8, confidence=0.9).value < 0.8
    slack = 3 * math.sqrt(0.1 * 0.9 / trials)
    assert 0.1 - 0.03 - slack <= broken / trials <= 0.1 + slack


def test_more_confidence_cuts_higher_for_fpr_and_lower_for_tpr():
    scores = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    fpr = [guaranteed_threshold(scores, 0.05, c).value for c in (0.5, 0.9, 0.99)]
    tpr = [guaranteed_threshold_at_tpr(scores, 0.95, c).value for c in (0.5, 0.9, 0.99)]
    assert fpr == sorted(fpr)
    assert tpr == sorted(tpr, reverse=True)
    assert fpr[0] >= threshold_at_fpr(scores, 0.05).value


def test_a_tpr_of_one_cannot_be_promised():
    cut = guaranteed_threshold_at_tpr(torch.arange(10.0), 1.0)
    assert cut.value == -math.inf
    assert cut.samples_needed is None


def test_ten_million_negatives_are_no_trouble():
    n = 10_000_000
    cut = guaranteed_threshold(torch.arange(n, dtype=torch.float64), 0.01)
    want = stats.binom.ppf(0.05, n, 0.01)
    assert abs((n - cut.value) - want) <= 1


def test_half_precision_scores_are_cut_between_their_values():
    scores = torch.tensor([0.5, 0.25, 0.125, 1.0], dtype=torch.bfloat16)
    cut = threshold_at_tpr(scores, 0.75)
    assert cut.rate == 0.75
    assert 0.125 < cut.value < 0.25


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("function", "scores", "rate", "message"),
    [
        (threshold_at_fpr, torch.tensor([]), 0.1, "negative_scores is empty"),
        (threshold_at_tpr, torch.zeros(2, 2), 0.1, r"positive_scores must have shape \(n,\)"),
        (guaranteed_threshold, torch.tensor([math.nan]), 0.1, "negative_scores holds 1 NaN"),
        (threshold_at_fpr, torch.ones(3), 5, r"max_fpr=5.*did you mean 0.05"),
        (guaranteed_threshold_at_tpr, torch.ones(3), 0.0, "min_tpr=0.0"),
    ],
)
def test_bad_input_is_named(function, scores, rate, message):
    with pytest.raises(ValueError, match=message):
        function(scores, rate)


def test_a_confidence_of_one_is_refused():
    with pytest.raises(ValueError, match=r"confidence=1\.0"):
        guaranteed_threshold(torch.ones(3), 0.1, confidence=1.0)


def test_no_gradient_is_asked_for():
    scores = torch.tensor(np.arange(5.0), requires_grad=True)
    assert threshold_at_fpr(scores, 0.2).value == 3.0


def test_a_promise_by_groups_is_kept_where_one_by_rows_is_broken():
    """Scores of a patient share an offset; the true rate is that of new patients."""
    generator = torch.Generator().manual_seed(0)

    def patients(count, rows):
        member = torch.arange(count).repeat_interleave(rows)
        return torch.randn(count, generator=generator)[member] + 0.3 * torch.randn(
            count * rows, generator=generator
        ), member

    new, _ = patients(200_000, 1)
    broken = {"groups": 0, "rows": 0}
    for seed in range(200):
        scores, member = patients(80, 25)
        for name, groups in (("groups", member), ("rows", None)):
            cut = guaranteed_threshold(scores, 0.05, groups=groups, seed=seed)
            broken[name] += float((new > cut.value).double().mean()) > 0.05
            low = guaranteed_threshold_at_tpr(-scores, 0.95, groups=groups, seed=seed)
            broken[name] += float((-new > low.value).double().mean()) < 0.95
    assert broken["groups"] <= 400 * 0.05 + 15
    assert broken["rows"] >= 80


def test_a_promise_by_groups_counts_groups():
    scores = torch.arange(600.0)
    cut = guaranteed_threshold(scores, 0.05, groups=torch.arange(600) % 58)
    assert (cut.samples, cut.samples_needed, cut.finite) == (58, 59, False)
    assert guaranteed_threshold(scores, 0.05, groups=torch.arange(600) % 59).finite
    alone = guaranteed_threshold(scores, 0.05, groups=torch.arange(600))
    assert alone.value == guaranteed_threshold(scores, 0.05).value
