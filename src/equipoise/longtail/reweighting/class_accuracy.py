"""Accuracy per class, and what it comes to where all classes count alike.

Classes that the target lacks, or that have no weight, are left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, SampleWeight, Scalar


@checked
def class_accuracies(
    scores: ClassScores, target: ClassTarget, *, sample_weight: SampleWeight | None = None
) -> Float[Tensor, " classes"]:
    """Share of the samples per class whose highest score is their own, float64; NaN for an absent class.

    Args:
        scores: (n, C).
        target: (n,) class indices.
        sample_weight: (n,) non-negative, how often each sample counts.

    >>> class_accuracies(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    weight = torch.ones_like(target, dtype=torch.float64) if sample_weight is None else sample_weight.double()
    hit = scores.argmax(1) == target
    right, all_of_class = (
        torch.bincount(target, counted, minlength=scores.shape[1]) for counted in (weight * hit, weight)
    )
    return right / all_of_class


def balanced_accuracy(scores: ClassScores, target: ClassTarget, *, sample_weight: SampleWeight | None = None) -> Scalar:
    """Mean of the accuracies of the classes.

    Args:
        scores: as in `class_accuracies`.
        target: as in `class_accuracies`.
        sample_weight: as in `class_accuracies`.

    >>> balanced_accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor(0.7500, dtype=torch.float64)
    """
    return class_accuracies(scores, target, sample_weight=sample_weight).nanmean()


def worst_class_accuracy(
    scores: ClassScores, target: ClassTarget, *, sample_weight: SampleWeight | None = None
) -> Scalar:
    """Accuracy of the class that has the least.

    Args:
        scores: as in `class_accuracies`.
        target: as in `class_accuracies`.
        sample_weight: as in `class_accuracies`.

    >>> worst_class_accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    return class_accuracies(scores, target, sample_weight=sample_weight).nan_to_num(1.0).min()
