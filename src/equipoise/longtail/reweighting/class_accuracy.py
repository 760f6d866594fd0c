"""Accuracy of every class, and what it comes to where all classes count alike.

Classes that the target lacks are left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.validate import check_multiclass


def class_accuracies(scores: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " c"]:
    """Share of the samples of every class whose highest score is their own, float64; NaN for an absent class.

    >>> class_accuracies(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    check_multiclass(scores, target)
    right = torch.bincount(target[scores.argmax(1) == target], minlength=scores.shape[1])
    return right.double() / torch.bincount(target, minlength=scores.shape[1])


def balanced_accuracy(scores: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of the accuracies of the classes.

    >>> balanced_accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor(0.7500, dtype=torch.float64)
    """
    return class_accuracies(scores, target).nanmean()


def worst_class_accuracy(scores: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Accuracy of the class that has the least.

    >>> worst_class_accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    return class_accuracies(scores, target).nan_to_num(1.0).min()
