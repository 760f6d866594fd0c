"""Intervals: against a plain bootstrap, against scipy, by coverage, and on awkward samples."""

import math
import time

import numpy as np
import pytest
import torch
from scipy import special, stats

from equipoise.core.curves import intervals
from equipoise.core.curves.intervals import (
    Interval,
    bootstrap_differences,
    bootstrap_metrics,
    fold_interval,
    incomplete_beta,
    paired_interval,
    student_quantile,
)
from equipoise.core.curves.roc import RocCurve


def _area(curve):
    tpr, fpr = (np.concatenate([[0.0], c.numpy() / float(c[-1])]) for c in (curve.tps, curve.fps))
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))


def _precision(curve):
    tps, fps = curve.tps.double(), curve.fps.double()
    return float((torch.diff(tps, prepend=tps.new_zeros(1)) / tps[-1] * tps / (tps + fps)).sum())


def _low_fpr(curve):
    tpr, fpr = (np.concatenate([[0.0], c.numpy() / float(c[-1])]) for c in (curve.tps, curve.fps))
    grid = np.linspace(0, 0.05, 200)
    return float(np.interp(grid, fpr, tpr).mean())


METRICS = {"auroc": _area, "ap": _precision, "low": _low_fpr}


def _sample(n, share=0.1, gap=1.5, seed=0, levels=None):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.arange(n) < round(n * share)).long()[torch.randperm(n, generator=generator)]
    scores = torch.randn(n, generator=generator, dtype=torch.float64) + gap * target
    return (scores if levels is None else (scores * levels).round() / levels), target


def _plain_bootstrap(scores, target, resamples, confidence=0.95):
    """Draws the samples themselves, sorts every time."""
    rng = np.random.default_rng(123)
    pos, neg = scores[target == 1], scores[target == 0]
    values = {name: [] for name in METRICS}
    for _ in range(resamples):
        drawn = torch.cat(
            [pos[torch.as_tensor(rng.integers(len(pos), size=len(pos)))], neg[rng.integers(len(neg), size=len(neg))]]
        )
        labels = torch.cat([torch.ones(len(pos), dtype=torch.long), torch.zeros(len(neg), dtype=torch.long)])
        curve = RocCurve.from_scores(drawn, labels)
        for name, metric in METRICS.items():
            values[name].append(metric(curve))
    return {name: np.quantile(v, [0.5 - confidence / 2, 0.5 + confidence / 2]) for name, v in values.items()}


@pytest.mark.parametrize(("n", "levels"), [(400, None), (400, 3), (6000, None), (6000, 2)])
def test_multinomial_steps_give_the_interval_of_drawing_samples(n, levels):
    scores, target = _sample(n, levels=levels)
    found = bootstrap_metrics(scores, target, METRICS, resamples=500, seed=1)
    plain = _plain_bootstrap(scores, target, 200)
    for name, metric in METRICS.items():
        low, high = plain[name]
        width = high - low
        assert found[name].estimate == pytest.approx(metric(RocCurve.from_scores(scores, target)), rel=1e-12)
        assert found[name].low == pytest.approx(low, abs=0.25 * width)
        assert found[name].high == pytest.approx(high, abs=0.25 * width)


def test_the_interval_holds_the_estimate_and_is_reproducible():
    scores, target = _sample(1000)
    one = bootstrap_metrics(scores, target, METRICS, resamples=200, seed=5)
    assert one == bootstrap_metrics(scores, target, METRICS, resamples=200, seed=5)
    assert one != bootstrap_metrics(scores, target, METRICS, resamples=200, seed=6)
    for interval in one.values():
        assert interval.low < interval.estimate < interval.high


def test_the_order_of_samples_does_not_matter_and_neither_does_a_monotone_map():
    scores, target = _sample(500)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(9))
    want = bootstrap_metrics(scores, target, METRICS, resamples=100)
    assert bootstrap_metrics(scores[order], target[order].bool(), METRICS, resamples=100) == want
    assert bootstrap_metrics(scores.exp(), target, METRICS, resamples=100) == want


