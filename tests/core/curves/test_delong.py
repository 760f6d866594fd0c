"""DeLong's intervals: against the definition over all pairs and the bootstrap, by coverage, and on awkward samples."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from equipoise.core.curves.delong import delong_difference, delong_interval
from equipoise.core.curves.intervals import Interval, bootstrap_differences, bootstrap_metrics

Z = NormalDist().inv_cdf(0.975)
AREA = {"auroc": lambda curve: curve.auroc()}


def _covariance(columns, target):
    """The areas of score columns and their covariance by the paper's definition, over all m · n pairs."""
    columns, target = np.asarray(columns, dtype=np.float64), np.asarray(target)
    x, y = columns[:, target == 1], columns[:, target == 0]
    wins = (x[:, :, None] > y[:, None]) + 0.5 * (x[:, :, None] == y[:, None])
    v, w = wins.mean(2), wins.mean(1)
    return wins.mean((1, 2)), np.cov(v) / x.shape[1] + np.cov(w) / y.shape[1]


def _sample(n, seed, gap=1.0, levels=None, share=0.4):
    """Scores of two models that share half their noise, and a target."""
    generator = torch.Generator().manual_seed(seed)
    target = (torch.arange(n) < round(n * share)).long()
    noise = torch.randn(3, n, generator=generator, dtype=torch.float64)
    first, second = gap * target + noise[0] + noise[1], 0.7 * gap * target + noise[0] + noise[2]
    if levels is not None:
        first, second = (first * levels).round() / levels, (second * levels).round() / levels
    return first, second, target


@pytest.mark.filterwarnings("ignore:DeLong's variance is 0")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=4, max_size=25).filter(
        lambda rows: 2 <= sum(row[2] for row in rows) <= len(rows) - 2
    )
)
def test_the_variance_is_that_of_the_definition_also_with_ties(rows, dtype):
    first, second, target = (torch.tensor(column) for column in zip(*rows, strict=True))
    first, second = first.to(dtype), second.to(dtype)
    areas, covariance = _covariance([first, second], target)
    found = delong_interval(first, target)
    assert found.estimate == pytest.approx(roc_auc_score(target, first), abs=1e-12)
    width = Z * math.sqrt(covariance[0, 0])
    assert found.low == pytest.approx(max(areas[0] - width, 0), abs=1e-7)
    assert found.high == pytest.approx(min(areas[0] + width, 1), abs=1e-7)
    difference = delong_difference(first, second, target)
    # Rounding may leave a variance of zero a little below it.
    width = Z * math.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0))
    assert difference.estimate == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert difference.low == pytest.approx(max(areas[0] - areas[1] - width, -1), abs=1e-7)
    assert difference.high == pytest.approx(min(areas[0] - areas[1] + width, 1), abs=1e-7)


@pytest.mark.parametrize("levels", [None, 1])
def test_it_agrees_with_the_bootstrap_of_a_large_sample(levels):
    first, second, target = _sample(2000, seed=3, levels=levels)
    pairs = [
        (delong_interval(first, target), bootstrap_metrics(first, target, AREA, resamples=2000)),
        (delong_difference(first, second, target), bootstrap_differences(first, second, target, AREA, resamples=1000)),
    ]
    for found, drawn in pairs:
        width = found.high - found.low
        assert found.estimate == pytest.approx(drawn["auroc"].estimate, abs=1e-12)
        assert found.low == pytest.approx(drawn["auroc"].low, abs=0.06 * width)
        assert found.high == pytest.approx(drawn["auroc"].high, abs=0.06 * width)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_covers_the_truth_as_often_as_it_says(confidence):
    # A score has variance 2 in each class, so its difference between two samples has 4.
    truth = [NormalDist().cdf(gap / 2) for gap in (1.0, 0.7)]
    trials, covered = 500, np.zeros(2)
    for seed in range(trials):
        first, second, target = _sample(150, seed)
        one = delong_interval(first, target, confidence)
        both = delong_difference(first, second, target, confidence)
        covered += one.low <= truth[0] <= one.high, both.low <= truth[0] - truth[1] <= both.high
    spread = math.sqrt(confidence * (1 - confidence) / trials)
    assert np.abs(covered / trials - confidence).max() < 3.5 * spread


def test_neither_the_order_of_samples_nor_a_monotone_map_matters():
    first, second, target = _sample(200, seed=0, levels=3)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    moved = [
        (delong_interval(first[order].exp(), target[order].bool()), delong_interval(first, target)),
        (
            delong_difference(first[order], 3 * second[order] - 7, target[order]),
            delong_difference(first, second, target),
        ),
    ]
    for found, wanted in moved:
        assert found.estimate == wanted.estimate
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-14)


def test_exchanged_models_and_classes_mirror_the_interval():
    first, second, target = _sample(200, seed=0, levels=3)
    found, mirrored = delong_difference(first, second, target), delong_difference(second, first, target)
    assert (mirrored.low, mirrored.estimate, mirrored.high) == (-found.high, -found.estimate, -found.low)
    found, mirrored = delong_interval(first, target), delong_interval(-first, 1 - target)
    assert mirrored.estimate == found.estimate
    assert mirrored.low == pytest.approx(found.low, abs=1e-14)


def test_no_variance_is_no_certainty_and_is_said():
    target = torch.tensor([1, 1, 0, 0, 0])
    apart = target + torch.tensor([0.3, 0.1, 0.0, 0.2, 0.1])
    with pytest.warns(UserWarning, match="no width"):
        assert delong_interval(apart, target) == Interval(1.0, 1.0, 1.0)
    for scores, area in ((-apart, 0.0), (torch.zeros(5), 0.5)):
        assert delong_interval(scores, target) == Interval(area, area, area)
    assert delong_difference(apart, torch.zeros(5), target) == Interval(0.5, 0.5, 0.5)


def test_scores_that_rank_alike_differ_by_zero_and_nothing_is_to_be_said():
    first, _, target = _sample(100, seed=0, levels=3)
    assert delong_difference(first, first.exp(), target) == Interval(0.0, 0.0, 0.0)


def test_a_class_of_one_or_no_sample_has_no_interval():
    scores = torch.arange(5.0)
    with pytest.warns(UserWarning, match="two samples of a class, got 1 positives"):
        found = delong_interval(scores, torch.tensor([0, 0, 0, 1, 0]))
    assert (found.estimate, math.isnan(found.low), math.isnan(found.high)) == (0.75, True, True)
    with pytest.warns(UserWarning, match="needs both classes"):
        assert math.isnan(delong_difference(scores, scores, torch.zeros(5, dtype=torch.long)).estimate)


def test_a_million_samples_are_exact():
    # Every positive beats the same half of the negatives, or all: areas and variance are known.
    n = 500_000
    x, y = torch.arange(n) % 2 + 0.5, torch.arange(n) % 2 + 0.0
    scores, target = torch.cat([x, y]).float(), torch.cat([torch.ones(n), torch.zeros(n)]).long()
    found = delong_interval(scores, target)
    assert found.estimate == 0.75
    # v is 1/2 or 1 and w is 1 or 1/2, half of each.
    width = Z * math.sqrt(2 * (1 / 16) / (n - 1))
    assert found.high - found.estimate == pytest.approx(width, rel=1e-9)
