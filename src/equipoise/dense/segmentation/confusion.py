"""Overlap of predicted and true label maps, from one matrix of counts over all images.

With the C × C matrix of valid pixels, rows true and columns predicted, TP its diagonal, FP and FN what else is in the
column and the row:

    IoU = TP / (TP + FP + FN)      Dice = 2 TP / (2 TP + FP + FN)      mIoU, mDice = means over classes
    pixel accuracy = Σ TP / total  mean accuracy = mean of TP / (TP + FN)
    κ = (p − e) / (1 − e), with p the pixel accuracy and e that of independent rows and columns of the same sums

A class that is neither predicted nor there has no overlap (NaN) and is left out of every mean. IoU of a group of
classes is the mean over its classes on the matrix of all images; a mean over images would weigh a class by how often it
occurs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Integer
from torch import Tensor

from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty, NumClasses
from equipoise.dense.segmentation.labels import marked

Labels: TypeAlias = Annotated[Integer[Tensor, "*shape"], MayBeEmpty()]
Groups: TypeAlias = Mapping[str, Sequence[int]]


@checked
def confusion_counts(
    pred: Labels, target: Labels, num_classes: NumClasses, *, ignore_index: int = 255
) -> Integer[Tensor, "classes classes"]:
    """How many valid pixels of each class (rows) are predicted as each class (columns).

    Args:
        pred: class indices of any shape; what it holds at ignored pixels does not matter.
        target: class indices of the same shape.
        num_classes: C.
        ignore_index: label of pixels that do not count.

    Returns:
        (C, C) int64.

    Raises:
        ValueError: if shapes differ, a label is no class, or a valid pixel is predicted as none.

    >>> confusion_counts(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    truth = marked(target, num_classes, ignore_index).reshape(-1)
    valid = truth < num_classes
    found = pred.long().reshape(-1)[valid]
    if found.numel():
        least, most = (int(end) for end in found.aminmax())
        if least < 0 or most >= num_classes:
            wrong = least if least < 0 else most
            raise ValueError(f"pred holds the value {wrong} at a valid pixel, wanted classes 0 to {num_classes - 1}")
    return torch.bincount(truth[valid] * num_classes + found, minlength=num_classes**2).view(num_classes, num_classes)


def overlap(confusion: Tensor, groups: Groups | None = None) -> dict[str, Tensor]:
    """The measures of a confusion matrix, see `segmentation_scores`.

    >>> overlap(torch.tensor([[1, 1], [0, 1]]))["iou"]
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    counts = confusion.double()
    right, true, predicted, total = counts.diagonal(), counts.sum(1), counts.sum(0), counts.sum()
    iou, dice = right / (true + predicted - right), 2 * right / (true + predicted)
    accuracy, chance = right.sum() / total, (true * predicted).sum() / total**2
    found = {
        "iou": iou,
        "dice": dice,
        "recall": right / true,
        "miou": iou.nanmean(),
        "mean_dice": dice.nanmean(),
        "pixel_accuracy": accuracy,
        "mean_accuracy": (right / true).nanmean(),
        "kappa": (accuracy - chance) / (1 - chance),
    }
    for name, members in (groups or {}).items():
        found[f"miou/{name}"] = iou[list(members)].nanmean()
    return found


@checked
def segmentation_scores(
    pred: Labels,
    target: Labels,
    num_classes: NumClasses,
    *,
    ignore_index: int = 255,
    groups: Groups | None = None,
) -> dict[str, Tensor]:
    """Overlap of predicted and true label maps.

    Args:
        pred: (B, H, W) class indices, or any other shape.
        target: class indices of the same shape.
        num_classes: C.
        ignore_index: label of pixels that do not count.
        groups: name → classes, for the mean IoU of each group.

    Returns:
        float64 "iou", "dice" and "recall" of every class (C,), "miou", "mean_dice", "pixel_accuracy", "mean_accuracy",
        "kappa", and "miou/NAME" of every group. NaN where it is undefined.

    Raises:
        ValueError: as `confusion_counts`, and if a group names a class that there is not.

    >>> found = segmentation_scores(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), 3, groups={"tail": [1, 2]})
    >>> found["iou"], found["miou/tail"]
    (tensor([0.5000, 0.5000,    nan], dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """
    return overlap(
        confusion_counts(pred, target, num_classes, ignore_index=ignore_index), _checked_groups(groups, num_classes)
    )


class SegmentationMeter(WholeMetric):
    """`segmentation_scores` over all images seen.

    Args:
        num_classes: C.
        ignore_index: label of pixels that do not count.
        groups: name → classes, for the mean IoU of each group.
        kwargs: of `torchmetrics.Metric`.

    >>> meter = SegmentationMeter(2)
    >>> meter.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]))
    >>> meter.update(torch.tensor([[[1, 1]]]), torch.tensor([[[0, 255]]]))
    >>> meter.compute()["iou"]
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True

    @checked
    def __init__(
        self, num_classes: NumClasses, *, ignore_index: int = 255, groups: Groups | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.groups = _checked_groups(groups, num_classes)
        self.confusion: Tensor
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    @checked
    def update(self, pred: Labels, target: Labels) -> None:
        """Take predicted and true label maps of one shape."""
        self.confusion += confusion_counts(pred, target, self.num_classes, ignore_index=self.ignore_index)

    def compute(self) -> dict[str, Tensor]:
        """The measures of all images, see `segmentation_scores`."""
        return overlap(self.confusion, self.groups)

    def nothing(self) -> dict[str, Tensor]:
        """NaN by name."""
        found = overlap(torch.zeros_like(self.confusion), self.groups)
        return {**found, **nan_by_name([name for name, value in found.items() if value.ndim == 0], self.device)}


def _checked_groups(groups: Groups | None, num_classes: int) -> dict[str, tuple[int, ...]] | None:
    if groups is None:
        return None
    found = {name: tuple(int(k) for k in members) for name, members in groups.items()}
    for name, members in found.items():
        wrong = [k for k in members if not 0 <= k < num_classes]
        if wrong:
            raise ValueError(f"groups: {name!r} names the class {wrong[0]}, wanted classes from 0 to {num_classes - 1}")
    return found
