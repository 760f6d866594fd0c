"""What multi-label measures and losses share: normalisers, and ragged rows in one table."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equipoise.core.pairs.means import wide

Normalizer: TypeAlias = Literal["one", "num_relevant", "ideal"]


class Packed(NamedTuple):
    """The places where a ragged mask is true, moved to the left.

    Attributes:
        columns: (n, width) columns; 0 beyond the end of a row.
        valid: (n, width) which entries are within their row.
    """

    columns: Tensor
    valid: Tensor


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
