"""Accuracy per class, and what it comes to where all classes count alike.

Classes that the target lacks are left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Scalar


@checked
def class_accuracies(scores: ClassScores, target: ClassTarget) -> Float[Tensor, " classes"]:
    """Share of the samples per class whose highest score is their own, float64; NaN for an absent class.

    >>> class_accuracies(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    right = torch.bincount(target[scores.argmax(1) == target], minlength=scores.shape[1])
    return right.double() / torch.bincount(target, minlength=scores.shape[1])


def balanced_accuracy(scores: ClassScores, target: ClassTarget) -> Scalar:
    """Mean of the accuracies of the classes.

    >>> balanced_accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor(0.7500, dtype=torch.float64)
    """
    return class_accuracies(scores, target).nanmean()


def worst_class_accuracy(scores: ClassScores, target: ClassTarget) -> Scalar:
    """Accuracy of the class that has the least.

    >>> worst_class_accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    return class_accuracies(scores, target).nan_to_num(1.0).min()
