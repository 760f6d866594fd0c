"""Rotations and reflections of hyperbolic space, and attention between the two: RotH, RefH, AttH, and flat RotE.

    RotH  q = G(θ) h        RefH  q = F(θ) h        AttH  q = w₁ G(θ) h + w₂ F(θ') h,  w = softmax(⟨a, images⟩/√d)
    score(h, r, t) = −dist(exp₀(q) ⊕ exp₀(b), exp₀(t))² + b_h + b_t
    RotE  score(h, r, t) = −|G(θ) h + b − t|² + b_h + b_t

Chami et al., "Low-Dimensional Hyperbolic Knowledge Graph Embeddings", ACL 2020, eq. 5–9, with a curvature of each
relation that is learned. Reconstructed from memory of paper and code: that the images are mixed in the tangent space,
the scale 1/√d, and the start, which is that of GIE's code, a relative. The authors' RotH translates before the
rotation, too; this one does so only after it, as the paper's formula says.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.knowledge.geometry.pairs import all_gaps, in_blocks
from equipoise.knowledge.geometry.rotations import turned
from equipoise.knowledge.models.base import Query, Rows
from equipoise.knowledge.models.curvature import Curvature, CurvatureKind
from equipoise.knowledge.models.curved import CurvedModel, biased
from equipoise.knowledge.models.interaction import attend
from equipoise.knowledge.models.ties import exact_ties


class _Isometry(CurvedModel):
    """A model whose head is rotated or reflected, and translated in hyperbolic space."""

    @checked
    def __init__(
        self,
        num_entities: Count,
        num_relations: Count,
        dim: Count = 100,
        curvature: CurvatureKind = "relation",
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
            Curvature([-1], 2 * num_relations, curvature),
            bias=bias,
            init_scale=init_scale,
            generator=generator,
        )
        self._relations(generator)

    @abstractmethod
    def _relations(self, generator: Generator) -> None:
        """Make the tables of relations."""


class RotH(_Isometry):
    """Rotated heads in hyperbolic space.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, even.
        curvature: "relation" for a curvature of each relation, "shared" for one of all, "fixed" for one that is not
            learned.
        bias: whether heads and tails have biases.
        init_scale: standard deviation of the start of entities and translations.
        seed: of the start.

    Raises:
        ValueError: if d is odd; on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> RotH(5, 2, dim=4).score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 5])
    """

    def _relations(self, generator: Generator) -> None:
        self.rotation = self._uniform(generator)

    def mixture(self, heads: Rows, relations: Tensor) -> Tensor:
        """The rotated heads."""
        return turned(self.relation_rows("rotation", relations), heads["entity"])


class RefH(_Isometry):
    """Reflected heads in hyperbolic space.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, even.
        curvature: "relation" for a curvature of each relation, "shared" for one of all, "fixed" for one that is not
            learned.
        bias: whether heads and tails have biases.
        init_scale: standard deviation of the start of entities and translations.
        seed: of the start.

    Raises:
        ValueError: if d is odd; on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> RefH(5, 2, dim=4).score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 5])
    """

    def _relations(self, generator: Generator) -> None:
        self.reflection = self._uniform(generator)

    def mixture(self, heads: Rows, relations: Tensor) -> Tensor:
        """The reflected heads."""
        return turned(self.relation_rows("reflection", relations), heads["entity"], reflect=True)


class AttH(_Isometry):
    """Rotated and reflected heads in hyperbolic space, weighed by attention.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, even.
        curvature: "relation" for a curvature of each relation, "shared" for one of all, "fixed" for one that is not
            learned.
        bias: whether heads and tails have biases.
        init_scale: standard deviation of the start of entities and translations.
        seed: of the start.

    Raises:
        ValueError: if d is odd; on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> AttH(5, 2, dim=4).attention_weights(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 2])
    """

    def _relations(self, generator: Generator) -> None:
        self.rotation, self.reflection = self._uniform(generator), self._uniform(generator)
        self.attention = self._normal(2 * self.num_relations, generator)

    def attention_weights(self, heads: Int[Tensor, " n"], relations: Int[Tensor, " n"]) -> Float[Tensor, "n images"]:
        """Weights of rotation and reflection, in this order, which sum to 1.

        Raises:
            IndexError: if an entity or relation is not there.
        """
        return self._attended(self.rows(heads), relations)[0]

    def mixture(self, heads: Rows, relations: Tensor) -> Tensor:
        """The weighted images of the heads."""
        return self._attended(heads, relations)[1]

    def _attended(self, heads: Rows, relations: Tensor) -> tuple[Tensor, Tensor]:
        head = heads["entity"]
        rotated = turned(self.relation_rows("rotation", relations), head)
        reflected = turned(self.relation_rows("reflection", relations), head, reflect=True)
        images = torch.stack((rotated, reflected), -2)
        return attend(images, self.relation_rows("attention", relations), self.dim**-0.5)


class RotE(CurvedModel):
    """Rotated and translated heads in flat space, compared by squared distance.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, even.
        bias: whether heads and tails have biases.
        init_scale: standard deviation of the start of entities and translations.
        seed: of the start.

    Raises:
        ValueError: if d is odd; on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> RotE(5, 2, dim=4).score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 5])
    """

    @checked
    def __init__(
        self,
        num_entities: Count,
        num_relations: Count,
        dim: Count = 100,
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
            Curvature([], 1, "fixed"),
            bias=bias,
            init_scale=init_scale,
            generator=generator,
        )
        self.rotation = self._uniform(generator)

    def mixture(self, heads: Rows, relations: Tensor) -> Tensor:
        """The rotated heads."""
        return turned(self.relation_rows("rotation", relations), heads["entity"])

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """The rotated and translated heads, and their biases."""
        point = self.mixture(heads, relations) + self.relation_rows("translation", relations)
        return (point, heads["bias_head"]) if "bias_head" in heads else (point,)

    @exact_ties
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Squared distances with their sign changed, and biases, see `KGEModel.compare`."""
        point, tail = query[0], tails["entity"]
        if tail.ndim == 3:
            squared = (point[:, None] - tail).square().sum(-1)
        else:
            squared = in_blocks(all_gaps, point, whole=(tail,), size=len(tail))
        return biased(squared, query[1:], tails)
