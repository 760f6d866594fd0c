"""Models that move the head and measure how far it is from the tail: TransE shifts, RotatE turns.

    TransE  −|h + r − t|          RotatE  −Σ |h e^{iφ} − t|

Bordes et al., "Translating Embeddings for Modeling Multi-relational Data", NeurIPS 2013; Sun et al., "RotatE: Knowledge
Graph Embedding by Relational Rotation in Complex Space", ICLR 2019. Both scores as the equivariance regulariser is
stated for (Cao et al., AAAI 2022). Entities start from N(0, `init_scale`²), as its models do.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.knowledge.geometry.pairs import all_gaps, in_blocks
from equipoise.knowledge.geometry.stereographic import safe_sqrt
from equipoise.knowledge.models.base import KGEModel, KGFactors, Query, Rows
from equipoise.knowledge.models.bilinear import as_complex, check_complex
from equipoise.knowledge.models.ties import exact_ties


class TransE(KGEModel):
    """−|h + r − t|: a relation is a shift.

    All tails are compared by one product of matrices in the 2-norm, with pairs that nearly meet computed anew from
    their difference; in the 1-norm pair by pair.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d.
        norm: 1 or 2, which norm.
        init_scale: standard deviation of the start.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> TransE(5, 2, dim=3, norm=1).score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 5])
    """

    @checked
    def __init__(
        self,
        num_entities: Count,
        num_relations: Count,
        dim: Count = 100,
        norm: Literal[1, 2] = 2,
        *,
        init_scale: Positive = 1e-3,
        seed: Whole = 0,
    ) -> None:
        super().__init__(num_entities, num_relations, dim)
        self.norm = norm
        generator = Generator().manual_seed(seed)
        self.entity = nn.Parameter(torch.randn(num_entities, dim, generator=generator) * init_scale)
        self.relation = nn.Parameter(torch.randn(2 * num_relations, dim, generator=generator) * init_scale)

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """h + r."""
        return (heads["entity"] + self.relation_rows("relation", relations),)

    @exact_ties
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Distances with their sign changed, see `KGEModel.compare`."""
        return -distances(query[0], tails["entity"], self.norm)

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head, relation and tail as complex numbers without imaginary parts, of family "complex".

        A regulariser of that family then has the value that it has for real numbers. That is how the equivariance
        regulariser is said to act on models of translations; nothing more of it is published.
        """
        vectors = heads["entity"], self.relation_rows("relation", relations), tails["entity"]
        head, relation, tail = (torch.complex(each, torch.zeros_like(each)) for each in vectors)
        return KGFactors(head, relation, tail, "complex")


class RotatE(KGEModel):
    """−Σ |h e^{iφ} − t| of complex numbers: a relation is an angle φ for each.

    Entities are pairs (real, imaginary) of neighbouring coordinates; angles start from the uniform distribution over
    the circle. All tails are compared pair by pair, in blocks, for a sum of moduli is no product of matrices.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, even: real and imaginary parts of d/2 numbers. Relations have d/2 angles.
        init_scale: standard deviation of the entities' start.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> model = RotatE(5, 2, dim=4)
    >>> model.phase.shape, model.score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    (torch.Size([4, 2]), torch.Size([2, 5]))
    """

    @checked
    def __init__(
        self,
        num_entities: Count,
        num_relations: Count,
        dim: Count = 100,
        *,
        init_scale: Positive = 1e-3,
        seed: Whole = 0,
    ) -> None:
        super().__init__(num_entities, num_relations, dim)
        check_complex(dim)
        generator = Generator().manual_seed(seed)
        self.entity = nn.Parameter(torch.randn(num_entities, dim, generator=generator) * init_scale)
        angles = torch.rand(2 * num_relations, dim // 2, generator=generator)
        self.phase = nn.Parameter((2 * angles - 1) * math.pi)

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """h e^{iφ}, as pairs."""
        return (rotated(heads["entity"], self.relation_rows("phase", relations)),)

    @exact_ties
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Sums of moduli with their sign changed, see `KGEModel.compare`."""
        return sums_of_moduli(query[0], tails["entity"]).neg_()

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head, e^{iφ} and tail (n, d/2), of family "complex"."""
        phase = self.relation_rows("phase", relations)
        turn = torch.complex(phase.cos(), phase.sin())
        return KGFactors(as_complex(heads["entity"]), turn, as_complex(tails["entity"]), "complex")


def rotated(pairs: Tensor, phase: Tensor) -> Tensor:
    """Complex numbers, stored as pairs, turned by angles."""
    real, imaginary = pairs.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = phase.cos(), phase.sin()
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), -1).flatten(-2)


def distances(query: Tensor, tails: Tensor, norm: int) -> Tensor:
    """|q − t| of all tails (m, d), giving (n, m), or of tails (n, k, d) of each query; gradient 0 where q = t."""
    if tails.ndim == 3:
        gap = query[:, None] - tails
        return gap.abs().sum(-1) if norm == 1 else safe_sqrt(gap.square().sum(-1))
    if norm == 1:
        return torch.cdist(query, tails, p=1.0)

    def of_rows(rows: Tensor, all_tails: Tensor) -> Tensor:
        return safe_sqrt(all_gaps(rows, all_tails))

    return in_blocks(of_rows, query, whole=(tails,), size=len(tails))


def sums_of_moduli(query: Tensor, tails: Tensor) -> Tensor:
    """Σ |q − t| over complex numbers, stored as pairs, of all tails (m, d) or of tails (n, k, d) of each query."""
    if tails.ndim == 3:
        return as_complex(query[:, None] - tails).abs().sum(-1)

    def of_tails(some: Tensor, rows: Tensor) -> Tensor:
        return as_complex(rows[:, None] - some).abs().sum(-1)

    # Blocks of queries, and of tails within, so that neither many queries nor many tails are held at once.
    found = [in_blocks(of_tails, tails, whole=(rows,), size=rows.numel(), dim=1) for rows in query.split(32)]
    return torch.cat(found) if found else query.new_zeros(0, len(tails))
