"""What every model of a knowledge graph has in common: tables of entities, a query, and tails to compare it with.

A triple (h, r, t) is scored in two halves. `query` turns head and relation into whatever the model compares tails with;
`compare` scores tails against it, all entities at once (a matrix) or some for each query (negatives). Both get *rows*
of the entity tables and never an entity's index, so the tables may lie in pieces on several processes.

Relations are reciprocal: of M relations, number r + M is r read backwards, with parameters of its own. The heads of
(?, r, t) are the tails of (t, r + M, ?), in training and in ranking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Family: TypeAlias = Literal["real", "complex", "matrix"]
Rows: TypeAlias = Mapping[str, Tensor]
"""Rows of the entity tables by the table's name, each (..., width)."""
Query: TypeAlias = tuple[Tensor, ...]
"""What tails are compared with, each tensor with a first dimension of queries."""


@dataclass(frozen=True, eq=False)
class KGFactors:
    """The factors of a batch of triples, which regularisers act on.

    Attributes:
        head: (n, d), real or complex.
        relation: (n, d); of family "matrix" (n, d, d). With `index` it is (m, d) or (m, d, d), a row per relation.
        tail: (n, d).
        family: what `head` times `relation` means: elementwise of real or complex numbers, or the row vector h R.
        index: (n,) which row of `relation` each triple has, so that no matrix is there twice; None where each triple
            has a row of its own.
    """

    head: Tensor
    relation: Tensor
    tail: Tensor
    family: Family
    index: Tensor | None = None


class KGEModel(nn.Module, ABC):
    """A model that scores triples, the higher the likelier.

    A subclass registers its entity tables, parameters with one row per entity, and names them in `entity_tables`; all
    its other parameters belong to relations, of which there are `2 * num_relations`, or to the whole model.

    Args:
        num_entities: N.
        num_relations: M, without the reciprocal ones.
        dim: d, numbers per entity (complex ones count as two).

    Attributes:
        entity_tables: names of the parameters that have a row per entity.
    """

    entity_tables: tuple[str, ...] = ("entity",)

    def __init__(self, num_entities: int, num_relations: int, dim: int) -> None:
        super().__init__()
        self.num_entities, self.num_relations, self.dim = num_entities, num_relations, dim

    @abstractmethod
    def query(self, heads: Rows, relations: Int[Tensor, " n"]) -> Query:
        """What the tails of (head, relation, ?) are compared with.

        Args:
            heads: rows of the heads.
            relations: in 0 to 2M − 1.
        """

    @abstractmethod
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Scores of tails.

        Args:
            query: of n queries.
            tails: (m, width) tables give (n, m), every tail for every query; (n, k, width) tables give (n, k), tails
                of its own for each query.
        """

    @abstractmethod
    def factors(self, heads: Rows, relations: Int[Tensor, " n"], tails: Rows) -> KGFactors:
        """The factors that a regulariser acts on; `tails` are (n, width)."""

    def rows(self, index: Int[Tensor, "*shape"] | None = None) -> Rows:
        """Rows of the entity tables; all of them by default."""
        tables = {name: self.get_parameter(name) for name in self.entity_tables}
        return tables if index is None else {name: table[index] for name, table in tables.items()}

    def inverse(self, relations: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The reciprocal relations: r + M of r, and r of r + M."""
        return (relations + self.num_relations) % (2 * self.num_relations)

    def score_hrt(self, triples: Int[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Scores of triples (head, relation, tail)."""
        heads, relations, tails = triples.unbind(1)
        return self.compare(self.query(self.rows(heads), relations), self.rows(tails[:, None])).squeeze(1)

    def score_t(self, heads: Int[Tensor, " n"], relations: Int[Tensor, " n"]) -> Float[Tensor, "n entities"]:
        """Scores of all entities as the tail of (head, relation, ?)."""
        return self.compare(self.query(self.rows(heads), relations), self.rows())

    def score_h(self, relations: Int[Tensor, " n"], tails: Int[Tensor, " n"]) -> Float[Tensor, "n entities"]:
        """Scores of all entities as the head of (?, relation, tail), by the reciprocal relation."""
        return self.score_t(tails, self.inverse(relations))

    def forward(self, triples: Int[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """As `score_hrt`."""
        return self.score_hrt(triples)

    @property
    def device(self) -> torch.device:
        """Where the entity tables lie."""
        return self.get_parameter(self.entity_tables[0]).device
