"""Activations with their derivatives, by name or as callables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Elementwise: TypeAlias = Callable[[Tensor], Tensor]
ActivationLike: TypeAlias = str | Elementwise | tuple[Elementwise, Elementwise]

LEAK = 0.01


@dataclass(frozen=True)
class Activation:
    """An activation.

    Attributes:
        name: of it.
        function: φ, elementwise.
        derivative: φ', elementwise; the mean of both sides at a kink is not needed, for it has no weight.
    """

    name: str
    function: Elementwise
    derivative: Elementwise


def _normal_density(u: Tensor) -> Tensor:
    return torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)


def _gelu_slope(u: Tensor) -> Tensor:
    return torch.special.ndtr(u) + u * _normal_density(u)


def _tanh_gelu_slope(u: Tensor) -> Tensor:
    scale = math.sqrt(2 / math.pi)
    bent = torch.tanh(scale * (u + 0.044715 * u**3))
    return (1 + bent) / 2 + u * (1 - bent.square()) / 2 * scale * (1 + 3 * 0.044715 * u.square())


def _silu_slope(u: Tensor) -> Tensor:
    share = torch.sigmoid(u)
    return share * (1 + u * (1 - share))


def _sigmoid_slope(u: Tensor) -> Tensor:
    share = torch.sigmoid(u)
    return share * (1 - share)


_KNOWN = {
    one.name: one
    for one in (
        Activation("relu", torch.relu, lambda u: (u > 0).to(u.dtype)),
        Activation(
            "leaky_relu",
            lambda u: functional.leaky_relu(u, LEAK),
            lambda u: torch.where(u > 0, torch.ones_like(u), torch.full_like(u, LEAK)),
        ),
        Activation("gelu", functional.gelu, _gelu_slope),
        Activation("gelu_tanh", lambda u: functional.gelu(u, approximate="tanh"), _tanh_gelu_slope),
        Activation("silu", functional.silu, _silu_slope),
        Activation("tanh", torch.tanh, lambda u: 1 - torch.tanh(u).square()),
        Activation("sigmoid", torch.sigmoid, _sigmoid_slope),
        Activation("erf", torch.erf, lambda u: 2 / math.sqrt(math.pi) * torch.exp(-u.square())),
        Activation("identity", lambda u: u, torch.ones_like),
    )
}
ACTIVATIONS: tuple[str, ...] = tuple(_KNOWN)


def resolve_activation(given: ActivationLike) -> Activation:
    """The activation of a name, of a callable φ, or of a pair (φ, φ').

    The derivative of a callable alone is taken by autograd.

    Raises:
        ValueError: if there is no activation of that name, or it is no callable; φ that autograd cannot follow.
    """
    if isinstance(given, str):
        if given not in _KNOWN:
            raise ValueError(f"activation={given!r} is not known; choose one of {', '.join(map(repr, _KNOWN))}")
        return _KNOWN[given]
    if isinstance(given, tuple) and len(given) == 2 and all(map(callable, given)):
        return Activation("given", given[0], given[1])
    if callable(given):
        return Activation("given", given, _slope_of(given))
    raise ValueError(
        f"activation={given!r} must be a name, a callable, or a pair of callables: the function and its derivative"
    )


def _slope_of(function: Elementwise) -> Elementwise:
    def slope(u: Tensor) -> Tensor:
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            value = function(at)
            if not isinstance(value, Tensor) or not value.requires_grad:
                raise ValueError(
                    "activation has no derivative that autograd finds; give the pair (function, derivative) instead"
                )
            return torch.autograd.grad(value.sum(), at)[0]

    return slope
