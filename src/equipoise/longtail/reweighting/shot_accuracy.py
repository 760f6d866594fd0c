"""Accuracy of the classes with many, medium and few training samples, and of all classes alike.

The accuracy of a group is the mean of the accuracies of its classes; "balanced" is that of all classes, "micro" the
share of right samples. Classes that the test set lacks are left out of the means; a group without classes is NaN.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.class_stats import ClassStats
from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Count
from equipoise.core.validate import check_classes

Predictions: TypeAlias = ClassTarget | ClassScores


def shot_accuracy(
    pred: Predictions, target: ClassTarget, class_counts: Any, *, many: Count = 100, few: Count = 20
) -> dict[str, Float[Tensor, ""]]:
    """Accuracy by groups of classes.

    Args:
        pred: (n,) predicted classes, or (n, C) scores.
        target: (n,) true classes.
        class_counts: TRAINING samples per class.
        many: a class with more training samples has many; 100 for CIFAR-100 and ImageNet-LT, 1000 for CIFAR-10.
        few: a class with fewer has few; 20, and 200 for CIFAR-10.

    Returns:
        float64 scalars "many", "medium", "few", "balanced" and "micro".

    Raises:
        ValueError: on wrong shapes or classes outside [0, C).

    >>> shot_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), [500, 5])["few"]
    tensor(1., dtype=torch.float64)
    """
    metric = ShotAccuracy(class_counts, many=many, few=few, sync_on_compute=False)
    metric.update(pred, target)
    return metric.compute()


class ShotAccuracy(WholeMetric):
    """`shot_accuracy` over all samples seen.

    Args:
        class_counts: as in `shot_accuracy`.
        many: as in `shot_accuracy`.
        few: as in `shot_accuracy`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = ShotAccuracy([500, 50, 5])
    >>> metric.update(torch.eye(3), torch.tensor([0, 1, 0]))
    >>> {name: float(value) for name, value in metric.compute().items()}
    {'many': 0.5, 'medium': 1.0, 'few': nan, 'balanced': 0.75, 'micro': 0.6666666666666666}
    """

    is_differentiable = False
    higher_is_better = True

    right: Tensor
    total: Tensor

    @checked
    def __init__(self, class_counts: Any, *, many: Count = 100, few: Count = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stats = ClassStats.of(class_counts)
        self.groups = self.stats.groups(many, few)
        zeros = torch.zeros(self.stats.num_classes, dtype=torch.long)
        self.add_state("right", default=zeros, dist_reduce_fx="sum")
        self.add_state("total", default=zeros.clone(), dist_reduce_fx="sum")

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name((*self.groups, "balanced", "micro"), self.device)

    @checked
    def update(self, pred: Predictions, target: ClassTarget) -> None:
        """Take a batch of predicted classes (n,) or scores (n, C), and classes (n,)."""
        c = self.stats.num_classes
        if pred.ndim == 2:
            if pred.shape[1] != c:
                raise ValueError(f"pred must have {c} scores per sample, got {tuple(pred.shape)}")
            pred = pred.argmax(1)
        check_classes(target, c)
        self.total += torch.bincount(target, minlength=c)
        self.right += torch.bincount(target[pred == target], minlength=c)

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars "many", "medium", "few", "balanced" and "micro"; NaN where there is nothing."""
        accuracy = self.per_class()
        found = {name: accuracy[members.to(accuracy.device)].nanmean() for name, members in self.groups.items()}
        return {**found, "balanced": accuracy.nanmean(), "micro": self.right.sum().double() / self.total.sum()}

    def per_class(self) -> Float[Tensor, " c"]:
        """(C,) accuracy per class, float64; NaN for those that were not seen."""
        return self.right.double() / self.total
