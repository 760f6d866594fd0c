"""Surrogate losses of a ranking error, as small values that every pairwise objective shares.

A surrogate is a function ℓ(t) of one pair's difference t = s⁺ − s⁻ that stands in for the error 1[t < 0]. γ is the
margin of the first three and the rate of the last two:

    square          (γ − t)²
    squared_hinge   max(0, γ − t)²
    hinge           max(0, γ − t), slope 0 at t = γ
    exponential     exp(−γ t)
    logistic        log(1 + exp(−γ t))

No surrogate carries a factor 1/2, so that values agree between modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from equipoise.core.validate import check_choice

Differences = Float[Tensor, "..."]


@dataclass(frozen=True)
class Surrogate:
    """A loss of a difference t = s⁺ − s⁻ with its first two derivatives in t.

    Attributes:
        name: what it is called in arguments and on the command line.
        value: ℓ(t; margin), elementwise.
        slope: ℓ'(t; margin), elementwise.
        curvature: ℓ''(t; margin), elementwise; 0 where a piecewise function has a kink.

    >>> squared_hinge.value(torch.tensor([0.0, 2.0]), 1.0)
    tensor([1., 0.])
    """

    name: str
    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]
    curvature: Callable[[Tensor, float], Tensor]


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
)
logistic = Surrogate(
    "logistic",
    value=lambda t, margin: softplus(-margin * t),
    slope=lambda t, margin: -margin * torch.sigmoid(-margin * t),
    curvature=lambda t, margin: margin**2 * torch.sigmoid(margin * t) * torch.sigmoid(-margin * t),
)

SURROGATES: dict[str, Surrogate] = {s.name: s for s in (square, squared_hinge, hinge, exponential, logistic)}


def resolve_surrogate(surrogate: str | Surrogate) -> Surrogate:
    """Return the surrogate of that name, or the one given.

    Raises:
        ValueError: if the name is none of `SURROGATES`.

    >>> resolve_surrogate("hinge").name
    'hinge'
    """
    if isinstance(surrogate, Surrogate):
        return surrogate
    check_choice("surrogate", surrogate, SURROGATES)
    return SURROGATES[surrogate]
