import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from equipoise.core.curves import RocCurve

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
