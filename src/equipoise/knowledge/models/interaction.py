"""One vector carried through flat, hyperbolic and spherical space, and the images weighed by attention.

    E = G(θ_E) h
    H = log₀(G(θ_H) [exp₀(h) ⊕ exp₀(b)])      in the space of curvature κ_H < 0
    S = log₀(G(θ_S) [exp₀(h) ⊕ exp₀(b)])      in that of κ_S > 0
    w = softmax(⟨a,E⟩, ⟨a,H⟩, ⟨a,S⟩),   q = w_E E + w_H H + w_S S

is the one-sided form. In the two-sided form translations stand on the left and the flat image is translated, too, so
that what the head's side does the tail's side can undo exactly: y = b ⊕ G x has x = Gᵀ((−b) ⊕ y).

Geometry Interaction Knowledge Graph Embeddings (Cao et al., AAAI 2022), eq. 8–10, and the authors' code for WN18RR,
with exp₀, ⊕ and log₀ of the same curvature in each space, which the code does not keep to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.knowledge.geometry.rotations import turned
from equipoise.knowledge.geometry.stereographic import expmap0, logmap0, mobius_add, project

Space = tuple[Tensor, Tensor | None]
"""Rotation (..., d) and curvature (...) of a space; None of flat space."""


def candidates(head: Tensor, spaces: Sequence[Space], translation: Tensor) -> Tensor:
    """Images (n, spaces, d) of the one-sided form."""
    found = []
    for rotation, kappa in spaces:
        if kappa is None:
            found.append(turned(rotation, head))
            continue
        moved = mobius_add(expmap0(head, kappa), expmap0(translation, kappa), kappa)
        # Rotations commute with log₀, so that the order of the two is free.
        found.append(turned(rotation, logmap0(project(moved, kappa), kappa)))
    return torch.stack(found, -2)


def carried(x: Tensor, spaces: Sequence[Space], translation: Tensor) -> Tensor:
    """Images (..., spaces, d) of the head's side of the two-sided form: b ⊕ G x."""
    found = []
    for rotation, kappa in spaces:
        if kappa is None:
            found.append(turned(rotation, x) + translation)
            continue
        moved = mobius_add(expmap0(translation, kappa), turned(rotation, expmap0(x, kappa)), kappa)
        found.append(logmap0(project(moved, kappa), kappa))
    return torch.stack(found, -2)


def carried_back(y: Tensor, spaces: Sequence[Space], translation: Tensor) -> Tensor:
    """Images (..., spaces, d) of the tail's side of the two-sided form: Gᵀ((−b) ⊕ y)."""
    found = []
    for rotation, kappa in spaces:
        if kappa is None:
            found.append(turned(rotation, y - translation, inverse=True))
            continue
        moved = mobius_add(expmap0(-translation, kappa), expmap0(y, kappa), kappa)
        found.append(turned(rotation, logmap0(project(moved, kappa), kappa), inverse=True))
    return torch.stack(found, -2)


def attend(images: Tensor, attention: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Weights (..., spaces) of images (..., spaces, d), and their weighted sum (..., d)."""
    weights = ((images * attention[..., None, :]).sum(-1) * scale).softmax(-1)
    return weights, (weights[..., None] * images).sum(-2)
