"""Cosines of many rows with many others, block by block: the whole matrix is never held.

    similarity_i = max_j a_i · b_j / (|a_i| |b_j|)        row_i = the first j that reaches it

Rows are divided by their norms block by block, so that the inputs are not copied either. What is held is one block of
each side and one of products; every product is computed, none is estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROWS, _COLUMNS = 4096, 8192


class NearestRows(NamedTuple):
    """The most similar reference row of each query.

    Attributes:
        similarity: (n,) cosine with it.
        row: (n,) its number; the first of equal ones.
    """

    similarity: Float[Tensor, " n"]
    row: Int[Tensor, " n"]


class CosineBlock(NamedTuple):
    """A block of cosines.

    Attributes:
        rows: which of the first rows.
        columns: which of the others.
        cosines: of all their pairs; overwritten by the next block.
    """

    rows: slice
    columns: slice
    cosines: Float[Tensor, "a b"]


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where one of the tensors has it, float32 otherwise."""
    return torch.float64 if any(each.dtype == torch.float64 for each in tensors) else torch.float32


def unit_block(name: str, rows: Float[Tensor, "n d"], part: slice, dtype: torch.dtype) -> Float[Tensor, "b d"]:
    """Some rows, divided by their norms.

    Raises:
        ValueError: if one of them is not finite, or zero.

    >>> unit_block("rows", torch.tensor([[3.0, 4.0]]), slice(0, 1), torch.float32)
    tensor([[0.6000, 0.8000]])
    """
    block = rows[part].detach().to(dtype)
    norm = torch.linalg.vector_norm(block, dim=1, keepdim=True)
    if not bool((torch.isfinite(norm) & (norm > 0)).all()):
        start = part.start or 0
        for what, wrong in (
            ("holds NaN or infinity", ~torch.isfinite(block).all(1)),
            ("is zero, so that it has no direction", (block == 0).all(1)),
            ("has a norm that is out of range; scale it", ~torch.isfinite(norm[:, 0]) | (norm[:, 0] == 0)),
        ):
            if bool(wrong.any()):
                raise ValueError(f"row {start + int(wrong.nonzero()[0, 0])} of {name} {what}")
    return block / norm


def cosine_blocks(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "m d"],
    *,
    names: tuple[str, str] = ("first", "second"),
    block: tuple[int, int] = (_ROWS, _COLUMNS),
    upper: bool = False,
) -> Iterator[CosineBlock]:
    """The cosines of all pairs, a block of them at a time, row by row of blocks.

    Args:
        first: (n, d).
        second: (m, d).
        names: of the two in error messages.
        block: rows of each side that are multiplied at a time.
        upper: leave out blocks that lie wholly on or below the diagonal, where `first` and `second` are the same rows.

    Raises:
        ValueError: if the two differ in width, or a row is not finite, or zero.

    >>> [part.cosines.tolist() for part in cosine_blocks(torch.eye(2), torch.eye(2), block=(1, 2))]
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    if first.shape[1] != second.shape[1]:
        wide = f"{names[1]} must have d = {first.shape[1]} columns as {names[0]} has"
        raise ValueError(f"{wide}, got {second.shape[1]}")
    dtype = working_dtype(first, second)
    room = torch.empty(min(block[0], len(first)) * min(block[1], len(second)), dtype=dtype, device=first.device)
    for top in range(0, len(first), block[0]):
        rows = slice(top, min(top + block[0], len(first)))
        left = unit_block(names[0], first, rows, dtype)
        for start in range(0, len(second), block[1]):
            columns = slice(start, min(start + block[1], len(second)))
            if upper and columns.stop <= rows.start + 1:
                continue
            right = unit_block(names[1], second, columns, dtype)
            product = room[: len(left) * len(right)].view(len(left), len(right))
            with torch.autocast(first.device.type, enabled=False):
                torch.mm(left, right.T, out=product)
            yield CosineBlock(rows, columns, product)


def nearest_rows(
    queries: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    *,
    names: tuple[str, str] = ("queries", "reference"),
    block: tuple[int, int] = (_ROWS, _COLUMNS),
) -> NearestRows:
    """The most similar reference row of each query by cosine, exactly, in memory that does not grow with n m.

    Args:
        queries: (n, d).
        reference: (m, d), at least one row.
        names: of the two in error messages.
        block: rows of each side that are multiplied at a time.

    Raises:
        ValueError: if a row is not finite, or zero.

    >>> nearest_rows(torch.tensor([[1.0, 2.0]]), torch.eye(2)).row
    tensor([1])
    """
    dtype = working_dtype(queries, reference)
    best = torch.full((len(queries),), -torch.inf, dtype=dtype, device=queries.device)
    row = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    for rows, columns, cosines in cosine_blocks(queries, reference, names=names, block=block):
        # Maxima alone are faster than with their places, and in later blocks few rows improve.
        most = cosines.amax(1)
        better = (most > best[rows]).nonzero()[:, 0]
        if not len(better):
            continue
        many = 4 * len(better) > len(most)
        place = cosines.max(1).indices[better] if many else cosines[better].max(1).indices
        best[rows.start + better] = most[better]
        row[rows.start + better] = columns.start + place
    return NearestRows(best.clamp_(-1.0, 1.0), row)
