"""What one positive loses to all negatives, where the mean over them is not plain.

With ℓ_ij = ℓ(s⁺_i − s⁻_j) the surrogate of a pair, for every positive i

    soft_maximum_per_positive    λ log mean_j exp(ℓ_ij / λ)       between the mean (λ → ∞) and the largest (λ → 0)
    excess_per_positive          mean_j [ℓ_ij − t_i]₊             above a threshold of its own

The first is the worst mean of the ℓ_ij under weights that pay λ times their Kullback-Leibler divergence from equal
ones. t_i + 1/β · the second is, at the best t_i, the mean of the largest fraction β (`core.curves.selection`).

Neither has a closed form over sorted scores for every surrogate, so that pairs are written out, a block of positives
at a time: O(n₊ n₋) time, and the memory of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.pairs.autograd import FirstOrder
from equipoise.core.pairs.means import wide
from equipoise.core.pairs.surrogates import Surrogate, SurrogateLike, resolve_surrogate
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive

# Pairs that are held at once.
_BLOCK = 1 << 22

# Of the losses (rows, n₋) of a block of positives, and which rows these are: their summary, and its slope in each loss.
Summary: TypeAlias = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


@checked
def soft_maximum_per_positive(
    pos: Float[Tensor, " n_pos"],
    neg: Float[Tensor, " n_neg"],
    temperature: Positive,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
) -> Float[Tensor, " n_pos"]:
    """λ log mean_j exp(ℓ_ij / λ) of every positive.

    Args:
        pos: (n_pos,) scores of the positives.
        neg: (n_neg,) scores of the negatives.
        temperature: λ > 0, in units of the loss.
        surrogate: as in `pairwise_loss`.
        margin: as in `pairwise_loss`.

    Returns:
        (n_pos,) float64. Gradients flow to the scores, once; at a kink the slope is 0.

    >>> soft_maximum_per_positive(torch.tensor([1.0]), torch.tensor([0.0, 1.0]), 0.01)
    tensor([0.9931], dtype=torch.float64)
    """
    equal = math.log(neg.shape[0])

    def summary(losses: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        scaled = losses / temperature
        return temperature * (scaled.logsumexp(1) - equal), scaled.softmax(1)

    values: Tensor = _PerPositive.apply(pos, neg, resolve_surrogate(surrogate, margin), margin, summary)[0]
    return values


@checked
def excess_per_positive(
    pos: Float[Tensor, " n_pos"],
    neg: Float[Tensor, " n_neg"],
    threshold: Float[Tensor, " n_pos"],
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
) -> tuple[Float[Tensor, " n_pos"], Float[Tensor, " n_pos"]]:
    """mean_j [ℓ_ij − t_i]₊ of every positive, and the share of negatives whose loss is above the threshold.

    Args:
        pos: (n_pos,) scores of the positives.
        neg: (n_neg,) scores of the negatives.
        threshold: (n_pos,) t; no gradient flows to it.
        surrogate: as in `pairwise_loss`.
        margin: as in `pairwise_loss`.

    Returns:
        Both (n_pos,) float64. Gradients flow from the excess to the scores, once; the slope of the hinge at 0 is 0.

    >>> excess_per_positive(torch.tensor([1.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5]))
    (tensor([0.2500], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    level = threshold.detach().to(wide(pos))

    def summary(losses: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        above = losses - level[rows, None]
        return above.clamp_min(0).mean(1), (above > 0).to(above.dtype) / losses.shape[1]

    excess, share = _PerPositive.apply(pos, neg, resolve_surrogate(surrogate, margin), margin, summary)
    return excess, share


class _PerPositive(torch.autograd.Function):
    """A summary of the losses of each positive; its gradient writes the pairs out again."""

    @staticmethod
    def forward(
        ctx: Any, pos: Tensor, neg: Tensor, surrogate: Surrogate, margin: float, summary: Summary
    ) -> tuple[Tensor, Tensor]:
        """The summaries and, without gradient, the sums of their slopes, in float64."""
        ctx.save_for_backward(pos, neg)
        ctx.settings = surrogate, margin, summary
        values, slopes = [], []
        for rows, t in _blocks(pos, neg):
            value, slope = summary(surrogate.value(t, margin), rows)
            values.append(value)
            slopes.append(slope.sum(1))
        total = torch.cat(slopes)
        ctx.mark_non_differentiable(total)
        return torch.cat(values), total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Gradients of both sides."""
        pos, neg = ctx.saved_tensors
        surrogate, margin, summary = ctx.settings

        def gradients(upstream: Tensor) -> tuple[Tensor, Tensor]:
            of_pos, of_neg = [], torch.zeros_like(neg, dtype=wide(neg))
            for rows, t in _blocks(pos, neg):
                _, share = summary(surrogate.value(t, margin), rows)
                pull = share * surrogate.slope(t, margin) * upstream[rows, None]
                of_pos.append(pull.sum(1))
                of_neg -= pull.sum(0)
            return torch.cat(of_pos).to(pos.dtype), of_neg.to(neg.dtype)

        return (*FirstOrder.apply(gradients, upstream[0], pos, neg), None, None, None)


def _blocks(pos: Tensor, neg: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Positives by blocks, each with its differences from all negatives."""
    step = max(1, _BLOCK // neg.shape[0])
    wide_pos, wide_neg = (x.detach().to(wide(x)) for x in (pos, neg))
    for start in range(0, pos.shape[0], step):
        rows = slice(start, start + step)
        yield rows, wide_pos[rows, None] - wide_neg
