"""What models of one curved target space have in common: a translated head there, and squared distances to tails.

    z = exp₀(q) ⊕ exp₀(b),   score = −dist(z, exp₀(t))² + b_h + b_t

where q is what a model makes of head and relation in the tangent space at 0, b the relation's translation, and h, t, b
are tangent vectors throughout: ordinary parameters, which any optimizer trains. Of exp₀(t), for all tails and whatever
curvature the query's relation has, only a factor of each pair is needed: ⟨z, exp₀(t)⟩ is one product of matrices.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from equipoise.knowledge.geometry.pairs import all_gaps, in_blocks
from equipoise.knowledge.geometry.rotations import check_pairs
from equipoise.knowledge.geometry.stereographic import (
    bounded,
    dist_squared,
    dist_squared_of_gap,
    expmap0,
    expmap0_scale,
    factor,
    mobius_add,
    project,
)
from equipoise.knowledge.models.base import KGEModel, KGFactors, Query, Rows
from equipoise.knowledge.models.curvature import Curvature
from equipoise.knowledge.models.ties import exact_ties


class CurvedModel(KGEModel):
    """A model that compares in a ball whose curvature is learned; subclasses say what `mixture` is.

    Entities and translations start from N(0, `init_scale`²), rotations from the uniform distribution over [−1, 1],
    biases at 0, as in the authors' code of GIE.

    Attributes:
        entity: (N, d), tangent vectors.
        translation: (2M, d), tangent vectors.
        curvature: of the spaces; the last is the one in which tails are compared.
        bias_head, bias_tail: (N, 1), where the model has biases.
    """

    rotates: ClassVar[bool] = True
    """Whether coordinates come in pairs, so that the dimension must be even."""

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        dim: int,
        curvature: Curvature,
        *,
        bias: bool,
        init_scale: float,
        generator: Generator,
    ) -> None:
        super().__init__(num_entities, num_relations, dim)
        if self.rotates:
            check_pairs(dim)
        self.init_scale, self.curvature = init_scale, curvature
        self.entity = self._normal(num_entities, generator)
        self.translation = self._normal(2 * num_relations, generator)
        if bias:
            self.entity_tables, self.tail_tables = ("entity", "bias_head", "bias_tail"), ("entity", "bias_tail")
            self.bias_head, self.bias_tail = (nn.Parameter(torch.zeros(num_entities, 1)) for _ in range(2))

    def _normal(self, rows: int, generator: Generator) -> nn.Parameter:
        return nn.Parameter(torch.randn(rows, self.dim, generator=generator) * self.init_scale)

    def _uniform(self, generator: Generator) -> nn.Parameter:
        return nn.Parameter(2 * torch.rand(2 * self.num_relations, self.dim, generator=generator) - 1)

    @abstractmethod
    def mixture(self, heads: Rows, relations: Tensor) -> Tensor:
        """q (n, d): what becomes of the heads in the tangent space, before the translation."""

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """The translated head, the curvature of the space that it lies in, and the head's bias."""
        mixture = self.mixture(heads, relations)
        kappa = self.curvature(relations)[-1]
        point = translated(mixture, self.relation_rows("translation", relations), kappa)
        return (point, kappa, heads["bias_head"]) if "bias_head" in heads else (point, kappa)

    @exact_ties
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Squared distances with their sign changed, and biases, see `KGEModel.compare`."""
        return biased(tangent_dist_squared(query[0], query[1], tails["entity"]), query[2:], tails)

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head, translation and tail, tangent vectors, of family "real".

        They are what the authors' code bounds the size of. Their products mean nothing in these models, so that of the
        regularisers F2 and N3 fit, rather than those that act on head times relation.
        """
        return KGFactors(heads["entity"], self.relation_rows("translation", relations), tails["entity"], "real")


def translated(tangent: Tensor, translation: Tensor, kappa: Tensor) -> Tensor:
    """The point exp₀(v) ⊕ exp₀(b), kept within the space."""
    return project(mobius_add(expmap0(tangent, kappa), expmap0(translation, kappa), kappa), kappa)


def tangent_dist_squared(points: Tensor, kappa: Tensor, tangents: Tensor) -> Tensor:
    """Squared distances of points (n, d) to exp₀ of all tangent vectors (m, d), or of those (n, k, d) of each point.

    Args:
        points: of spaces whose curvature `kappa` (n,) is.
        kappa: of the spaces.
        tangents: (m, d) give (n, m), (n, k, d) give (n, k).
    """
    if tangents.ndim == 3:
        kappa = kappa[:, None]
        return dist_squared(points[:, None], expmap0(tangents, kappa), kappa)
    tangents = bounded(tangents)
    squared = tangents.square().sum(-1)
    if torch.is_grad_enabled():

        def of_rows(points: Tensor, kappa: Tensor, tangents: Tensor, squared: Tensor) -> Tensor:
            scale, stretched = _images(squared, kappa)
            return _of_images(points, kappa, tangents, scale, stretched)

        return in_blocks(of_rows, points, kappa, whole=(tangents, squared), size=len(tangents))
    # Many queries share a curvature. (With a gradient, nothing would say which of equal ones it belongs to.)
    kinds, which = kappa.unique(return_inverse=True)
    scales, factors = _images(squared, kinds)

    def of_kinds(points: Tensor, kappa: Tensor, which: Tensor) -> Tensor:
        return _of_images(points, kappa, tangents, scales[which], factors[which])

    return in_blocks(of_kinds, points, kappa, which, size=len(tangents))


def _images(squared: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """Of exp₀ of tangent vectors of these squared lengths (m,): what it scales them with, and 1 + κ|y|², (n, m)."""
    scale = expmap0_scale(squared, kappa[:, None])
    return scale, factor(scale.square() * squared, kappa[:, None])


def _of_images(points: Tensor, kappa: Tensor, tangents: Tensor, scale: Tensor, factors: Tensor) -> Tensor:
    kappa = kappa[:, None]
    stretched = factor(points.square().sum(-1, keepdim=True), kappa) * factors
    return dist_squared_of_gap(all_gaps(points, tangents, scale), stretched, kappa)


def biased(distances: Tensor, bias_head: Query, tails: Rows) -> Tensor:
    """Distances, which are written over, with their sign changed, and the biases of head and tail, if there are any."""
    scores = distances.neg_()
    return scores.add_(bias_head[0]).add_(tails["bias_tail"].squeeze(-1)) if bias_head else scores