def test_more_confidence_is_wider():
    scores, target = _sample(1000)
    widths = []
    for confidence in (0.5, 0.9, 0.99):
        found = bootstrap_metrics(scores, target, {"auroc": _area}, resamples=500, confidence=confidence)["auroc"]
        widths.append(found.high - found.low)
    assert widths == sorted(widths)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = float(stats.norm.cdf(1.0 / math.sqrt(2)))
    trials, covered = 120, 0
    for seed in range(trials):
        scores, target = _sample(300, share=0.2, gap=1.0, seed=seed)
        found = bootstrap_metrics(scores, target, {"auroc": _area}, resamples=100, confidence=0.9)["auroc"]
        covered += found.low <= truth <= found.high
    assert 0.8 <= covered / trials <= 0.97


def test_two_score_vectors_are_drawn_together():
    scores, target = _sample(2000)
    noisy = scores + 0.1 * torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    paired = bootstrap_differences(scores, noisy, target, METRICS, resamples=300)["auroc"]
    single = bootstrap_metrics(scores, target, METRICS, resamples=300)["auroc"]
    assert paired.estimate == pytest.approx(
        _area(RocCurve.from_scores(scores, target)) - _area(RocCurve.from_scores(noisy, target))
    )
    assert paired.high - paired.low < 0.3 * (single.high - single.low)
    reverse = bootstrap_differences(noisy, scores, target, METRICS, resamples=300)["auroc"]
    assert reverse.low == pytest.approx(-paired.high)


@pytest.mark.parametrize("n", [300, 9000])
def test_the_difference_from_a_copy_is_exactly_zero(n):
    scores, target = _sample(n)
    for interval in bootstrap_differences(scores, 2 * scores + 1, target, METRICS, resamples=20).values():
        assert interval == Interval(0.0, 0.0, 0.0)


def test_the_difference_from_a_constant_score_is_the_metric_less_a_half():
    for share in (0.02, 0.98):  # either class alone carries the chance
        scores, target = _sample(5000, share=share)
        found = bootstrap_differences(scores, torch.zeros_like(scores), target, {"auroc": _area}, resamples=300)[
            "auroc"
        ]
        single = bootstrap_metrics(scores, target, {"auroc": _area}, resamples=300)["auroc"]
        width = single.high - single.low
        assert found.estimate == pytest.approx(single.estimate - 0.5)
        assert found.low == pytest.approx(single.low - 0.5, abs=0.2 * width)
        assert found.high == pytest.approx(single.high - 0.5, abs=0.2 * width)


def test_what_merging_changes_is_put_back(monkeypatch):
    scores, target = _sample(3000, share=0.5, gap=0.5)
    want = bootstrap_metrics(scores, target, METRICS, resamples=400)
    both = bootstrap_differences(scores, -scores, target, METRICS, resamples=400)
    monkeypatch.setattr(intervals, "_MAX_STEPS", 64)
    found = bootstrap_metrics(scores, target, METRICS, resamples=400)
    both_found = bootstrap_differences(scores, -scores, target, METRICS, resamples=400)
    for name in METRICS:
        for a, b in ((found[name], want[name]), (both_found[name], both[name])):
            assert a.estimate == b.estimate
            assert (a.low + a.high) / 2 == pytest.approx((b.low + b.high) / 2, abs=0.13 * (b.high - b.low))


def test_perfect_scores_stay_within_the_unit_interval_at_any_size():
    for n in (100, 50_000):
        _, target = _sample(n)
        scores = target.double() + torch.linspace(0, 0.5, n, dtype=torch.float64)
        for interval in bootstrap_metrics(scores, target, METRICS, resamples=30).values():
            assert interval.estimate == pytest.approx(1.0)
            assert interval.high <= 1.0 + 1e-15


