"""Squared gaps |x − y|² of all pairs from one product of matrices, without what cancellation would cost.

|x|² + |y|² − 2⟨x,y⟩ is wrong by a rounding error of the *lengths*, however near the two are. Pairs for which that
matters, whose gap is far below their lengths, are few; they are computed anew from their difference.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Numbers that a block of work may hold, so that it neither fills the memory nor falls out of the cache.
_BLOCK = 1 << 19
Exact = Callable[[Tensor, Tensor], Tensor]
"""(rows, columns) → |x − y|² of these pairs, from their difference."""


def all_products(x: Tensor, y: Tensor) -> Tensor:
    """⟨x,y⟩ of (n, d) and (m, d), in the precision of the vectors also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.T


def all_gaps(x: Tensor, y: Tensor, scale: Tensor | None = None) -> Tensor:
    """|x − s y|² of (n, d) and (m, d), where s is 1 or a factor (n, m) of each pair."""
    if scale is None:
        y2, product = y.square().sum(-1), all_products(x, y)
    else:
        y2, product = scale.square() * y.square().sum(-1), scale * all_products(x, y)

    def exact(rows: Tensor, columns: Tensor) -> Tensor:
        of_pairs = y[columns] if scale is None else y[columns] * scale[rows, columns, None]
        return (x[rows] - of_pairs).square().sum(-1)

    return gaps_of_lengths(x.square().sum(-1, keepdim=True), y2, product, exact, x.shape[1])


def gaps_of_lengths(x2: Tensor, y2: Tensor, product: Tensor, exact: Exact, width: int) -> Tensor:
    """|x − y|² from |x|², |y|² and ⟨x,y⟩ of all pairs, with the nearest anew from `exact`."""
    lengths = x2 + y2
    gap = torch.sub(lengths, product, alpha=2)
    # Left as they are, gaps are right to the fourth root of rounding cubed: 5 digits of float32, 12 of float64.
    near = gap <= torch.finfo(gap.dtype).eps ** 0.25 * lengths
    if not bool(near.any()):
        return gap
    rows, columns = near.nonzero(as_tuple=True)
    return gap.index_put((rows, columns), in_blocks(exact, rows, columns, size=width))


def in_blocks(
    function: Callable[..., Tensor], *tensors: Tensor, whole: tuple[Tensor, ...] = (), size: int, dim: int = 0
) -> Tensor:
    """A function of rows, over blocks of rows; what is in between is recomputed for the gradient, and not kept.

    Args:
        function: of `tensors`, which it treats row by row, and of `whole`.
        tensors: cut along their first dimension, the same size for all.
        whole: given to every block as they are.
        size: numbers that it holds for each row.
        dim: of the results, along which they are joined.
    """
    step = max(1, _BLOCK // max(size, 1))
    if len(tensors[0]) <= step or torch.compiler.is_compiling():
        return function(*tensors, *whole)
    blocks = zip(*(each.split(step) for each in tensors), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([_forgetful(function, *block, *whole) for block in blocks], dim)
    joined, place = torch.empty(0), 0
    for block in blocks:
        found = function(*block, *whole)
        if not place:
            shape = list(found.shape)
            shape[dim] = len(tensors[0])
            joined = found.new_empty(shape)
        joined.narrow(dim, place, len(block[0])).copy_(found)
        place += len(block[0])
    return joined


def _forgetful(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The function's value, of which only the arguments are kept for the gradient."""
    found: Tensor = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return found
