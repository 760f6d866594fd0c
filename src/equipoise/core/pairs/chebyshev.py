"""Many scores as few nodes, so that a smooth surrogate needs the pairs of nodes only.

Scores are sorted into intervals of length 1/γ, and each sample is replaced by the q Chebyshev nodes of its interval,
with the values there of the Lagrange polynomials ℓ_r as weights:

    Σ_j v_j f(x − y_j)  =  Σ_nodes V_r f(x − c_r)        V_r = Σ_j v_j ℓ_r(y_j)

and in x the same way back, from the values at nodes to every sample. For the logistic surrogate, its slope and its
curvature this is interpolation of a function whose nearest singularity is π/γ away: on half an interval, 1/(2γ), it
converges as ρ^−q with ρ = 2π + √(4π² + 1) = 12.6, so that q = 12 leaves an error of 1e-13 of the function nearby, which
is the rounding of a float64 sum. The cost is O(n q) plus the pairs of the nodes, of which there are q for each unit of
γ s that is inhabited, however many samples there are.

This is the one-dimensional black-box fast multipole method without its hierarchy: Fong and Darve, Journal of
Computational Physics 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from equipoise.core.pairs.means import PairMeans, Side, Want
from equipoise.core.pairs.surrogates import Surrogate

_NODES = 12
# Beyond so many intervals they could no longer be told apart in float64, and nothing would be saved.
_WIDEST = 2.0**40
# Samples looked at together: their polynomials stay in the cache, and one thread is enough for them.
_BLOCK = 1 << 11


def folded_means(
    tiles: Callable[..., PairMeans],
    pos: Tensor,
    neg: Tensor,
    w: Tensor,
    v: Tensor,
    surrogate: Surrogate,
    margin: float,
    want: Want,
) -> PairMeans:
    """What `tiles` finds by looking at every pair, from the pairs of nodes on the sides where that saves work.

    Args:
        tiles: computes the means over all pairs of the arguments that follow, pair by pair.
        pos: scores (n,) of the positives.
        neg: scores of the negatives.
        w: shares of the positives.
        v: shares of the negatives.
        surrogate: the logistic one, or another that is as smooth in γ t.
        margin: γ.
        want: what is asked of single samples.
    """
    # Nodes are rounded where they lie; about 0 that costs no digits, whatever offset the scores have in common.
    centre = pos[:1].to(w.dtype)
    centred = [(scores.to(share.dtype) - centre, share) for scores, share in ((pos, w), (neg, v))]
    sides = [(scores, share, fold(scores, margin)) for scores, share in centred]
    if all(folding is None for *_, folding in sides):
        return tiles(pos, neg, w, v, surrogate, margin, want)
    (p, p_share), (q, q_share) = (
        (scores, share) if folding is None else (folding.nodes, folding.gather(share))
        for scores, share, folding in sides
    )
    found = tiles(p, q, p_share, q_share, surrogate, margin, want)
    of_u, of_a = (
        side if folding is None else Side(share, folding.spread(side.means))
        for side, (_, share, folding) in zip((found.u, found.a), sides, strict=True)
    )
    return PairMeans(found.value, of_u, of_a)


class Folding:
    """One side's scores, folded into nodes.

    Attributes:
        nodes: where the nodes are, in the unit of the scores, those of an interval together.
    """

    def __init__(self, place: Tensor, offset: Tensor, nodes: Tensor) -> None:
        self._place, self._offset, self.nodes = place, offset, nodes

    def gather(self, weight: Tensor) -> Tensor:
        """Weights of the nodes that stand for weights (n,) of the samples."""
        moments = weight.new_zeros((self.nodes.shape[0] // _NODES, _NODES))
        for start in range(0, weight.shape[0], _BLOCK):
            block = slice(start, start + _BLOCK)
            moments.index_add_(0, self._place[block], _polynomials(self._offset[block]) * weight[block, None])
        return (moments @ _transform(weight)).flatten()

    def spread(self, functions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values (n,) at the samples of functions given by their values at the nodes."""
        coefficients = {name: values.view(-1, _NODES) @ _transform(values).T for name, values in functions.items()}
        spread = {name: values.new_empty(self._place.shape[0]) for name, values in functions.items()}
        for start in range(0, self._place.shape[0], _BLOCK):
            block = slice(start, start + _BLOCK)
            polynomials, place = _polynomials(self._offset[block]), self._place[block]
            for name, values in spread.items():
                values[block] = torch.linalg.vecdot(polynomials, coefficients[name].index_select(0, place))
        return spread


def fold(scores: Tensor, rate: float) -> Folding | None:
    """Fold scores (n,) for a surrogate that varies over lengths of 1/rate; None where that would not save half of them.

    Args:
        scores: finite, in the dtype of accumulators.
        rate: the surrogate's γ.
    """
    n = scores.shape[0]
    if n < 2 * _NODES:
        return None
    z = scores * rate
    low = z.min()
    if float(z.max() - low) > _WIDEST:
        return None
    interval = (z - low).floor_().long()
    span = int(interval.max()) + 1
    if span <= 4 * n:
        inhabited = torch.bincount(interval, minlength=span) > 0
        occupied, place = inhabited.nonzero().squeeze(1), (inhabited.cumsum(0) - 1)[interval]
    else:
        occupied, place = interval.unique(return_inverse=True)
    if 2 * occupied.shape[0] * _NODES > n:
        return None
    middle = occupied.to(z.dtype) + 0.5
    nodes = (low + middle[:, None] + _chebyshev(z) / 2) / rate
    return Folding(place, 2 * (z - low - middle[place]), nodes.flatten())


def _chebyshev(like: Tensor) -> Tensor:
    angles = (torch.arange(_NODES, dtype=like.dtype, device=like.device) + 0.5) * (math.pi / _NODES)
    return angles.cos()


def _polynomials(x: Tensor) -> Tensor:
    """The Chebyshev polynomials T_0 ... T_{q−1} at x (n,), shape (n, q)."""
    values = [torch.ones_like(x), x]
    for _ in range(_NODES - 2):
        values.append(torch.addcmul(-values[-2], values[-1], x, value=2))
    return torch.stack(values, 1)


def _transform(like: Tensor) -> Tensor:
    """From moments with the polynomials to weights of the nodes; its transpose, from values to coefficients."""
    transform = _polynomials(_chebyshev(like)).T * (2 / _NODES)
    transform[0] /= 2
    return transform
