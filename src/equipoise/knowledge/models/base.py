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
from operator import attrgetter
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty

Family: TypeAlias = Literal["real", "complex", "matrix"]
Rows: TypeAlias = Mapping[str, Tensor]
"""Rows of the entity tables by the table's name, each (..., width)."""
Query: TypeAlias = tuple[Tensor, ...]
"""What tails are compared with, each tensor with a first dimension of queries."""
Index: TypeAlias = Annotated[Integer[Tensor, " n"], MayBeEmpty()]
Triples: TypeAlias = Annotated[Integer[Tensor, "n 3"], MayBeEmpty()]


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
        tail_tables: those of them that `compare` reads.
    """

    entity_tables: tuple[str, ...] = ("entity",)
    tail_tables: tuple[str, ...] = ("entity",)

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
                of its own for each query. Of all m tails, those with the same rows of
                `tail_tables` have exactly the same score.
        """

    @abstractmethod
    def factors(self, heads: Rows, relations: Int[Tensor, " n"], tails: Rows) -> KGFactors:
        """The factors that a regulariser acts on; `tails` are (n, width)."""

    def table(self, name: str) -> Tensor:
        """A parameter or buffer by its name in the state, such as "entity" or "rotations.euclidean"."""
        found: Tensor = attrgetter(name)(self)
        return found

    def rows(self, index: Int[Tensor, "*shape"] | None = None) -> Rows:
        """Rows of the entity tables; all of them by default.

        Raises:
            IndexError: if an entity is not there.
        """
        tables = {name: self.table(name) for name in self.entity_tables}
        if index is None:
            return tables
        check_ids("entities", index, self.num_entities)
        return {name: table_rows(table, index) for name, table in tables.items()}

    def relation_rows(self, name: str, relations: Int[Tensor, " n"]) -> Tensor:
        """Rows of a table of relations, a parameter with 2M rows, or with one for all.

        Raises:
            IndexError: if a relation is not there.
        """
        table = self.table(name)
        check_ids("relations", relations, 2 * self.num_relations)
        return table_rows(table, relations) if len(table) > 1 else table.expand(len(relations), *table.shape[1:])

    def inverse(self, relations: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The reciprocal relations: r + M of r, and r of r + M."""
        return (relations + self.num_relations) % (2 * self.num_relations)

    @checked
    def score_hrt(self, triples: Triples) -> Float[Tensor, " n"]:
        """Scores of triples (head, relation, tail).

        Raises:
            ValueError: unless triples are whole numbers (n, 3).
            IndexError: if an entity or relation is not there.
        """
        heads, relations, tails = triples.long().unbind(1)
        return self.compare(self.query(self.rows(heads), relations), self.rows(tails[:, None])).squeeze(1)

    @checked
    def score_t(self, heads: Index, relations: Index) -> Float[Tensor, "n entities"]:
        """Scores of all entities as the tail of (head, relation, ?).

        Raises:
            IndexError: if an entity or relation is not there.
        """
        return self.compare(self.query(self.rows(heads), relations.long()), self.rows())

    @checked
    def score_h(self, relations: Index, tails: Index) -> Float[Tensor, "n entities"]:
        """Scores of all entities as the head of (?, relation, tail), by the reciprocal relation.

        Raises:
            IndexError: if an entity or relation is not there.
        """
        check_ids("relations", relations, 2 * self.num_relations)
        return self.score_t(tails, self.inverse(relations.long()))

    def forward(self, triples: Triples) -> Float[Tensor, " n"]:
        """As `score_hrt`."""
        return self.score_hrt(triples)

    @property
    def device(self) -> torch.device:
        """Where the entity tables lie."""
        return self.table(self.entity_tables[0]).device


def check_ids(name: str, ids: Tensor, count: int) -> None:
    """Raise `IndexError` unless all lie in [0, count); PyTorch would take negative ones from the end."""
    if torch.compiler.is_compiling() or not ids.numel():
        return
    least, most = (int(each) for each in ids.aminmax())
    if least < 0 or most >= count:
        raise IndexError(f"{name} hold the index {least if least < 0 else most}, wanted 0 to {count - 1}")


def table_rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, whose gradient costs half as much."""
    rows = nn.functional.embedding(index.long(), table.flatten(1))
    return rows.unflatten(-1, table.shape[1:]) if table.ndim > 2 else rows
