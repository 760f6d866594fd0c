"""The two sides of a multi-label target, read in one way by all that train on it or judge by it."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.types import MayBeNaN

LabelMask: TypeAlias = Bool[Tensor, "n labels"]
LabelMatrix: TypeAlias = Annotated[
    Integer[Tensor, "n labels"] | Bool[Tensor, "n labels"] | Float[Tensor, "n labels"], MayBeNaN()
]
"""0 and 1, NaN where unknown; anything outside a mask, which is why `read_labels` and not the type says so."""


class Labels(NamedTuple):
    """Which labels of a sample are relevant and which are irrelevant; an unobserved label is neither.

    Attributes:
        relevant: (n, C).
        irrelevant: (n, C).
    """

    relevant: Tensor
    irrelevant: Tensor


def check_ignore_index(ignore_index: int | None) -> None:
    """Raise `ValueError` if what marks unknown labels is a label."""
    if ignore_index in (0, 1):
        raise ValueError(f"ignore_index={ignore_index} is a label; mark unknown labels by another number")


def read_labels(target: LabelMatrix, mask: LabelMask | None = None, ignore_index: int | None = None) -> Labels:
    """The sides of a target; what is NaN, `ignore_index` or outside the mask is on neither.

    Raises:
        ValueError: if it holds anything else but 0 and 1, or `ignore_index` is one of them.

    >>> read_labels(torch.tensor([[1.0, 0.0, torch.nan]])).relevant
    tensor([[ True, False, False]])
    """
    check_ignore_index(ignore_index)
    relevant, irrelevant = target == 1, target == 0
    if mask is not None:
        relevant, irrelevant = relevant & mask, irrelevant & mask
    if not torch.compiler.is_compiling():
        known = ~target.isnan() if target.is_floating_point() else torch.ones_like(relevant)
        if mask is not None:
            known &= mask
        if ignore_index is not None:
            known &= target != ignore_index
        wrong = known & ~(relevant | irrelevant)
        if bool(wrong.any()):
            raise ValueError(
                f"target holds the value {target[wrong][0].item()}, wanted 0 (absent) or 1 (present); mark unknown "
                "labels by NaN or ignore_index, or leave them out of a mask"
            )
    return Labels(relevant, irrelevant)
