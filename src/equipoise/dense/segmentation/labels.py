"""Pixels and their labels as the pair kernels want them: checked, flat, what is ignored marked by one number."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import interpolate

from equipoise.core.types import MayBeEmpty

Maps: TypeAlias = Annotated[Float[Tensor, "images columns height width"], MayBeEmpty()]
Rows: TypeAlias = Annotated[Float[Tensor, "n columns"], MayBeEmpty()]
LabelMaps: TypeAlias = Annotated[Integer[Tensor, "images rows cols"], MayBeEmpty()]
RowLabels: TypeAlias = Annotated[Integer[Tensor, " n"], MayBeEmpty()]


def resized(logits: Tensor, target: Tensor, upsample: bool) -> Tensor:
    """The logits, bilinearly at the size of the label maps where that is asked for.

    >>> resized(torch.zeros(1, 2, 2, 2), torch.zeros(1, 4, 4), True).shape
    torch.Size([1, 2, 4, 4])
    """
    if not upsample or logits.ndim == 2 or target.ndim != 3 or logits.shape[2:] == target.shape[1:]:
        return logits
    return interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)


def flat_labels(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, int]:
    """Planes (images, columns, pixels), labels (images, pixels) and the number of classes, which marks ignored pixels.

    Scores of one column have two classes.

    Args:
        logits: (B, C, H, W) or (N, C).
        target: (B, H, W) or (N,).
        ignore_index: of pixels that do not count.

    Raises:
        ValueError: if the shapes do not go together, or a label is neither a class nor `ignore_index`.

    >>> flat_labels(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]), 255)[1:]
    (tensor([[1, 2]]), 2)
    """
    wanted = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != wanted:
        sizes = logits.ndim == 4 and target.ndim == 3 and target.shape[0] == logits.shape[0]
        remedy = "; resize the logits to the labels, or pass upsample=True" if sizes else ""
        given = f"target has shape {tuple(target.shape)}, wanted {wanted} beside logits of shape {tuple(logits.shape)}"
        raise ValueError(given + remedy)
    classes = 2 if logits.shape[1] == 1 else logits.shape[1]
    labels = marked(target, classes, ignore_index)
    if logits.ndim == 2:
        return logits.T[None], labels[None], classes
    return logits.flatten(2), labels.flatten(1), classes


def marked(target: Tensor, classes: int, ignore_index: int, name: str = "target") -> Tensor:
    """The labels as int64, with the number of classes in place of `ignore_index`.

    Raises:
        ValueError: if one is neither a class nor `ignore_index`.

    >>> marked(torch.tensor([0, 255]), 2, 255)
    tensor([0, 2])
    """
    labels = target.long()
    ignored = labels == ignore_index
    labels = labels.masked_fill(ignored, classes)
    if not torch.compiler.is_compiling() and labels.numel():
        wrong = labels[((labels < 0) | (labels >= classes)) & ~ignored].unique().tolist()
        if wrong:
            shown = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
            raise ValueError(
                f"{name} holds the label{'s' if len(wrong) > 1 else ''} {shown}, wanted classes from 0 to "
                f"{classes - 1} or ignore_index={ignore_index}; map other marks to ignore_index"
            )
    return labels
