"""Hinge and squared hinge over all pairs, by sorting.

A pair counts while its lack d = u_i + a_j − γ is negative, that is for the a_j below the reach γ − u_i. With a sorted,
these come first, so that running sums up to the place of the reach give each sample's sum over the pairs that count:

    Σ_j v_j d_ij = u_i V + A − γ V        V = Σ v_j,  A = Σ v_j a_j  over the a_j below the reach

and the same from the other side. The squared hinge needs no third sum, since d² = d · (u_i − γ/2) + d · (a_j − γ/2) can
be summed for each part from its own side. The file works with scores that are shifted to take the γ/2 in.

O(n log n) time; memory for the order, the sorted scores, the counts and one running sum a side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.pairs.means import PairMeans, Share, Side, Want, wide

# Samples looked at together on a CPU: what is computed of them stays in the cache, and torch runs steps below 2^15 in
# the calling thread. That costs little, as sorting is the larger part, and never waits for a core that is busy.
_BLOCK = 30_000


class _Sorted(NamedTuple):
    """One side in ascending order: scores, where they came from, their shares, and what to add to the scores."""

    scores: Tensor
    order: Tensor
    share: Share
    shift: Tensor


def hinge_means(pos: Tensor, neg: Tensor, w: Share, v: Share, margin: float, want: Want, *, squared: bool) -> PairMeans:
    """`pair_means` of max(0, γ − u − a) or its square, for u = pos and a = −neg.

    Args:
        pos: scores of the positives, (..., n).
        neg: scores of the negatives; the same object as `pos` saves a sort.
        w: shares of the positives.
        v: shares of the negatives.
        margin: γ.
        want: what is asked of single samples.
        squared: whether the hinge is squared.
    """
    u, u_order = _sort(pos)
    a, a_order = (-u.flip(-1), u_order.flip(-1)) if neg is pos else _sort(neg, negated=True)
    # A shift of one side against the other leaves the pairs as they are; with the medians as near to 0 as can be, the
    # sums keep most digits.
    u_middle, a_middle = (x[..., x.shape[-1] // 2, None].to(wide(x)) for x in (u, a))
    apart = (a_middle - u_middle) / 2
    # Where what is wanted has a jump, a tie must be told from a near miss.
    exact = "curvature" in want or not squared
    if u.shape[-1] <= a.shape[-1]:
        u_count = _count(u, a, margin, exact)
        a_count = _turned(u_count, a.shape[-1])
    else:
        a_count = _count(a, u, margin, exact)
        u_count = _turned(a_count, u.shape[-1])
    u_side, a_side = _side(u, u_order, w, apart, margin), _side(a, a_order, v, -apart, margin)
    of_u, u_value = _look_up(u_side, u_count, a_side, w, want, squared)
    of_a, a_value = _look_up(a_side, a_count, u_side, v, want, squared)
    return PairMeans((u_value + a_value).clamp_min(0), of_u, of_a)


def _side(scores: Tensor, order: Tensor, share: Share, apart: Tensor, margin: float) -> _Sorted:
    if scores.dtype == apart.dtype:
        # Beside an offset as wide as the scores themselves the margin would lose its digits.
        scores, apart = scores + apart, torch.zeros_like(apart)
    return _Sorted(scores, order, _pick(share, order) if isinstance(share, Tensor) else share, apart - margin / 2)


def _sort(x: Tensor, negated: bool = False) -> tuple[Tensor, Tensor]:
    """The scores (or their negatives) in ascending order, and where each came from."""
    if x.device.type != "cpu":
        scores, order = (-x if negated else x).sort(-1)
        return scores, order
    # NumPy sorts with vector instructions, several times faster than torch does on a CPU.
    array = np.negative(x.numpy()) if negated else x.numpy()
    order = torch.from_numpy(_integer_argsort(array) if array.dtype == np.float32 else array.argsort(-1))
    return _pick(torch.from_numpy(array), order), order


def _integer_argsort(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """An argsort by one sort of 64-bit integers, which is faster.

    The bits of a float, those of a negative one turned round, compare as an integer does; the position goes below them.
    """
    bits = np.ascontiguousarray(x).view(np.int32)
    keys = (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
    keys <<= 32
    keys |= np.arange(x.shape[-1])
    keys.sort(-1)
    keys &= 0xFFFFFFFF
    return keys


def _pick(values: Tensor, places: Tensor) -> Tensor:
    """`values` at `places` of the last dimension."""
    # Both are the same in one dimension, but `gather` is three times slower.
    return values.index_select(0, places) if values.ndim == 1 else values.gather(-1, places)


def _count(y: Tensor, x: Tensor, margin: float, exact: bool) -> Tensor:
    """How many x make a pair that counts with each y; both ascending, so that these are the first ones."""
    if exact:
        x, reach = x.to(wide(x)), _reach(y.to(wide(y)), margin)
    else:
        reach = margin - y
    if x.ndim == 1 and x.device.type == "cpu":
        return torch.from_numpy(np.searchsorted(x.numpy(), reach.numpy()))
    return torch.searchsorted(x, reach)


def _turned(count: Tensor, length: int) -> Tensor:
    """The count of the other side, without a second search: x_j counts with the y whose own count is above j."""
    steps = count.new_zeros((*count.shape[:-1], length + 1))
    steps[..., 0] = count.shape[-1]
    steps.scatter_add_(-1, count, count.new_full((), -1).expand_as(count))
    return steps.cumsum_(-1)[..., :-1]


def _blocks(like: Tensor) -> Iterator[slice]:
    """Parts of the last dimension."""
    n = like.shape[-1]
    step = max(1, _BLOCK * n // like.numel()) if like.device.type == "cpu" else n
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def _running(x: _Sorted, power: int) -> Tensor:
    """Sums of share · (shifted score)^power over the first 0, 1, ..., n samples."""
    n = x.scores.shape[-1]
    sums = x.shift.new_empty((*x.scores.shape[:-1], n + 1))
    sums[..., 0] = 0
    for block in _blocks(x.scores):
        term = sums[..., 1 + block.start : 1 + block.stop]
        torch.add(x.scores[..., block], x.shift, out=term)
        if power != 1:
            term.pow_(power)
        if isinstance(x.share, Tensor):
            term.mul_(x.share[..., block])
    return sums.cumsum_(-1)


def _look_up(y: _Sorted, count: Tensor, x: _Sorted, y_share: Share, want: Want, squared: bool) -> tuple[Side, Tensor]:
    """Each y averaged over its pairs with x, and this side's part of the mean over all pairs."""
    weight_sums = _running(x, 0) if isinstance(x.share, Tensor) else None
    score_sums = _running(x, 1)
    square_sums = _running(x, 2) if "value" in want and squared else None
    means = {name: torch.empty_like(y.scores) for name in want}
    value = x.shift.new_zeros(y.scores.shape[:-1])
    unit = 1.0 if isinstance(x.share, Tensor) else x.share
    for block in _blocks(y.scores):
        order, places = y.order[..., block], count[..., block]
        z = y.scores[..., block] + y.shift
        weight = places.to(z.dtype) if weight_sums is None else _pick(weight_sums, places)
        sums = _pick(score_sums, places)
        lack = torch.addcmul(sums, z, weight)
        part = lack * z if squared else lack / -2
        value = value + (part * y.share[..., block] if isinstance(y.share, Tensor) else part).sum(-1)
        if "slope" in want:
            _put(means["slope"], order, lack if squared else -weight)
        if "curvature" in want:
            _put(means["curvature"], order, weight if squared else torch.zeros_like(weight))
        if "value" in want:
            loss = -lack
            if square_sums is not None:
                loss = _pick(square_sums, places) + z * (lack + sums)
            _put(means["value"], order, unit * loss)
    scale = (2 * unit if squared else unit) * y_share
    return Side(scale, means), value * (unit if isinstance(y.share, Tensor) else unit * y.share)


def _put(target: Tensor, order: Tensor, values: Tensor) -> None:
    target.scatter_(-1, order, values.to(target.dtype))


def _reach(y: Tensor, margin: float) -> Tensor:
    """The smallest x with y + x >= margin in floating point, so that a tie is a tie here where it is one in the sum.

    margin − y, rounded, would not do: 0.6 − 0.1 is 0.5, but 0.6 − 0.5 is less than 0.1.
    """
    if margin == 0:
        return -y  # The sign of a sum is exact.
    # y + x rounds to the margin as soon as its exact value passes the middle between the margin and the float below.
    half_step = (margin - math.nextafter(margin, 0.0)) / 2
    even = (margin / (2 * half_step)) % 2 == 0
    guess = margin - y
    # Knuth's two-sum: the rounding error of the difference, exactly.
    back = guess - margin
    error = (margin - (guess - back)) + (-y - back)
    rest = error - half_step
    reach = guess + rest
    back = reach - guess
    left = (guess - (reach - back)) + (rest - back)
    up = (left > 0) | ((left == 0) & (not even))
    return torch.where(up, torch.nextafter(reach, torch.full_like(reach, math.inf)), reach)
