import numpy as np
import pytest
import torch

from equipoise.core.curves.roc import RocCurve
from equipoise.report import Curves, curves_per_class
from equipoise.report.figures import _cut


def draw(n, share=0.1, shift=1.5, seed=0, decimals=None):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(n, generator=generator) < share).long()
    target[:2] = torch.tensor([0, 1])
    scores = torch.randn(n, generator=generator) + shift * target
    return (scores if decimals is None else scores.round(decimals=decimals)), target


def area(points):
    return float((np.diff(points[:, 0]) * (points[1:, 1] + points[:-1, 1])).sum() / 2)


@pytest.mark.parametrize("decimals", [None, 1])
def test_a_small_roc_curve_keeps_its_exact_area(decimals):
    scores, target = draw(500, decimals=decimals)
    curves = Curves.from_scores("s", scores, target)
    assert area(curves.roc) == pytest.approx(float(RocCurve.from_scores(scores, target).auroc()), abs=1e-12)


def test_a_large_roc_curve_is_thinned_to_points_of_the_curve_and_keeps_its_shape():
    scores, target = draw(200_000)
    curves = Curves.from_scores("s", scores, target, max_fpr=0.01)
    exact = RocCurve.from_scores(scores, target)
    assert len(curves.roc) < 2000
    assert area(curves.roc) == pytest.approx(float(exact.auroc()), abs=1e-3)
    region = _cut(curves.roc, 0.01, 0.0)
    assert len(region) > 100
    assert area(region) / 0.01 == pytest.approx(float(exact.partial_area(0.01)), abs=2e-3)
    assert curves.roc[0].tolist() == [0, 0]
    assert curves.roc[-1].tolist() == [1, 1]
    assert (np.diff(curves.roc, axis=0) >= 0).all()


@pytest.mark.parametrize(("max_fpr", "min_tpr"), [(0.05, 0.0), (0.3, 0.5), (1.0, 0.9), (0.001, 0.99)])
def test_the_region_is_cut_as_the_metric_cuts_it(max_fpr, min_tpr):
    scores, target = draw(300, decimals=1)
    points = _cut(Curves.from_scores("s", scores, target).roc, max_fpr, min_tpr)
    fpr, tpr = (part.numpy() for part in RocCurve.from_scores(scores, target).region(max_fpr, min_tpr))
    assert len(points) == 0 or points[0, 1] >= min_tpr - 1e-12
    below = area(points) - min_tpr * (points[-1, 0] - points[0, 0]) if len(points) else 0.0
    exact = area(np.stack([fpr, tpr - min_tpr], axis=1)) if len(fpr) else 0.0
    assert below == pytest.approx(exact, abs=1e-12)


def test_the_precision_recall_steps_sum_to_average_precision():
    scores, target = draw(500, decimals=1)
    curves = Curves.from_scores("s", scores, target)
    recall, precision = curves.precision_recall.T
    steps = np.diff(recall, prepend=0.0)
    assert (steps > 0).all()
    assert (steps * precision).sum() == pytest.approx(float(RocCurve.from_scores(scores, target).average_precision()))


def test_a_large_precision_recall_curve_is_thinned_and_keeps_both_ends():
    scores, target = draw(100_000, share=0.5)
    points = Curves.from_scores("s", scores, target).precision_recall
    assert len(points) < 1000
    assert points[-1, 0] == 1.0
    assert points[0, 0] == pytest.approx(1 / int(target.sum()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_score_is_in_the_histogram_even_far_outside(dtype):
    scores, target = draw(2000)
    scores[0] = 1000.0
    histogram = Curves.from_scores("s", scores.to(dtype), target).histogram
    assert histogram.positives.sum() == target.sum()
    assert histogram.negatives.sum() == (1 - target).sum()
    assert histogram.edges[-1] < 20


def test_equal_scores_have_one_point_and_a_histogram():
    curves = Curves.from_scores("s", torch.zeros(4), torch.tensor([0, 1, 0, 1]))
    assert curves.roc.tolist() == [[0, 0], [1, 1]]
    assert curves.precision_recall.tolist() == [[1.0, 0.5]]
    assert curves.histogram.positives.sum() == 2


@pytest.mark.parametrize("gap", [5e-324, 1e-300, 1e-16])
def test_scores_that_hardly_differ_still_have_a_histogram(gap):
    scores = torch.tensor([0.0, gap, 0.0, gap], dtype=torch.float64)
    histogram = Curves.from_scores("s", scores, torch.tensor([0, 1, 0, 1])).histogram
    assert (np.diff(histogram.edges) > 0).all()
    assert histogram.positives.sum() == histogram.negatives.sum() == 2


def test_one_class_alone_is_refused_by_name():
    with pytest.raises(ValueError, match="'mine' need both classes, got 0 positives of 3"):
        Curves.from_scores("mine", torch.rand(3), torch.zeros(3, dtype=torch.long))


def test_classes_without_rows_have_no_curve():
    scores = torch.eye(3)
    found = curves_per_class(scores, torch.tensor([0, 1, 1]), {0: "a", 1: "b", 2: "c"})
    assert [curves.name for curves in found] == ["a against the rest", "b against the rest"]
    assert [curves.n_pos for curves in found] == [1, 2]
