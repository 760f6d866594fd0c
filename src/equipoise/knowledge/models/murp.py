"""MuRP: in the Poincaré ball, the head is stretched, and the tail translated.

    score(h, r, t) = −dist(exp₀(R h), exp₀(t) ⊕ exp₀(b))² + b_h + b_t,   R diagonal

Balažević et al., "Multi-relational Poincaré Graph Embeddings", NeurIPS 2019, in a ball of curvature −1. There the
entities are points, trained by Riemannian descent; here they are tangent vectors at 0, trained by any optimizer, as in
the models that came after it. Reconstructed from memory of the paper, with R that starts uniform over [−1, 1].

Since the translation is the tail's, and from the right, all tails take two products of matrices, one with the heads and
one with the translations.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.knowledge.geometry.pairs import all_products, gaps_of_lengths, in_blocks
from equipoise.knowledge.geometry.stereographic import (
    bounded,
    dist_squared_of_gap,
    expmap0,
    expmap0_scale,
    factor,
    mobius_add,
)
from equipoise.knowledge.models.base import KGFactors, Query, Rows
from equipoise.knowledge.models.curvature import Curvature, CurvatureKind
from equipoise.knowledge.models.curved import CurvedModel, biased
from equipoise.knowledge.models.ties import exact_ties


class MuRP(CurvedModel):
    """Stretched heads and translated tails in hyperbolic space.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d.
        curvature: "fixed" for −1, as in the paper; "shared" for one that is learned, "relation" for one of each
            relation, both starting there.
        bias: whether heads and tails have biases.
        init_scale: standard deviation of the start of entities and translations.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> MuRP(5, 2, dim=4).score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 5])
    """

    rotates = False

    @checked
    def __init__(
        self,
        num_entities: Count,
        num_relations: Count,
        dim: Count = 100,
        curvature: CurvatureKind = "fixed",
        bias: bool = True,
        *,
        init_scale: Positive = 1e-3,
        seed: Whole = 0,
    ) -> None:
        generator = Generator().manual_seed(seed)
        super().__init__(
            num_entities,
            num_relations,
            dim,
            Curvature([-1], 2 * num_relations, curvature, start=1.0),
            bias=bias,
            init_scale=init_scale,
            generator=generator,
        )
        self.stretch = self._uniform(generator)

    def mixture(self, heads: Rows, relations: Tensor) -> Tensor:
        """The stretched heads."""
        return self.relation_rows("stretch", relations) * heads["entity"]

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """Points of heads and of translations, the curvature of their space, and the heads' biases."""
        kappa = self.curvature(relations)[-1]
        head = expmap0(self.mixture(heads, relations), kappa)
        translation = expmap0(self.relation_rows("translation", relations), kappa)
        return (head, translation, kappa, *([heads["bias_head"]] if "bias_head" in heads else []))

    @exact_ties
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Squared distances with their sign changed, and biases, see `KGEModel.compare`."""
        (head, translation, kappa), tail = query[:3], tails["entity"]
        if tail.ndim == 3:
            squared = _dist_squared(head[:, None], translation[:, None], kappa[:, None], expmap0(tail, kappa[:, None]))
        else:
            squared = in_blocks(_all_dist_squared, head, translation, kappa, whole=(bounded(tail),), size=len(tail))
        return biased(squared, query[3:], tails)

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head, stretch and tail, of family "real": head times relation is the stretched head."""
        return KGFactors(heads["entity"], self.relation_rows("stretch", relations), tails["entity"], "real")


class _Sum(NamedTuple):
    """Of y = t ⊕ b, for pairs of a t and a b: |y|², 1 + κ|y|², and the product with a point of the pair."""

    squared: Tensor
    factor: Tensor
    product: Tensor


def _all_sums(point: Tensor, translation: Tensor, kappa: Tensor, tails: Tensor, scale: Tensor) -> _Sum:
    u2, b2 = scale.square() * tails.square().sum(-1), translation.square().sum(-1, keepdim=True)
    with_point, with_translation = (scale * all_products(each, tails) for each in (point, translation))
    below = 1 - 2 * kappa * with_translation + kappa.square() * u2 * b2
    first, second = 1 - kappa * (2 * with_translation + b2), 1 + kappa * u2
    product = (first * with_point + second * (point * translation).sum(-1, keepdim=True)) / below
    squared = (u2 + b2 + 2 * with_translation).clamp_min(0) / below
    return _Sum(squared, factor(u2, kappa) * factor(b2, kappa) / below, product)


def _dist_squared(head: Tensor, translation: Tensor, kappa: Tensor, tail: Tensor) -> Tensor:
    u2, b2 = tail.square().sum(-1), translation.square().sum(-1)
    below = 1 - 2 * kappa * (tail * translation).sum(-1) + kappa.square() * u2 * b2
    stretched = factor(head.square().sum(-1), kappa) * factor(u2, kappa) * factor(b2, kappa) / below
    return dist_squared_of_gap((head - mobius_add(tail, translation, kappa)).square().sum(-1), stretched, kappa)


def _all_dist_squared(head: Tensor, translation: Tensor, kappa: Tensor, tails: Tensor) -> Tensor:
    of_pairs = kappa[:, None]
    scale = expmap0_scale(tails.square().sum(-1), of_pairs)
    moved = _all_sums(head, translation, of_pairs, tails, scale)

    def exact(rows: Tensor, columns: Tensor) -> Tensor:
        image = mobius_add(tails[columns] * scale[rows, columns, None], translation[rows], kappa[rows])
        return (head[rows] - image).square().sum(-1)

    length = head.square().sum(-1, keepdim=True)
    gap = gaps_of_lengths(length, moved.squared, moved.product, exact, head.shape[1])
    return dist_squared_of_gap(gap, factor(length, of_pairs) * moved.factor, of_pairs)
