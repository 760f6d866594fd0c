"""Surrogate losses of a ranking error, as small values that every pairwise objective shares.

A surrogate is a function ℓ(t) of one pair's difference t = s⁺ − s⁻ that stands in for the error 1[t < 0]. γ is the
margin of the first three and the rate of the last two:

    square          (γ − t)²
    squared_hinge   max(0, γ − t)²
    hinge           max(0, γ − t), slope 0 at t = γ
    exponential     exp(−γ t)
    logistic        log(1 + exp(−γ t))

No surrogate carries a factor 1/2, so that values agree between modules. `linear`, γ − t, is the hinge where no
difference passes γ, as of scores in [0, 1] with γ = 1; elsewhere it is unbounded below, so that no name stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import softplus

from equipoise.core.validate import check_choice


@dataclass(frozen=True)
class Surrogate:
    """A loss of a difference t = s⁺ − s⁻ with its first two derivatives in t.

    Attributes:
        name: what it is called in arguments and on the command line.
        value: ℓ(t; margin), elementwise.
        slope: ℓ'(t; margin), elementwise.
        curvature: ℓ''(t; margin), elementwise; 0 where a piecewise function has a kink.
        has_rate: whether γ is a rate, which must be above 0, rather than a margin, which may be 0.

    >>> squared_hinge.value(torch.tensor([0.0, 2.0]), 1.0)
    tensor([1., 0.])
    """

    name: str
    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]
    curvature: Callable[[Tensor, float], Tensor]
    has_rate: bool = False


SurrogateLike: TypeAlias = str | Surrogate | Callable[[Tensor], Tensor]
"""A name in `SURROGATES`, a `Surrogate`, or an elementwise differentiable function of the difference."""


square = Surrogate(
    "square",
    value=lambda t, margin: (margin - t).square(),
    slope=lambda t, margin: 2 * (t - margin),
    curvature=lambda t, margin: torch.full_like(t, 2.0),
)
squared_hinge = Surrogate(
    "squared_hinge",
    value=lambda t, margin: (margin - t).clamp_min(0).square(),
    slope=lambda t, margin: -2 * (margin - t).clamp_min(0),
    curvature=lambda t, margin: 2 * (t < margin).to(t.dtype),
)
hinge = Surrogate(
    "hinge",
    value=lambda t, margin: (margin - t).clamp_min(0),
    slope=lambda t, margin: -(t < margin).to(t.dtype),
    curvature=lambda t, margin: torch.zeros_like(t),
)
exponential = Surrogate(
    "exponential",
    value=lambda t, margin: torch.exp(-margin * t),
    slope=lambda t, margin: -margin * torch.exp(-margin * t),
    curvature=lambda t, margin: margin**2 * torch.exp(-margin * t),
    has_rate=True,
)
logistic = Surrogate(
    "logistic",
    value=lambda t, margin: softplus(-margin * t),
    slope=lambda t, margin: -margin * torch.sigmoid(-margin * t),
    curvature=lambda t, margin: margin**2 * torch.sigmoid(margin * t) * torch.sigmoid(-margin * t),
    has_rate=True,
)

linear = Surrogate(
    "linear",
    value=lambda t, margin: margin - t,
    slope=lambda t, margin: torch.full_like(t, -1.0),
    curvature=lambda t, margin: torch.zeros_like(t),
)

SURROGATES: dict[str, Surrogate] = {s.name: s for s in (square, squared_hinge, hinge, exponential, logistic)}


def resolve_surrogate(surrogate: SurrogateLike, margin: float = 1.0) -> Surrogate:
    """The surrogate of that name or function, or the one given.

    Args:
        surrogate: a function carries its own margin; `margin` is not passed to it.
        margin: what it is to be used with.

    Raises:
        ValueError: if the name is none of `SURROGATES`, or the margin is the rate of a surrogate and 0.

    >>> resolve_surrogate("hinge").name
    'hinge'
    """
    if isinstance(surrogate, str):
        check_choice("surrogate", surrogate, SURROGATES)
        surrogate = SURROGATES[surrogate]
    elif not isinstance(surrogate, Surrogate):
        if not callable(surrogate):
            raise ValueError(f"surrogate={surrogate!r} must be a name, a Surrogate or a function of the difference")
        surrogate = _of_function(surrogate)
    if surrogate.has_rate and margin <= 0:
        raise ValueError(f"margin={margin!r} is the rate of the {surrogate.name} surrogate and must be greater than 0")
    return surrogate


def _of_function(function: Callable[[Tensor], Tensor]) -> Surrogate:
    def slope(t: Tensor, margin: float, create_graph: bool = False) -> Tensor:
        with torch.enable_grad():
            t = t if create_graph else t.detach().requires_grad_()
            total = function(t).sum()
            if not total.requires_grad:
                return torch.zeros_like(t)
            return torch.autograd.grad(total, t, create_graph=create_graph)[0]

    def curvature(t: Tensor, margin: float) -> Tensor:
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            first = slope(t, margin, create_graph=True)
            if not first.requires_grad:
                return torch.zeros_like(t)
            second = torch.autograd.grad(first.sum(), t, allow_unused=True)[0]
            return torch.zeros_like(t) if second is None else second

    return Surrogate("callable", lambda t, margin: function(t), slope, curvature)
