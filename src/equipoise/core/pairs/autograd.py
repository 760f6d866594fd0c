"""The all-pairs kernels as autograd functions: the gradient is found with the value, and can be taken once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.core.pairs.kernels import pair_means
from equipoise.core.pairs.means import Side, wide
from equipoise.core.pairs.surrogates import Surrogate

# The square loss works on so many scores at a time,
_BLOCK = 1 << 17
# sums so many in their own precision before float64 takes over,
_ROW = 1 << 10
# and looks at about so many for a first guess of their mean.
_SAMPLE = 1 << 12


class FirstOrder(torch.autograd.Function):
    """A step that cannot be differentiated: the kernels know gradients, not the gradients of gradients.

    Takes the differentiated inputs beside the upstream gradient, so that a second derivative in them, which would
    otherwise silently be taken for zero, arrives here too.
    """

    @staticmethod
    def forward(
        ctx: Any, gradients: Callable[[Tensor], tuple[Tensor | None, ...]], upstream: Tensor, *inputs: Tensor | None
    ) -> Any:
        """The gradients, now, since what they are computed from is not kept."""
        return gradients(upstream)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refused: second derivatives are not offered."""
        raise RuntimeError(
            "the exact all-pairs loss has first-order gradients only; take second derivatives from "
            "`pairwise_derivatives` (the Hessian diagonal), or of a loss that writes the pairs out"
        )


class SplitClasses(torch.autograd.Function):
    """Scores of both classes, and their gradients put back, by positions that are looked up once.

    Two masked selections find every position four times, which takes a fifth of a fast loss's time.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        """(positives, negatives), each in the order of the scores."""
        if scores.device.type == "cpu":
            mask = positive.numpy()
            places = [torch.from_numpy(np.flatnonzero(m)) for m in (mask, ~mask)]
        else:
            places = [m.nonzero().squeeze(1) for m in (positive, ~positive)]
        ctx.save_for_backward(*places)
        ctx.length = scores.shape[0]
        return scores.index_select(0, places[0]), scores.index_select(0, places[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient of the scores."""
        whole = gradients[0].new_empty(ctx.length)
        for places, gradient in zip(ctx.saved_tensors, gradients, strict=True):
            whole.index_copy_(0, places, gradient)
        return whole, None


