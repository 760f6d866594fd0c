"""Overlap from a confusion matrix against a loop over pixels."""

import math

import pytest
import torch

from equipoise.dense import (
    ClassGroups,
    SegmentationMeter,
    confusion_counts,
    coverage_batch_size,
    segmentation_scores,
    tail_classes_by_pixels,
)


def _maps(seed=0, classes=5, shape=(3, 6, 7)):
    generator = torch.Generator().manual_seed(seed)
    pred, target = (torch.randint(0, classes - 1, shape, generator=generator) for _ in range(2))
    target[torch.rand(shape, generator=generator) < 0.2] = 255
    return pred, target


def test_measures_are_those_of_a_loop_over_pixels():
    pred, target = _maps()
    valid = [(p, t) for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True) if t != 255]
    found = segmentation_scores(pred, target, 5, groups={"tail": [3, 4], "none": [4]})
    for c in range(4):
        both = sum(p == t == c for p, t in valid)
        either = sum(c in pair for pair in valid)
        own = sum(t == c for _, t in valid)
        assert float(found["iou"][c]) == pytest.approx(both / either)
        assert float(found["dice"][c]) == pytest.approx(2 * both / (either + both))
        assert float(found["recall"][c]) == pytest.approx(both / own)
    # Class 4 is nowhere, and so in no mean.
    assert found["iou"][4].isnan()
    assert float(found["miou"]) == pytest.approx(float(found["iou"][:4].mean()))
    assert found["miou/tail"].equal(found["iou"][3])
    assert found["miou/none"].isnan()
    p = sum(p == t for p, t in valid) / len(valid)
    e = sum(sum(p == c for p, _ in valid) * sum(t == c for _, t in valid) for c in range(5)) / len(valid) ** 2
    assert float(found["pixel_accuracy"]) == pytest.approx(p)
    assert float(found["kappa"]) == pytest.approx((p - e) / (1 - e))
    assert float(found["mean_accuracy"]) == pytest.approx(float(found["recall"].nanmean()))


def test_a_predicted_class_that_is_not_there_has_an_overlap_of_zero():
    found = segmentation_scores(torch.tensor([0, 2]), torch.tensor([0, 0]), 3)
    torch.testing.assert_close(found["iou"], torch.tensor([0.5, torch.nan, 0.0]).double(), equal_nan=True)


def test_the_matrix_of_all_images_counts_and_not_the_mean_over_images():
    meter = SegmentationMeter(2, groups={"rare": [1]})
    meter.update(torch.tensor([[1, 0, 0, 0]]), torch.tensor([[1, 1, 0, 0]]))
    meter.update(torch.tensor([[1, 0, 0, 0]]), torch.tensor([[1, 0, 255, 255]]))
    assert float(meter.compute()["miou/rare"]) == pytest.approx(2 / 3)
    assert meter.confusion.tolist() == [[3, 0], [1, 2]]


def test_what_is_predicted_at_ignored_pixels_does_not_matter():
    pred, target = _maps(1)
    wanted = confusion_counts(pred, target, 5)
    assert confusion_counts(pred.masked_fill(target == 255, 250), target, 5).equal(wanted)
    assert int(wanted.sum()) == int((target != 255).sum())


def test_where_nothing_is_valid_all_is_nan():
    found = segmentation_scores(torch.zeros(2, 2).long(), torch.full((2, 2), 255), 3, groups={"all": [0, 1, 2]})
    assert all(value.isnan().all() for value in found.values())


@pytest.mark.usefixtures("plain_inputs")
def test_bad_label_maps_are_refused():
    pred, target = _maps(2)
    with pytest.raises(ValueError, match="target must have shape"):
        segmentation_scores(pred[..., 0], target, 5)
    with pytest.raises(ValueError, match="pred holds the value 9 at a valid pixel"):
        segmentation_scores(torch.full_like(pred, 9), target, 5)
    with pytest.raises(ValueError, match="target holds the labels 2, 3, wanted classes from 0 to 1"):
        segmentation_scores(pred, target, 2)
    with pytest.raises(ValueError, match="'tail' names the class 5"):
        SegmentationMeter(5, groups={"tail": [5]})


def test_groups_cover_every_class_once():
    counts = [500, 30, 200, 10, 0]
    assert tail_classes_by_pixels(counts, k=2) == ClassGroups((0,), (1, 2), (3, 4))
    assert tail_classes_by_pixels(counts, fraction=0.6) == ClassGroups((0,), (2,), (1, 3, 4))
    assert tail_classes_by_pixels(counts, max_share=0.05) == ClassGroups((0,), (2,), (1, 3, 4))
    for given in ({"k": 1}, {"fraction": 0.4}, {"max_share": 0.3}):
        assert sorted(sum(tail_classes_by_pixels(counts, **given), ())) == list(range(5))


@pytest.mark.parametrize("given", [{}, {"k": 1, "fraction": 0.5}, {"k": 5}, {"fraction": 1.0}, {"max_share": 1.0}])
def test_one_rule_chooses_a_part_of_the_classes(given):
    with pytest.raises(ValueError, match=r"give one of k, fraction and max_share|into the tail"):
        tail_classes_by_pixels([5, 4, 3, 2, 1], **given)


@pytest.mark.parametrize(
    ("p", "classes", "delta"), [(0.05, 19, 0.05), (0.5, 1, 0.25), (0.9, 2, 0.9), (0.001, 150, 0.01)]
)
def test_the_batch_size_is_the_least_that_the_bound_allows(p, classes, delta):
    size = coverage_batch_size(p, classes, delta)
    assert classes * (1 - p) ** size <= delta * (1 + 1e-9)
    assert size == 1 or classes * (1 - p) ** (size - 1) > delta


def test_random_batches_of_that_size_hold_every_class():
    generator = torch.Generator().manual_seed(0)
    present = torch.tensor([0.9, 0.3, 0.1])
    size = coverage_batch_size(0.1, 3, 0.2)
    held = (torch.rand(4000, size, 3, generator=generator) < present).any(1).all(1)
    assert 0.8 <= float(held.double().mean()) < 1
    assert math.isfinite(size)
