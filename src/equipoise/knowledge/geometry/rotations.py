"""Rotations and reflections of pairs of coordinates.

A rotation of d/2 planes turns (x₂ᵢ, x₂ᵢ₊₁) by an angle of its own, given as a pair of any length other than zero that
points at it. It leaves lengths, and the maps between a curved space and its tangent space, as they are. A reflection
does the same after a change of sign of the second coordinate.

Chami et al., "Low-Dimensional Hyperbolic Knowledge Graph Embeddings", ACL 2020, eq. 5 and 6.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked


@checked
def givens_rotation(rotation: Float[Tensor, "... dim"], x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
    """Vectors with every pair of coordinates turned.

    Args:
        rotation: (..., d) pairs (a, b); each turns by the angle whose cosine and sine are (a, b)/√(a² + b²). A pair of
            zeros has no angle: it gives zeros, with finite gradients.
        x: (..., d).

    Raises:
        ValueError: if the dimension is odd; on a bad argument, by name.

    >>> givens_rotation(torch.tensor([0.0, 2.0]), torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    tensor([[ 0.,  1.],
            [-4.,  3.]])
    """
    return turned(rotation, x)


@checked
def givens_reflection(rotation: Float[Tensor, "... dim"], x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
    """Vectors with every pair of coordinates reflected: by the matrix [[cos, sin], [sin, −cos]].

    Args:
        rotation: (..., d) pairs, see `givens_rotation`; the axis of the reflection lies at half the angle.
        x: (..., d).

    Raises:
        ValueError: if the dimension is odd; on a bad argument, by name.

    >>> givens_reflection(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 4.0]))
    tensor([4., 3.])
    """
    return turned(rotation, x, reflect=True)


def turned(rotation: Tensor, x: Tensor, *, reflect: bool = False, inverse: bool = False) -> Tensor:
    """As `givens_rotation` or `givens_reflection`, unchecked; `inverse` turns back."""
    check_pairs(x.shape[-1])
    pair = rotation.unflatten(-1, (-1, 2))
    # By the larger of the two first, so that no square overflows or vanishes; it has no gradient, for it cancels.
    largest = pair.detach().abs().amax(-1, keepdim=True)
    pair = pair / largest.masked_fill(largest == 0, 1)
    length = pair.square().sum(-1, keepdim=True)
    pair = pair * length.masked_fill(length == 0, 1).rsqrt()
    cos, sin = pair.unbind(-1)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    if reflect:
        second = -second
    elif inverse:
        sin = -sin
    return torch.stack((cos * first - sin * second, sin * first + cos * second), -1).flatten(-2)


def check_pairs(dim: int) -> None:
    """Raise `ValueError` unless coordinates come in pairs."""
    if dim % 2:
        raise ValueError(f"dim must be even for Givens rotations, which turn pairs of coordinates, got {dim}")
