"""Turning one embedding onto another: answers say nothing about shift, rotation, reflection and, mostly, size."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked


class Alignment(NamedTuple):
    """An embedding moved onto a reference, aligned = scale · embedding @ rotation + shift.

    Attributes:
        aligned: (n, d).
        rotation: (d, d) orthogonal; it may reflect.
        scale: at least 0.
        shift: (d,).
        disparity: what is left, as a share of the reference's own spread: 0 where they are one, 1 where nothing fits.
    """

    aligned: Tensor
    rotation: Tensor
    scale: float
    shift: Tensor
    disparity: float


@checked
def procrustes_alignment(
    embedding: Float[Tensor, "items dim"], reference: Float[Tensor, "items dim"], *, scaled: bool = True
) -> Alignment:
    """The shift, rotation and size of an embedding nearest to a reference in squares.

    Args:
        embedding: (n, d).
        reference: (n, d) of the same items; pad the one of fewer dimensions with zeros.
        scaled: whether the size may change.

    Raises:
        ValueError: if the reference is one point, or on a bad argument, by name.

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> turned = 3 * x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) + 5
    >>> round(procrustes_alignment(x, turned).disparity, 6)
    0.0
    """
    middle, goal = embedding.mean(0), reference.mean(0)
    own, wanted = embedding - middle, reference - goal
    spread = float(wanted.square().sum())
    if spread == 0:
        raise ValueError("reference holds one place only, so that nothing can be aligned with it")
    size = float(own.square().sum())
    with torch.autocast(embedding.device.type, enabled=False):
        left, sigma, right = torch.linalg.svd(own.T @ wanted)
        rotation = left @ right
        scale = float(sigma.sum()) / size if scaled and size > 0 else 1.0
        aligned, shift = scale * own @ rotation, goal - scale * middle @ rotation
    left_over = float((aligned - wanted).square().sum()) / spread
    return Alignment(aligned + goal, rotation, scale, shift, left_over)
