"""Curvatures that are learned: κ = ± softplus(raw), so that each keeps the sign of its space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.knowledge.models.base import check_ids, table_rows

CurvatureKind: TypeAlias = Literal["relation", "shared", "fixed"]
# softplus(1): where the authors' code of GIE and of AttH starts.
START = math.log1p(math.e)


class Curvature(nn.Module):
    """Curvatures of one or several spaces.

    Args:
        signs: of each space, −1 hyperbolic, 1 spherical.
        relations: relations there are, reciprocal ones among them.
        kind: "relation" for a curvature of each relation, "shared" for one of all, "fixed" for one that is not learned.
        start: |κ| at the start.
    """

    raw: Tensor
    signs: Tensor

    def __init__(self, signs: Sequence[int], relations: int, kind: CurvatureKind, start: float = START) -> None:
        super().__init__()
        raw = torch.full((relations if kind == "relation" else 1, len(signs)), math.log(math.expm1(start)))
        if kind == "fixed":
            self.register_buffer("raw", raw)
        else:
            self.raw = nn.Parameter(raw)
        self.register_buffer("signs", torch.tensor(signs, dtype=raw.dtype), persistent=False)

    def forward(self, relations: Tensor) -> tuple[Tensor, ...]:
        """κ (n,) of each space, for relations (n,)."""
        if len(self.raw) > 1:
            check_ids("relations", relations, len(self.raw))
            raw = table_rows(self.raw, relations)
        else:
            raw = self.raw.expand(len(relations), -1)
        return (self.signs * functional.softplus(raw)).unbind(1)
