"""Macro accuracy against a loop, absent classes, and what is refused."""

import pytest
import torch

from equipoise.multimodal import MacroAccuracy


def test_it_is_the_mean_recall_of_the_classes_that_occur():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(200, 7, generator=generator), torch.randint(5, (200,), generator=generator)
    target[target == 2] = 4
    metric = MacroAccuracy(7)
    for rows in torch.arange(200).split(33):
        metric.update(logits[rows], target[rows])
    recalls = [float((logits[target == c].argmax(1) == c).double().mean()) for c in (0, 1, 3, 4)]
    assert float(metric.compute()) == pytest.approx(sum(recalls) / 4)
    by_class = MacroAccuracy(7)
    by_class.update(logits.argmax(1), target)
    assert by_class.compute().equal(metric.compute())


def test_a_class_that_is_only_predicted_counts_for_nothing():
    metric = MacroAccuracy(3)
    metric.update(torch.tensor([0, 2, 1]), torch.tensor([0, 0, 1]))
    assert float(metric.compute()) == 0.75


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_before_the_first_batch_it_is_nan():
    assert MacroAccuracy(3).compute().isnan()


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (torch.zeros(2, 4), torch.tensor([0, 1]), "pred must have 3 scores"),
        (torch.tensor([0, 1]), torch.tensor([0, 3]), "target holds the value 3"),
        (torch.tensor([0, 1]), torch.tensor([0, -1]), "target holds the value -1"),
        (torch.tensor([0]), torch.tensor([0, 1]), "shape"),
    ],
)
def test_bad_batches_are_refused(pred, target, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        MacroAccuracy(3).update(pred, target)
