"""Weighted means of ℓ(u_i + a_j) over all pairs, along the last dimension; leading dimensions are separate problems.

With u = s⁺ and a = −s⁻ the difference of a pair is a sum, so that both sides play the same part and each formula is
written once. What it costs for n scores:

    square                   O(n)         (γ − E u − E a)² + Var u + Var a
    exponential              O(n)         E exp(−γ u) · E exp(−γ a), as log-sum-exps
    hinge, squared hinge     O(n log n)   `core.pairs.hinges`: sort, search, running sums
    logistic                 O(n)         `core.pairs.chebyshev`: pairs of interpolation nodes, exact to rounding
    any other                O(n⁺ n⁻)     every pair is looked at, in blocks of constant size: O(n) memory

Yang et al., "Learning with Multiclass AUC: Theory and Algorithms", TPAMI 2021, give sums for the first three; means and
variances, and log-sum-exps, are better conditioned ways to write the same numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equipoise.core.pairs.chebyshev import folded_means
from equipoise.core.pairs.hinges import hinge_means
from equipoise.core.pairs.means import PairMeans, Share, Side, Want, wide
from equipoise.core.pairs.surrogates import Surrogate, exponential, hinge, logistic, square, squared_hinge

# Pairs looked at together: a tile of so many rows and columns, a few megabytes whatever n is.
_TILE = (512, 2048)


def pair_means(
    pos: Tensor,
    neg: Tensor,
    pos_weight: Tensor | None,
    neg_weight: Tensor | None,
    surrogate: Surrogate,
    margin: float,
    want: Want,
) -> PairMeans:
    """The weighted mean over all pairs, and what `want` asks of each sample.

    Scores are (..., n) of any floating dtype, weights have their shape. Where one side is empty or has no weight,
    everything is 0. `value` comes in float64, the rest in float64 or in the dtype of the scores (at least float32).
    """
    dtype = torch.promote_types(torch.promote_types(pos.dtype, neg.dtype), torch.float32)
    same_scores = neg is pos
    pos = pos.detach().to(dtype)
    neg = pos if same_scores else neg.detach().to(dtype)
    if not (pos.numel() and neg.numel()):
        return PairMeans(pos.new_zeros(pos.shape[:-1], dtype=wide(pos)), *(_zero_side(x, want) for x in (pos, neg)))
    w, v = _shares(pos, neg, pos_weight, neg_weight)
    # Compared as values: someone's own surrogate may be called "square" too, and is not taken for this one.
    if surrogate in (hinge, squared_hinge):
        return hinge_means(pos, neg, w, v, margin, want, squared=surrogate == squared_hinge)
    if surrogate not in (square, exponential):
        return _every_pair(pos, neg, w, v, surrogate, margin, want)
    pos, neg = pos.to(wide(pos)), neg.to(wide(neg))
    # The offset common to both sides cancels in every pair; out with it, so that the digits are left for differences.
    centre = pos.mean(-1, keepdim=True)
    u, a = pos - centre, centre - neg
    if surrogate == square:
        return _square(u, a, w, v, margin, want)
    return _exponential(u, a, w, v, margin, want)


def _zero_side(x: Tensor, want: Want) -> Side:
    return Side(1.0, {name: torch.zeros_like(x) for name in want})


def _shares(pos: Tensor, neg: Tensor, pos_weight: Tensor | None, neg_weight: Tensor | None) -> tuple[Share, Share]:
    """Weights that sum to 1 on each side, numbers where all are equal; all 0 where either side has no weight."""
    if pos_weight is None and neg_weight is None:
        return 1 / pos.shape[-1], 1 / neg.shape[-1]
    w = torch.ones_like(pos, dtype=wide(pos)) if pos_weight is None else pos_weight.detach().to(wide(pos))
    v = torch.ones_like(neg, dtype=wide(neg)) if neg_weight is None else neg_weight.detach().to(wide(neg))
    w_total, v_total = w.sum(-1, keepdim=True), v.sum(-1, keepdim=True)
    alive = (w_total > 0) & (v_total > 0)
    return torch.where(alive, w / w_total, 0), torch.where(alive, v / v_total, 0)


def _square(u: Tensor, a: Tensor, w: Share, v: Share, margin: float, want: Want) -> PairMeans:
    def mean(x: Tensor, share: Share) -> Tensor:
        return (x * share).sum(-1, keepdim=True)

    def side(y: Tensor, share: Share, x_mean: Tensor, x_variance: Tensor) -> Side:
        excess = y + (x_mean - margin)
        means = {
            "slope": lambda: excess,
            "curvature": lambda: torch.ones_like(y),
            "value": lambda: (excess.square() + x_variance) * alive,
        }
        return Side(2 * share, {name: means[name]() for name in want})

    alive = w.sum(-1, keepdim=True) > 0 if isinstance(w, Tensor) else 1
    u_mean, a_mean = mean(u, w), mean(a, v)
    u_variance, a_variance = mean((u - u_mean).square(), w), mean((a - a_mean).square(), v)
    value = ((margin - u_mean - a_mean).square() + u_variance + a_variance) * alive
    return PairMeans(value.squeeze(-1), side(u, w, a_mean, a_variance), side(a, v, u_mean, u_variance))


def _exponential(u: Tensor, a: Tensor, w: Share, v: Share, margin: float, want: Want) -> PairMeans:
    def log_terms(x: Tensor, share: Share) -> Tensor:
        return (share.log() if isinstance(share, Tensor) else math.log(share)) - margin * x

    def side(y: Tensor, y_terms: Tensor, x_mean: Tensor) -> Side:
        # The share stays in the exponent: there a weight of 0 mutes a score whose own loss overflows.
        part = torch.exp(y_terms + x_mean) if want else y_terms
        means = {
            "slope": lambda: -margin * part,
            "curvature": lambda: margin**2 * part,
            "value": lambda: torch.exp(x_mean - margin * y),
        }
        return Side(1.0, {name: means[name]() for name in want})

    u_terms, a_terms = log_terms(u, w), log_terms(a, v)
    u_mean, a_mean = torch.logsumexp(u_terms, -1, keepdim=True), torch.logsumexp(a_terms, -1, keepdim=True)
    return PairMeans(torch.exp(u_mean + a_mean).squeeze(-1), side(u, u_terms, a_mean), side(a, a_terms, u_mean))


def _every_pair(
    pos: Tensor, neg: Tensor, w: Share, v: Share, surrogate: Surrogate, margin: float, want: Want
) -> PairMeans:
    """Any surrogate, pair by pair: a loop over problems, and in each over tiles of pairs.

    A tile is computed in the dtype of the scores: a difference rounds to within its own last digit, whatever the offset
    of the scores. Sums go on in float64 from tile to tile.
    """
    weighted = isinstance(w, Tensor)
    w, v = (s if isinstance(s, Tensor) else x.new_full(x.shape, s, dtype=wide(x)) for x, s in ((pos, w), (neg, v)))
    value = w.new_zeros(pos.shape[:-1])
    of_u, of_a = (Side(share, {name: torch.zeros_like(share) for name in want}) for share in (w, v))
    for k in range(value.numel()):
        at = k if pos.ndim > 1 else ...
        # Samples without weight take no part (a column of one-hot weights is mostly these), except that the gradient
        # of the weight itself asks for their losses.
        select = weighted and "value" not in want
        i, j = (share[at].nonzero().squeeze(-1) if select else slice(None) for share in (w, v))
        with torch.autocast(pos.device.type, enabled=False):
            sides = pos[at][i], neg[at][j], w[at][i], v[at][j]
            if surrogate == logistic:
                found = folded_means(_tiles, *sides, surrogate, margin, want)
            else:
                found = _tiles(*sides, surrogate, margin, want)
        value[at] = found.value
        for name in want:
            of_u.means[name][at][i] = found.u.means[name]
            of_a.means[name][at][j] = found.a.means[name]
    return PairMeans(value, of_u, of_a)


def _tiles(
    pos: Tensor, neg: Tensor, w: Tensor, v: Tensor, surrogate: Surrogate, margin: float, want: Want
) -> PairMeans:
    of_u, of_a = (Side(share, {name: torch.zeros_like(share) for name in want}) for share in (w, v))
    value = w.new_zeros(())
    height, width = _TILE
    for top in range(0, pos.shape[0], height):
        rows = slice(top, top + height)
        row_share = w[rows].to(pos.dtype)
        for left in range(0, neg.shape[0], width):
            columns = slice(left, left + width)
            column_share = v[columns].to(pos.dtype)
            t = pos[rows, None] - neg[columns]
            for name in ("value", *(name for name in want if name != "value")):
                grid = getattr(surrogate, name)(t, margin)
                row = torch.mv(grid, column_share).to(w.dtype)
                if name == "value":
                    value += torch.dot(w[rows], row)
                if name in want:
                    of_u.means[name][rows] += row
                    of_a.means[name][columns] += torch.mv(grid.T, row_share)
    return PairMeans(value, of_u, of_a)
