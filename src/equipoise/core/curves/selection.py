"""The hardest part of a set: the lowest-scored positives, the highest-scored negatives.

A fraction f of n samples is seldom a whole number. Two conventions are in use, and every metric and loss names its own:

    floor        ⌊f n⌋ samples, each with weight 1
    fractional   ⌊f n⌋ samples with weight 1 and the next one with weight f n − ⌊f n⌋, so that the weights sum to f n

The product f n is guarded against rounding: 0.29 · 100 is 28.999… in floating point, and means 29.

The mean of the fractional top f of values x, the conditional value at risk, is a minimum over a threshold t,

    average_top_fraction(x, f) = min_t  t + 1/f · mean [x − t]₊

which needs no selection, and is smooth when the hinge [·]₊ is: `smoothed_relu`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.core.signature import checked
from equipoise.core.types import Fraction, MayBeEmpty, MayBeInfinite, NonNegative, Scalar, Scores, Whole
from equipoise.core.validate import check_choice

BOUNDARIES = ("floor", "fractional")
_GUARD = 1e-9


@checked
def keep_count(n: Whole, fraction: Fraction) -> int:
    """How many of n samples a fraction keeps: ⌊fraction · n⌋, guarded against rounding.

    >>> keep_count(100, 0.29)
    29
    """
    return min(n, math.floor(n * fraction + _GUARD))


def _boundary_weight(n: int, fraction: float, kept: int) -> float:
    rest = n * fraction - kept
    return rest if rest > _GUARD and kept < n else 0.0


def highest(scores: Float[Tensor, " n"], fraction: float) -> Float[Tensor, " k"]:
    """The ⌊fraction · n⌋ highest scores, in no particular order; gradients flow to them.

    >>> highest(torch.tensor([0.1, 0.9, 0.5, 0.3]), 0.5).sort().values
    tensor([0.5000, 0.9000])
    """
    kept = keep_count(scores.shape[0], fraction)
    return scores if kept == scores.shape[0] else scores.topk(kept, sorted=False).values


def lowest(scores: Float[Tensor, " n"], fraction: float) -> Float[Tensor, " k"]:
    """The ⌊fraction · n⌋ lowest scores, in no particular order; gradients flow to them.

    >>> lowest(torch.tensor([0.1, 0.9, 0.5, 0.3]), 0.5).sort().values
    tensor([0.1000, 0.3000])
    """
    kept = keep_count(scores.shape[0], fraction)
    return scores if kept == scores.shape[0] else scores.topk(kept, largest=False, sorted=False).values


def kept_weight(
    scores: Float[Tensor, " n"], weight: Float[Tensor, " n"], fraction: float, *, largest: bool, boundary: str = "floor"
) -> Float[Tensor, " n"]:
    """How much of each sample a fraction keeps where weights count samples: in all ⌊fraction · Σ w⌋ of them, or all for
    1, by "floor", and fraction · Σ w by "fractional".

    >>> kept_weight(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([1.0, 2.0, 3.0]), 0.5, largest=True)
    tensor([0., 2., 1.], dtype=torch.float64)
    """
    order = scores.detach().argsort(descending=largest)
    upto = weight.double()[order].cumsum(0)
    if fraction < 1:
        wanted = float(weight.double().sum()) * fraction
        upto = upto.clamp_max(math.floor(wanted + _GUARD) if boundary == "floor" else wanted)
    return torch.empty_like(upto).index_copy(0, order, upto.diff(prepend=upto.new_zeros(1)))


def hardest(
    scores: Float[Tensor, " n"],
    fraction: float,
    *,
    largest: bool,
    boundary: str = "fractional",
    weight: Float[Tensor, " n"] | None = None,
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Which samples a fraction keeps, and with what weight.

    Args:
        scores: (n,) scores.
        fraction: in (0, 1].
        largest: keep the highest scores rather than the lowest.
        boundary: "floor" or "fractional", see the module.
        weight: (n,) how often each sample counts; see `kept_weight`.

    Returns:
        Indices of the kept samples and how often each counts, without `weight` in order of hardness and in (0, 1];
        in all fraction · n for "fractional" and ⌊fraction · n⌋, which may be nothing, for "floor". Ties are broken
        arbitrarily.

    Raises:
        ValueError: if the fraction is not in (0, 1] or the boundary is unknown.

    >>> hardest(torch.tensor([0.1, 0.9, 0.5, 0.3]), 0.375, largest=True)
    (tensor([1, 2]), tensor([1.0000, 0.5000]))
    """
    check_choice("boundary", boundary, BOUNDARIES)
    if weight is not None:
        held = kept_weight(scores, weight, fraction, largest=largest, boundary=boundary)
        index = held.nonzero().squeeze(1)
        return index, held[index].to(scores.dtype)
    n = scores.shape[0]
    kept = keep_count(n, fraction)
    rest = _boundary_weight(n, fraction, kept) if boundary == "fractional" else 0.0
    index = scores.detach().topk(kept + (rest > 0), largest=largest).indices
    share = torch.ones_like(index, dtype=scores.dtype)
    if rest > 0:
        share[-1] = rest
    return index, share


@checked
def average_top_fraction(x: Scores, frac: Fraction) -> Scalar:
    """The mean of the largest fraction of the values: conditional value at risk, average top-k.

    Args:
        x: (n,) values, at least one.
        frac: in (0, 1]; the last of the frac · n kept values counts by its fraction.

    Returns:
        The mean, differentiable: the gradient of a kept value is its weight over frac · n.

    >>> average_top_fraction(torch.tensor([3.0, 1.0, 2.0]), 0.5)
    tensor(2.6667)
    """
    index, weight = hardest(x, frac, largest=True)
    return (x[index] * weight).sum() / (x.shape[0] * frac)


@checked
def smoothed_relu(
    x: Annotated[Float[Tensor, "*shape"], MayBeEmpty(), MayBeInfinite()],
    mode: Literal["softplus", "huber", "none"] = "softplus",
    strength: NonNegative = 8.0,
) -> Float[Tensor, "*shape"]:
    """The hinge [x]₊ or one of its smooth neighbours.

        softplus   log(1 + exp(κ x)) / κ                                  [x]₊ … [x]₊ + log 2 / κ
        huber      x² / 4μ on [0, 2μ], x − μ above, 0 below               [x]₊ − μ … [x]₊
        none       [x]₊

    The Huber form is max over c in [0, 1] of c x − μ c² (Nesterov's smoothing), which c = clip(x / 2μ, 0, 1) attains.

    Args:
        x: any shape.
        mode: "softplus", "huber" or "none".
        strength: κ > 0 of the softplus, the sharper the larger; μ ≥ 0 of the Huber form, the smoother the larger.

    Raises:
        ValueError: if κ is 0.

    >>> smoothed_relu(torch.tensor([0.5, 3.0]), "huber", 0.5)
    tensor([0.1250, 2.5000])
    """
    if mode == "softplus":
        if strength == 0:
            raise ValueError("strength=0 must be greater than 0, it is the rate of the softplus")
        # Beyond the threshold softplus is the identity; PyTorch's 20 is coarse for float64.
        return F.softplus(x, beta=strength, threshold=40.0)
    if mode == "huber" and strength > 0:
        bent = x.clamp(0, 2 * strength)
        return bent * (x - bent / 2) / (2 * strength)
    return x.relu()
