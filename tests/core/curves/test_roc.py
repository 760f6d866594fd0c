from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from equipoise.core.curves.roc import RocCurve

_samples = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=30)


def _split(samples):
    scores = torch.tensor([s for s, _ in samples], dtype=torch.float64)
    target = torch.tensor([int(t) for _, t in samples])
    assume(0 < int(target.sum()) < len(target))
    return scores, target


def _area_by_quadrature(curve, max_fpr, min_tpr):
    fpr, tpr, _ = (x.numpy() for x in curve.roc())
    grid = np.linspace(0, max_fpr, 200_001)
    # np.interp takes the last of equal abscissae on the right; vertical pieces have no area.
    return np.trapezoid(np.maximum(np.interp(grid, fpr, tpr) - min_tpr, 0), grid)


@given(samples=_samples)
def test_counts_are_those_of_every_threshold(samples):
    scores, target = _split(samples)
    curve = RocCurve.from_scores(scores, target)
    assert curve.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)
    for t, tp, fp in zip(curve.thresholds, curve.tps, curve.fps, strict=True):
        assert int(tp) == int(((scores >= t) & (target == 1)).sum())
        assert int(fp) == int(((scores >= t) & (target == 0)).sum())


@given(samples=_samples)
def test_areas_agree_with_scikit_learn(samples):
    scores, target = _split(samples)
    curve = RocCurve.from_scores(scores, target)
    assert float(curve.auroc()) == pytest.approx(roc_auc_score(target, scores), abs=1e-12)
    assert float(curve.partial_area()) == pytest.approx(roc_auc_score(target, scores), abs=1e-12)
    assert float(curve.average_precision()) == pytest.approx(average_precision_score(target, scores), abs=1e-12)


@pytest.mark.parametrize(("max_fpr", "min_tpr"), [(0.3, 0.0), (0.37, 0.41), (1.0, 0.7), (0.05, 0.9), (0.5, 0.5)])
def test_the_partial_area_is_the_integral_of_the_polygon(max_fpr, min_tpr):
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        target = (torch.rand(40, generator=generator) < 0.4).long()
        scores = (torch.randn(40, generator=generator) * 3 + 2 * target).round()
        curve = RocCurve.from_scores(scores, target)
        raw = float(curve.partial_area(max_fpr, min_tpr, "raw"))
        assert raw == pytest.approx(_area_by_quadrature(curve, max_fpr, min_tpr), abs=2e-5)
        assert float(curve.partial_area(max_fpr, min_tpr)) == pytest.approx(raw / (max_fpr * (1 - min_tpr)), abs=1e-12)


def _exact_area(samples, b, t):
    """∫₀ᵇ max(TPR(u) − t, 0) du of the polygon in rational numbers, segment by segment."""
    n_pos = sum(y for _, y in samples)
    n_neg = len(samples) - n_pos
    corners = [(Fraction(0), Fraction(0))]
    for threshold in sorted({s for s, _ in samples}, reverse=True):
        above = [y for s, y in samples if s >= threshold]
        corners.append((Fraction(len(above) - sum(above), n_neg), Fraction(sum(above), n_pos)))
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(corners):
        if x0 == x1 or x0 >= b:
            continue
        slope = (y1 - y0) / (x1 - x0)
        end = min(x1, b)
        start = x0 if y0 >= t else end if slope == 0 else min(end, x0 + (t - y0) / slope)
        area += (end - start) * ((y0 + slope * (start - x0)) + (y0 + slope * (end - x0)) - 2 * t) / 2
    return area


@given(samples=_samples, max_fpr=st.fractions("1/20", 1), min_tpr=st.fractions(0, "19/20"))
def test_the_partial_area_is_exact_wherever_the_lines_cut(samples, max_fpr, min_tpr):
    scores, target = _split(samples)
    found = RocCurve.from_scores(scores, target).partial_area(float(max_fpr), float(min_tpr), "raw")
    wanted = _exact_area([(s, int(y)) for s, y in samples], max_fpr, min_tpr)
    assert float(found) == pytest.approx(float(wanted), abs=1e-12)


@given(samples=_samples, max_fpr=st.floats(0.05, 1.0), min_tpr=st.floats(0.0, 0.95))
def test_the_region_stays_within_its_bounds(samples, max_fpr, min_tpr):
    fpr, tpr = RocCurve.from_scores(*_split(samples)).region(max_fpr, min_tpr)
    assert (fpr <= max_fpr).all()
    assert (tpr >= min_tpr).all()
    assert (torch.diff(fpr) >= 0).all()
    assert (torch.diff(tpr) >= 0).all()


