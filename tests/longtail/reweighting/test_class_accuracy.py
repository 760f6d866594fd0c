import pytest
import torch

from equipoise.longtail.reweighting.class_accuracy import balanced_accuracy, class_accuracies, worst_class_accuracy

# Class 0 has one of two right, class 1 two of three, class 2 none of one; class 3 is absent.
_PREDICTED = torch.tensor([0, 1, 1, 1, 3, 0])
_TARGET = torch.tensor([0, 0, 1, 1, 1, 2])
_SCORES = torch.nn.functional.one_hot(_PREDICTED, 4).float()


def test_classes_count_alike_and_absent_ones_not_at_all():
    assert class_accuracies(_SCORES, _TARGET)[:3].tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    assert class_accuracies(_SCORES, _TARGET)[3].isnan()
    assert float(balanced_accuracy(_SCORES, _TARGET)) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert float(worst_class_accuracy(_SCORES, _TARGET)) == 0
    assert float(worst_class_accuracy(_SCORES[:5], _TARGET[:5])) == 0.5


def test_more_samples_of_a_class_do_not_move_them():
    scores, target = _SCORES.repeat(2, 1), _TARGET.repeat(2)
    scores, target = torch.cat([scores, _SCORES[2:5]]), torch.cat([target, _TARGET[2:5]])
    torch.testing.assert_close(balanced_accuracy(scores, target), balanced_accuracy(_SCORES, _TARGET))