class PairwiseLoss(torch.autograd.Function):
    """Pairs along the last dimension; leading dimensions are separate problems."""

    @staticmethod
    def forward(
        ctx: Any,
        pos: Tensor,
        neg: Tensor,
        pos_weight: Tensor | None,
        neg_weight: Tensor | None,
        surrogate: Surrogate,
        margin: float,
    ) -> Tensor:
        """Value, and the gradients that are needed, to be multiplied in `backward`."""
        inputs, needed = (pos, neg, pos_weight, neg_weight), ctx.needs_input_grad[:4]
        want = [name for name, wanted in (("slope", any(needed[:2])), ("value", any(needed[2:]))) if wanted]
        means = pair_means(pos, neg, pos_weight, neg_weight, surrogate, margin, want)
        gradients: list[Tensor | None] = [None] * 4
        ctx.scales = [1.0, -1.0, 1.0, 1.0]
        for k, (side, weight) in enumerate(((means.u, pos_weight), (means.a, neg_weight))):
            if needed[k] and isinstance(side.scale, Tensor):
                gradients[k] = side.scaled("slope")
            elif needed[k]:
                # A scale that is one number waits for backward, where it saves a pass over the samples.
                gradients[k] = side.means["slope"]
                ctx.scales[k] *= side.scale
            if needed[2 + k] and weight is not None:
                gradients[2 + k] = _weight_gradient(means.value, side, weight)
        # Half precision comes last: sums that a scale has yet to make small would overflow it.
        stored = (
            None if g is None or x is None else g.to(torch.promote_types(x.dtype, torch.float32))
            for g, x in zip(gradients, inputs, strict=True)
        )
        ctx.save_for_backward(*inputs, *stored)
        return means.value.to(torch.promote_types(pos.dtype, neg.dtype))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Gradients of scores and weights."""
        inputs, stored = ctx.saved_tensors[:4], ctx.saved_tensors[4:]

        def gradients(upstream: Tensor) -> tuple[Tensor | None, ...]:
            return tuple(
                None if g is None else (g * (upstream.to(g.dtype) * scale).unsqueeze(-1)).to(x.dtype)
                for x, g, scale in zip(inputs, stored, ctx.scales, strict=True)
            )

        return (*FirstOrder.apply(gradients, upstream[0], *inputs), None, None)


def _weight_gradient(value: Tensor, side: Side, weight: Tensor) -> Tensor:
    """∂L/∂w_i = (mean loss of sample i − L) / Σ w; zero where L is zero for want of samples or weight."""
    total = weight.detach().sum(-1, keepdim=True, dtype=value.dtype)
    return torch.where(total > 0, (side.means["value"] - value.unsqueeze(-1)) / total, 0)


class SquareLoss(torch.autograd.Function):
    """The square loss of all pairs with equal weights, in as few passes over the scores as can be.

    (γ − p̄ + n̄)² + Var p + Var n needs four moments, so that moving the scores through memory is what takes the time.
    They are shifted to about 0 before they are squared; without that, float32 scores around 10⁴ would keep no digit of
    their variance.
    """

    @staticmethod
    def forward(ctx: Any, pos: Tensor, neg: Tensor, margin: float) -> Tensor:
        """The value, from the moments of both sides."""
        (pos_centre, pos_mean, pos_variance), (neg_centre, neg_mean, neg_variance) = _moments(pos), _moments(neg)
        apart = pos_centre.to(pos_mean.dtype) - neg_centre
        ctx.save_for_backward(pos, neg, pos_centre, neg_centre, apart - neg_mean - margin, margin - apart - pos_mean)
        value = (apart + pos_mean - neg_mean - margin).square() + pos_variance + neg_variance
        return value.to(torch.promote_types(pos.dtype, neg.dtype))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Slope of each score: twice its distance from where the other side's mean and the margin want it."""
        pos, neg, pos_centre, neg_centre, pos_excess, neg_excess = ctx.saved_tensors
        needed = ctx.needs_input_grad

        def gradients(upstream: Tensor) -> tuple[Tensor | None, ...]:
            return (
                _affine(pos, pos_centre, pos_excess, upstream) if needed[0] else None,
                _affine(neg, neg_centre, neg_excess, upstream) if needed[1] else None,
            )

        return (*FirstOrder.apply(gradients, upstream[0], pos, neg), None)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A rough centre in the dtype of the scores, the mean from there on, and the variance, both in float64."""
    x = _at_least_float32(x)
    n = x.shape[0]
    # Anything near the scores will do for the shift; a sample is near, and spares a pass.
    centre = x[:: max(1, n // _SAMPLE)].mean()
    parts = x.split(min(_BLOCK, -(-n // _ROW) * _ROW))
    buffer = x.new_empty(-(-parts[0].shape[0] // _ROW), _ROW)
    sums, norms = x.new_empty(2, len(parts), buffer.shape[0])
    for k, part in enumerate(parts):
        torch.sub(part, centre, out=buffer.view(-1)[: part.shape[0]])
        # A row that is filled up with zeros keeps its sums.
        if part.shape[0] < buffer.numel():
            buffer.view(-1)[part.shape[0] :] = 0
        torch.sum(buffer, -1, out=sums[k])
        torch.linalg.vector_norm(buffer, dim=-1, out=norms[k])
    mean = sums.sum(dtype=wide(x)) / n
    variance = norms.to(mean.dtype).square().sum() / n - mean.square()
    return centre, mean, variance.clamp_min(0)


def _affine(x: Tensor, centre: Tensor, excess: Tensor, upstream: Tensor) -> Tensor:
    """2/n (x − centre + excess), block by block; two offsets, since each has digits that their sum would lose."""
    scores = _at_least_float32(x)
    out = torch.empty_like(scores)
    factor, offset = upstream.to(out.dtype) * (2 / x.shape[0]), excess.to(out.dtype)
    for part, target in zip(scores.split(_BLOCK), out.split(_BLOCK), strict=True):
        torch.sub(part, centre, out=target)
        target.add_(offset).mul_(factor)
    return out.to(x.dtype)
