"""What multi-label measures and losses share: the two sides of a target, and ragged rows in one table."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from equipoise.core.pairs.means import wide
from equipoise.core.types import MayBeNaN

Normalizer: TypeAlias = Literal["one", "num_relevant", "ideal"]
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


class Packed(NamedTuple):
    """The places where a ragged mask is true, moved to the left.

    Attributes:
        columns: (n, width) columns; 0 beyond the end of a row.
        valid: (n, width) which entries are within their row.
    """

    columns: Tensor
    valid: Tensor


def read_labels(target: LabelMatrix, mask: LabelMask | None = None, ignore_index: int | None = None) -> Labels:
    """The sides of a target; what is NaN, `ignore_index` or outside the mask is on neither.

    Raises:
        ValueError: if it holds anything else but 0 and 1, or `ignore_index` is one of them.

    >>> read_labels(torch.tensor([[1.0, 0.0, torch.nan]])).relevant
    tensor([[ True, False, False]])
    """
    if ignore_index in (0, 1):
        raise ValueError(f"ignore_index={ignore_index} is a label; mark unknown labels by another number")
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
                "labels by a mask or by NaN"
            )
    return Labels(relevant, irrelevant)


def normalizer_values(num_relevant: Int[Tensor, " n"], k: int, normalizer: Normalizer) -> Tensor:
    """α of every sample in double precision: 1, n, or what a perfect ranking attains; 1 where nothing is relevant."""
    n = num_relevant.clamp_min(1).to(wide(num_relevant))
    if normalizer == "one":
        return torch.ones_like(n)
    if normalizer == "num_relevant":
        return n
    shown = n.clamp_max(k)
    return shown * (2 * k + 1 - shown) / (2 * k)


def row_counts(mask: Bool[Tensor, "n c"]) -> Int[Tensor, " n"]:
    """True entries of every row; summing booleans as int64 would first copy them to eight bytes each."""
    return mask.sum(1, dtype=torch.int32).long()


def pack(mask: Bool[Tensor, "n c"]) -> Packed:
    """Move the true places of every row to the left, in their order.

    >>> pack(torch.tensor([[False, True, True], [True, False, False]])).columns
    tensor([[1, 2],
            [0, 0]])
    """
    rows, columns = mask.nonzero(as_tuple=True)
    counts = row_counts(mask)
    places = torch.arange(len(rows), device=mask.device) - (counts.cumsum(0) - counts)[rows]
    width = int(counts.max()) if len(counts) else 0
    index = torch.zeros(mask.shape[0], width, dtype=torch.long, device=mask.device)
    index[rows, places] = columns
    return Packed(index, torch.arange(width, device=mask.device) < counts[:, None])