@pytest.mark.parametrize(("n_neg", "max_fpr", "within"), [(100, 0.29, 29), (57, 0.37, 21), (10, 0.7, 7)])
def test_a_budget_of_whole_negatives_is_whole(n_neg, max_fpr, within):
    scores = torch.arange(float(2 * n_neg))
    curve = RocCurve.from_scores(scores, (torch.arange(2 * n_neg) % 2))
    assert curve.tpr_at_fpr(max_fpr) == (within + 1) / n_neg
    assert float(curve.region(max_fpr)[0][-1]) == pytest.approx(max_fpr)


def test_a_share_of_whole_positives_is_whole():
    # In floating point 0.07 · 100 is 7.000…1.
    curve = RocCurve.from_scores(torch.arange(200.0), 1 - torch.arange(200) % 2)
    assert curve.fpr_at_tpr(0.07) == 0.07


@given(samples=_samples, rate=st.sampled_from([0.1, 0.25, 0.29, 0.5, 0.7, 1.0]))
def test_rates_are_the_best_over_all_thresholds(samples, rate):
    scores, target = _split(samples)
    curve = RocCurve.from_scores(scores, target)
    fpr, tpr, _ = curve.roc()
    assert curve.tpr_at_fpr(rate) == pytest.approx(float(tpr[fpr <= rate + 1e-12].max()))
    assert curve.fpr_at_tpr(rate) == pytest.approx(float(fpr[tpr >= rate - 1e-12].min()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_precision_has_the_same_curve(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(300, generator=generator).to(dtype)
    target = torch.randint(2, (300,), generator=generator)
    mine, wide = RocCurve.from_scores(scores, target), RocCurve.from_scores(scores.double(), target == 1)
    for a, b in ((mine.thresholds.double(), wide.thresholds), (mine.tps, wide.tps), (mine.fps, wide.fps)):
        assert torch.equal(a, b)


def test_a_tie_block_cut_by_the_budget_gives_its_covered_part():
    curve = RocCurve.from_scores(torch.zeros(4), torch.tensor([1, 1, 0, 0]))
    assert float(curve.partial_area(0.5, normalization="raw")) == pytest.approx(0.125)
    assert float(curve.partial_area(0.5, normalization="mcclish")) == pytest.approx(0.5)


@pytest.mark.parametrize(("max_fpr", "min_tpr"), [(0.2, 0.0), (0.5, 0.3), (0.3, 0.6)])
def test_mcclish_is_half_for_chance_and_one_for_a_perfect_ranking(max_fpr, min_tpr):
    chance = RocCurve.from_scores(torch.zeros(10), (torch.arange(10) % 2))
    assert float(chance.partial_area(max_fpr, min_tpr, "mcclish")) == pytest.approx(0.5)
    perfect = RocCurve.from_scores(torch.arange(10.0), (torch.arange(10) > 6).long())
    assert float(perfect.partial_area(max_fpr, min_tpr, "mcclish")) == pytest.approx(1.0)


def test_rates_at_a_budget_are_those_of_the_best_threshold():
    curve = RocCurve.from_scores(torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 0, 1, 0, 1]))
    assert curve.tpr_at_fpr(0.5) == pytest.approx(2 / 3)
    assert curve.tpr_at_fpr(0.0) == pytest.approx(1 / 3)
    assert curve.fpr_at_tpr(1.0) == 1.0
    assert curve.fpr_at_tpr(0.34) == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_weights_give_the_curve_of_repeated_samples(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (60,), generator=generator).to(dtype)
    target, times = (torch.randint(0, high, (60,), generator=generator) for high in (2, 4))
    found = RocCurve.from_scores(scores, target, times.to(dtype))
    wanted = RocCurve.from_scores(scores.repeat_interleave(times), target.repeat_interleave(times))
    assert found.thresholds.equal(wanted.thresholds)
    assert found.tps.equal(wanted.tps.double())
    assert found.fps.equal(wanted.fps.double())
    assert found.pairs() == wanted.pairs()
    assert found.pairs().win_rate() == pytest.approx(float(wanted.auroc()), abs=1e-15)
    for rate in (0.1, 0.29, 0.5, 1.0):
        assert found.tpr_at_fpr(rate) == wanted.tpr_at_fpr(rate)
        assert found.fpr_at_tpr(rate) == wanted.fpr_at_tpr(rate)
        assert float(found.partial_area(rate, 0.2)) == pytest.approx(float(wanted.partial_area(rate, 0.2)), abs=1e-14)


def test_a_region_that_the_curve_does_not_enter_has_no_area():
    curve = RocCurve.from_scores(torch.tensor([0.1, 0.9, 0.8]), torch.tensor([1, 0, 0]))
    assert float(curve.partial_area(0.5, 0.5)) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0, 0.0), "max_fpr"), ((5, 0.0), "did you mean 0.05"), ((0.5, 1.0), "min_tpr"), ((0.5, 0.0, "sk"), "sk")],
)
def test_bounds_out_of_range_are_refused(arguments, message):
    curve = RocCurve.from_scores(torch.tensor([0.1, 0.9]), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=message):
        curve.partial_area(*arguments)
