"""What every multi-label measure and loss asks of its input, and the relevant labels of ragged rows in one table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from equipoise.core.pairs.means import wide
from equipoise.core.validate import check_choice, check_finite, check_nonempty

NORMALIZERS = ("one", "num_relevant", "ideal")

LabelMatrix = Num[Tensor, "n c"] | Bool[Tensor, "n c"]


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


def read_labels(scores: Tensor, target: Tensor, mask: Tensor | None = None, *, name: str = "scores") -> Labels:
    """Check scores (n, C) and a target (n, C) in {0, 1}; targets outside `mask` are not looked at.

    Raises:
        ValueError: on shapes that differ, no samples, NaN or infinite scores, targets other than 0 and 1, or a mask
            that is not boolean.
    """
    if scores.ndim == 2 and target.ndim == 1:
        raise ValueError(
            f"target has shape {tuple(target.shape)}: class indices, one a sample; a multi-label target is a matrix "
            f"like {name} {tuple(scores.shape)}. One-hot encode it, or use the AUTKC measures and losses"
        )
    if scores.ndim != 2 or scores.shape != target.shape:
        raise ValueError(
            f"{name} and target must both have shape (n, labels), got {tuple(scores.shape)} and {tuple(target.shape)}"
        )
    check_nonempty(name, scores)
    check_finite(name, scores)
    if mask is not None and (mask.dtype != torch.bool or mask.shape != scores.shape):
        raise ValueError(
            f"mask must be boolean of shape {tuple(scores.shape)}, True where the label is known, got {mask.dtype} of "
            f"{tuple(mask.shape)}"
        )
    relevant, irrelevant = target == 1, target == 0
    if mask is not None:
        relevant, irrelevant = relevant & mask, irrelevant & mask
    if not torch.compiler.is_compiling():
        wrong = ~(relevant | irrelevant) if mask is None else mask & ~(relevant | irrelevant)
        if bool(wrong.any()):
            raise ValueError(
                f"multi-label target must contain only 0 and 1, got {target[wrong][0].item()!r}; mark unknown labels "
                "by a mask"
            )
    return Labels(relevant, irrelevant)


def check_k(k: int, num_labels: int | None = None) -> None:
    """Raise `ValueError` unless k is a whole number from 1 to the number of labels."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1 or (num_labels is not None and k > num_labels):
        most = "" if num_labels is None else f" and at most the number of labels, {num_labels}"
        raise ValueError(f"k={k!r} must be a whole number of at least 1{most}")


def normalizer_values(num_relevant: Int[Tensor, " n"], k: int, normalizer: str) -> Tensor:
    """α of every sample in double precision: 1, n, or what a perfect ranking attains; 1 where nothing is relevant."""
    check_choice("normalizer", normalizer, NORMALIZERS)
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
