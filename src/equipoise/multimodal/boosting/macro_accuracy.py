"""Accuracy where all classes count alike: the mean of the recall of each class that the target has.

A class that is predicted and never true counts for nothing, whereas the macro average of `torchmetrics` gives it a
recall of 0.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from equipoise.core.metrics import WholeMetric
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, NumClasses, Scalar
from equipoise.core.validate import check_classes

Predictions: TypeAlias = ClassTarget | ClassScores


class MacroAccuracy(WholeMetric):
    """Mean over the classes that occur in the target of the share of their samples that are predicted right.

    Args:
        num_classes: C.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: on fewer than 2 classes.

    >>> metric = MacroAccuracy(3)
    >>> metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]))
    >>> metric.compute()
    tensor(0.2500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True

    right: Tensor
    total: Tensor

    @checked
    def __init__(self, num_classes: NumClasses, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, dtype=torch.long)
        self.add_state("right", default=zeros, dist_reduce_fx="sum")
        self.add_state("total", default=zeros.clone(), dist_reduce_fx="sum")

    @checked
    def update(self, pred: Predictions, target: ClassTarget) -> None:
        """Take a batch of predicted classes (n,) or scores (n, C), and true classes (n,)."""
        if pred.ndim == 2:
            if pred.shape[1] != self.num_classes:
                raise ValueError(f"pred must have {self.num_classes} scores per sample, got shape {tuple(pred.shape)}")
            pred = pred.argmax(1)
        check_classes(target, self.num_classes)
        self.total += torch.bincount(target, minlength=self.num_classes)
        self.right += torch.bincount(target[pred == target], minlength=self.num_classes)

    def compute(self) -> Scalar:
        """float64 scalar."""
        return (self.right.double() / self.total).nanmean()