@pytest.mark.parametrize("positives", [1, 3])
def test_a_single_positive_or_all_scores_equal_is_no_trouble(positives):
    target = torch.zeros(20, dtype=torch.long)
    target[:positives] = 1
    flat = bootstrap_metrics(torch.zeros(20), target, {"auroc": _area}, resamples=20)["auroc"]
    assert flat == Interval(0.5, 0.5, 0.5)
    assert 0 <= bootstrap_metrics(torch.arange(20.0), target, {"auroc": _area}, resamples=20)["auroc"].low <= 1


def test_one_class_gives_nan_and_a_warning():
    with pytest.warns(UserWarning, match="needs both classes, got 0 positives of 4"):
        found = bootstrap_metrics(torch.arange(4.0), torch.zeros(4, dtype=torch.long), METRICS)
    assert all(math.isnan(interval.low) for interval in found.values())
    found = bootstrap_differences(torch.arange(4.0), torch.arange(4.0), torch.zeros(4, dtype=torch.long), METRICS)
    assert math.isnan(found["auroc"].estimate)


def test_float16_scores_and_extreme_scores_are_taken():
    scores, target = _sample(200)
    assert bootstrap_metrics(scores.half(), target, {"auroc": _area}, resamples=10)["auroc"].estimate > 0.8
    huge = bootstrap_metrics(scores * 1e300, target, {"auroc": _area}, resamples=10)["auroc"]
    assert huge == bootstrap_metrics(scores, target, {"auroc": _area}, resamples=10)["auroc"]


def test_a_large_sample_costs_seconds():
    scores, target = _sample(100_000, share=0.02)
    began = time.perf_counter()
    bootstrap_metrics(scores, target, {"auroc": _area, "ap": _precision}, resamples=500)
    assert time.perf_counter() - began < 10


def test_the_paired_interval_is_that_of_scipy_and_covers_the_mean_of_few_normal_values():
    values = np.random.default_rng(0).normal(0.3, 1.0, size=(2000, 5))
    found = [paired_interval(list(row)) for row in values]
    expected = stats.t.interval(0.95, 4, values[0].mean(), stats.sem(values[0]))
    assert (found[0].low, found[0].high) == pytest.approx(expected)
    assert np.mean([f.low <= 0.3 <= f.high for f in found]) == pytest.approx(0.95, abs=0.015)


def test_one_difference_bounds_nothing_and_equal_ones_have_no_width():
    assert paired_interval([0.25]) == Interval(0.25, -math.inf, math.inf)
    assert paired_interval([0.25, 0.25]) == Interval(0.25, 0.25, 0.25)


@pytest.mark.parametrize("dof", [0.5, 1, 2, 4, 9, 30, 1000])
@pytest.mark.parametrize("probability", [0.001, 0.4, 0.5, 0.6, 0.9, 0.975, 0.9995])
def test_the_student_quantile_is_that_of_scipy(probability, dof):
    assert student_quantile(probability, dof) == pytest.approx(stats.t.ppf(probability, dof), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1, 3), (30, 2), (100, 200), (1e4, 2e5), (9.9e6, 1e5)])
def test_the_incomplete_beta_is_that_of_scipy(a, b):
    for q in (1e-6, 0.05, 0.5, 0.99):
        assert incomplete_beta(a, b, special.betaincinv(a, b, q)) == pytest.approx(q, rel=1e-7)
    assert incomplete_beta(a, b, 0.0) == 0.0
    assert incomplete_beta(a, b, 1.0) == 1.0


