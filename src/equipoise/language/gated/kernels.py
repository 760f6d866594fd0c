"""The two integrals of an activation that every kernel of a wide two-layer net is made of.

    A₁ = E[φ(u) φ(u')]        A₀ = E[φ'(u) φ'(u')]        (u, u') ~ N(0, [[k₁₁, k₁₂], [k₁₂, k₂₂]])

ReLU, leaky ReLU, GELU, erf and the identity have closed forms. Of others the expansion in Hermite polynomials is
summed, whose coefficients are an integral in one dimension per sample; pairs so alike that its tail would show are
integrated in two dimensions. Both integrals use the trapezoidal rule, which converges exponentially for smooth
functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Range
from equipoise.core.validate import warn_once
from equipoise.language.gated.activations import (
    LEAK,
    ActivationLike,
    Elementwise,
    resolve_activation,
)

VarianceOne = Annotated[Float[Tensor, "*one"], Range(0)]
VarianceOther = Annotated[Float[Tensor, "*other"], Range(0)]
_Closed: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Cosines this near to 1 or −1 are those of collinear inputs, up to the rounding of a product of matrices.
_COLLINEAR = 16 * torch.finfo(torch.float64).eps
_ORDERS = (64, 512)
_TAIL = 1e-12
# A trapezoidal rule that changes by more than this, relatively, at half of its nodes meets a kink; the error of the
# whole rule is about the square for smooth functions.
_KINK = 1e-4
_REACH_1D, _REACH_2D = 13.0, 9.0
# Values of the activation that are held at once.
_MOST_VALUES = 1 << 22


class ActivationKernel(NamedTuple):
    """The integrals A₁ and A₀, float64.

    Attributes:
        a1: E[φ(u) φ(u')].
        a0: E[φ'(u) φ'(u')].
    """

    a1: Tensor
    a0: Tensor


@checked
def activation_kernel(
    activation: ActivationLike, k11: VarianceOne, k22: VarianceOther, k12: Float[Tensor, "*both"]
) -> ActivationKernel:
    """E[φ(u) φ(u')] and E[φ'(u) φ'(u')] of Gaussian pairs, elementwise.

    ReLU is the arc-cosine kernel of Cho and Saul, "Kernel Methods for Deep Learning", NIPS 2009; erf that of Williams,
    "Computing with Infinite Networks", NIPS 1996. The forms of GELU and erf are reconstructed, and held against
    quadrature in the tests.

    Args:
        activation: "relu", "leaky_relu" (slope .01), "gelu" (of erf), "gelu_tanh", "silu", "tanh", "sigmoid", "erf",
            "identity"; a smooth callable φ; or the pair (φ, φ').
        k11: variance of u, of any shape.
        k22: variance of u'; the three shapes are broadcast.
        k12: their covariance; beyond √(k11 k22) it is clipped. Where a variance is 0, the pair counts as uncorrelated.

    Returns:
        A₁ and A₀ in float64, without gradient.

    Raises:
        ValueError: on a bad argument, by name.

    >>> one = torch.ones(1)
    >>> found = activation_kernel("relu", one, one, one)
    >>> found.a1, found.a0
    (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    one = resolve_activation(activation)
    try:
        torch.broadcast_shapes(k11.shape, k22.shape, k12.shape)
    except RuntimeError:
        shapes = ", ".join(str(tuple(each.shape)) for each in (k11, k22, k12))
        raise ValueError(f"k11, k22 and k12 must have shapes that can be broadcast, got {shapes}") from None
    with torch.no_grad():
        first, second, both = (each.detach().double() for each in (k11, k22, k12))
        cosine = _cosine(first, second, both)
        if isinstance(activation, str) and activation in _CLOSED:
            return ActivationKernel(*_CLOSED[activation](first, second, cosine))
        return ActivationKernel(*(_integral(each, first, second, cosine) for each in (one.function, one.derivative)))


def _cosine(first: Tensor, second: Tensor, both: Tensor) -> Tensor:
    length = first.sqrt() * second.sqrt()
    cosine = torch.where(length > 0, both / length, torch.zeros_like(both)).nan_to_num_(0.0).clamp_(-1, 1)
    return torch.where(1 - cosine.abs() < _COLLINEAR, cosine.sign(), cosine)


def _relu(first: Tensor, second: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    angle = math.pi - torch.arccos(cosine)
    sine = ((1 - cosine) * (1 + cosine)).sqrt()
    return first.sqrt() * second.sqrt() * (sine + angle * cosine) / (2 * math.pi), angle / (2 * math.pi)


def _leaky_relu(first: Tensor, second: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    a1, a0 = _relu(first, second, cosine)
    both = first.sqrt() * second.sqrt() * cosine
    return LEAK * both + (1 - LEAK) ** 2 * a1, LEAK + (1 - LEAK) ** 2 * a0


def _gelu(first: Tensor, second: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    both = first.sqrt() * second.sqrt() * cosine
    q = (1 + first) * (1 + second)
    # q − k₁₂² without cancellation.
    rest = 1 + first + second + first * second * (1 - cosine) * (1 + cosine)
    root, angle = rest.sqrt(), torch.arcsin(both / q.sqrt())
    a1 = ((both.square() + first * second * rest) / (q * root) + both * angle) / (2 * math.pi) + both / 4
    a0 = both / root * (1 / rest + (1 - first * second) / q + 1) / (2 * math.pi) + 0.25 + angle / (2 * math.pi)
    return a1, a0


def _erf(first: Tensor, second: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    both = 2 * first.sqrt() * second.sqrt() * cosine
    q = (1 + 2 * first) * (1 + 2 * second)
    rest = 1 + 2 * first + 2 * second + 4 * first * second * (1 - cosine) * (1 + cosine)
    return 2 / math.pi * torch.arcsin(both / q.sqrt()), 4 / math.pi / rest.sqrt()


def _identity(first: Tensor, second: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    both = first.sqrt() * second.sqrt() * cosine
    return both, torch.ones_like(both)


_CLOSED: dict[str, _Closed] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "erf": _erf,
    "identity": _identity,
}


def _integral(function: Elementwise, first: Tensor, second: Tensor, cosine: Tensor) -> Tensor:
    """E[f(u) f(u')] by Mehler's formula, Σ_j a_j(k₁₁) a_j(k₂₂) ρ^j; by quadrature where its tail could be seen.

    By Parseval, E[f(u)²] − Σ_j a_j² is what the first terms leave of a sample, and bounds the tail of its pairs.
    """
    shape = torch.broadcast_shapes(first.shape, second.shape, cosine.shape)
    sides = first.sqrt(), second.sqrt()
    largest = max(float(side.max()) if side.numel() else 0.0 for side in sides)
    for order in _ORDERS:
        (one, left), (other, right) = (_hermite(function, side, order, largest) for side in sides)
        total = torch.zeros(shape, dtype=torch.float64, device=cosine.device)
        for j in reversed(range(order)):
            total.mul_(cosine).add_(one[..., j] * other[..., j])
        size = one.square().sum(-1).sqrt() * other.square().sum(-1).sqrt()
        seen = cosine.abs() ** order * (left * right).sqrt() > _TAIL * size + torch.finfo(torch.float64).tiny
        seen = seen.expand(shape)
        if not bool(seen.any()):
            return total
    one, other, alike = (each.expand(shape)[seen] for each in (*sides, cosine))
    total[seen] = _in_two_dimensions(function, one, other, alike, largest)
    return total


def _hermite(function: Elementwise, scale: Tensor, order: int, largest: float) -> tuple[Tensor, Tensor]:
    """Coefficients of f(scale z) in normalised Hermite polynomials, in a last dimension; what they leave of E[f²]."""
    step = 2 * math.pi / (math.sqrt(order) + 8 + 21 * max(largest, 1.0))
    half = math.ceil(_REACH_1D / step / 2) * 2
    nodes = torch.arange(-half, half + 1, dtype=torch.float64, device=scale.device) * step
    waves = torch.empty(order, len(nodes), dtype=torch.float64, device=scale.device)
    waves[0] = torch.exp(-nodes.square() / 4)
    envelope = waves[0] * (step / math.sqrt(2 * math.pi))
    if order > 1:
        waves[1] = nodes * waves[0]
    for j in range(1, order - 1):
        waves[j + 1] = (nodes * waves[j] - math.sqrt(j) * waves[j - 1]) / math.sqrt(j + 1)
    flat = scale.reshape(-1)
    coefficients = torch.empty(len(flat), order, dtype=torch.float64, device=scale.device)
    energy = torch.empty_like(flat)
    rows = max(1, _MOST_VALUES // len(nodes))
    kink = 0.0
    for start in range(0, len(flat), rows):
        values = function(flat[start : start + rows, None] * nodes) * envelope
        coefficients[start : start + rows] = values @ waves.T
        squares = values.square() / (step / math.sqrt(2 * math.pi))
        whole = squares.sum(-1)
        energy[start : start + rows] = whole
        kink = max(kink, float(((2 * squares[:, ::2].sum(-1) - whole).abs() / whole.clamp_min(1e-300)).max()))
    if kink > _KINK:
        warn_once(
            f"the activation is not smooth at the width of the quadrature's nodes (error about {kink:.1g} of the "
            "kernel); take a named activation where there is one, or smaller inputs"
        )
    left = (energy - coefficients.square().sum(-1)).clamp_min(0)
    # What rounding leaves is no tail.
    left = torch.where(left < 1e-14 * energy, torch.zeros_like(left), left)
    return coefficients.reshape(*scale.shape, order), left.reshape(scale.shape)


def _in_two_dimensions(function: Elementwise, first: Tensor, second: Tensor, cosine: Tensor, largest: float) -> Tensor:
    """The integral over u = s z and u' = s' (ρ z + √(1 − ρ²) w) on a grid, of flat tensors; over z only if |ρ| = 1."""
    step = 2 * math.pi / (16 + 21 * max(largest, 1.0))
    half = math.ceil(_REACH_2D / step)
    nodes = torch.arange(-half, half + 1, dtype=torch.float64, device=first.device) * step
    weights = torch.exp(-nodes.square() / 2) * (step / math.sqrt(2 * math.pi))
    found = torch.empty_like(first)
    line = cosine.abs() == 1
    for where, breadth in ((line, 1), (~line, len(nodes))):
        places = where.nonzero()[:, 0]
        for part in places.split(max(1, _MOST_VALUES // (len(nodes) * breadth))):
            s, t, c = (each[part] for each in (first, second, cosine))
            left = function(s[:, None] * nodes) * weights
            along = (t * c)[:, None] * nodes
            if breadth == 1:
                right = function(along)
            else:
                across = (t * ((1 - c) * (1 + c)).sqrt())[:, None, None] * nodes
                right = function(along[:, :, None] + across) @ weights
            found[part] = (left * right).sum(-1)
    return found