def test_the_fold_interval_is_the_corrected_t_interval():
    folds = [0.80, 0.82, 0.84, 0.81, 0.83]
    found = fold_interval(folds, 0.25, confidence=0.9)
    half = stats.t.ppf(0.95, 4) * np.std(folds, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    assert found.low == pytest.approx(np.mean(folds) - half)
    assert found.high == pytest.approx(np.mean(folds) + half)
    assert fold_interval([0.5, 0.5], 1.0) == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fold_interval([0.5], 0.25), "scores_per_fold must hold at least 2"),
        (lambda: fold_interval([0.5, math.nan], 0.25), r"scores_per_fold\[1\]=nan"),
        (lambda: fold_interval([0.5, 0.6], 0.0), "test_train_ratio"),
        (lambda: fold_interval([0.5, 0.6], 0.25, confidence=1.0), "confidence=1.0"),
        (lambda: paired_interval([]), "at least 1"),
        (lambda: bootstrap_metrics(torch.ones(2), torch.tensor([0, 1]), {}, confidence=95), "did you mean 0.95"),
        (lambda: bootstrap_metrics(torch.tensor([1.0, math.nan]), torch.tensor([0, 1]), {}), "NaN"),
        (
            lambda: bootstrap_differences(torch.ones(2), torch.tensor([1.0, math.inf]), torch.tensor([0, 1]), {}),
            "second",
        ),
        (lambda: student_quantile(0.0, 3), "probability"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _grouped(groups, seed, per_group=20):
    """Patients whose scores share an offset; a patient is nearly all of one class."""
    generator = torch.Generator().manual_seed(seed)
    member = torch.arange(groups).repeat_interleave(per_group)
    kind = (torch.arange(groups) % 2)[member]
    flipped = torch.rand(len(member), generator=generator) < 0.1
    offset = torch.randn(groups, generator=generator, dtype=torch.float64)[member]
    noise = 0.3 * torch.randn(len(member), generator=generator, dtype=torch.float64)
    return offset + noise + kind, torch.where(flipped, 1 - kind, kind), member


def test_groups_are_drawn_whole_as_a_plain_bootstrap_of_groups_does():
    scores, target, member = _grouped(12, seed=4)
    found = bootstrap_metrics(scores, target, METRICS, groups=member * 7 - 3, resamples=600)
    rng, values = np.random.default_rng(9), []
    for _ in range(600):
        rows = torch.cat([(member == g).nonzero().squeeze(1) for g in rng.integers(12, size=12)])
        values.append(_area(RocCurve.from_scores(scores[rows], target[rows])))
    low, high = np.quantile(values, [0.025, 0.975])
    assert found["auroc"].low == pytest.approx(low, abs=0.02)
    assert found["auroc"].high == pytest.approx(high, abs=0.02)
    by_row = bootstrap_metrics(scores, target, METRICS, resamples=300)["auroc"]
    assert found["auroc"].high - found["auroc"].low > 3 * (by_row.high - by_row.low)


def test_an_interval_by_groups_covers_where_one_by_rows_does_not():
    # With many patients the sample is the population, up to what an interval of 30 patients can tell.
    truth = _area(RocCurve.from_scores(*_grouped(6000, seed=0, per_group=5)[:2]))
    hits = {"groups": 0, "rows": 0}
    for seed in range(60):
        scores, target, member = _grouped(30, seed=seed + 1)
        for name, groups in (("groups", member), ("rows", None)):
            found = bootstrap_metrics(scores, target, {"auroc": _area}, groups=groups, resamples=200)["auroc"]
            hits[name] += found.low <= truth <= found.high
    assert hits["groups"] >= 50
    assert hits["rows"] <= 35


def test_rows_of_a_group_are_drawn_together_for_both_models():
    scores, target, member = _grouped(12, seed=2)
    for interval in bootstrap_differences(scores, 2 * scores, target, METRICS, groups=member, resamples=50).values():
        assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)
    one_each = torch.arange(len(scores))
    apart = bootstrap_metrics(scores, target, {"auroc": _area}, groups=one_each, resamples=400)["auroc"]
    plain = bootstrap_metrics(scores, target, {"auroc": _area}, resamples=400)["auroc"]
    assert apart.high - apart.low == pytest.approx(plain.high - plain.low, rel=0.25)
    # All positives in one group: draws without it say nothing and are drawn again.
    rare = bootstrap_metrics(scores, (member == 0).long(), {"auroc": _area}, groups=member, resamples=50)["auroc"]
    assert math.isfinite(rare.low)
