"""Models whose score is linear in head, relation and tail: CP, DistMult, ComplEx, RESCAL.

    DistMult, CP  Σ h r t          ComplEx  Re Σ h r t̄          RESCAL  hᵀ R t

CP has two tables, one for heads and one for tails. ComplEx is of complex numbers, stored as pairs (real, imaginary) of
neighbouring coordinates. Entities and relations start from N(0, `init_scale`²).

Hitchcock, "The expression of a tensor or a polyadic as a sum of products", 1927; Nickel et al., "A Three-Way Model for
Collective Learning on Multi-Relational Data", ICML 2011; Yang et al., "Embedding Entities and Relations for Learning
and Inference in Knowledge Bases", ICLR 2015; Trouillon et al., "Complex Embeddings for Simple Link Prediction", ICML
2016.
The scores are those that the equivariance regulariser is stated for (Cao et al., AAAI 2022).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.knowledge.geometry.pairs import all_products
from equipoise.knowledge.models.base import KGEModel, KGFactors, Query, Rows
from equipoise.knowledge.models.ties import exact_ties


class _Bilinear(KGEModel):
    """A model that compares by inner products."""

    def _start(self, init_scale: float, seed: int, relation: tuple[int, ...]) -> None:
        generator = Generator().manual_seed(seed)
        for name in self.entity_tables:
            table = torch.randn(self.num_entities, self.dim, generator=generator) * init_scale
            self.register_parameter(name, nn.Parameter(table))
        self.relation = nn.Parameter(torch.randn(2 * self.num_relations, *relation, generator=generator) * init_scale)

    @exact_ties
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Inner products, see `KGEModel.compare`."""
        return products(query[0], tails[self.tail_tables[0]])


class DistMult(_Bilinear):
    """Σ h r t of real numbers.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d.
        init_scale: standard deviation of the start.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> DistMult(5, 2, dim=4).score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 5])
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
        self._start(init_scale, seed, (dim,))

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """h r."""
        return (heads["entity"] * self.relation_rows("relation", relations),)

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head, relation and tail, of family "real"."""
        return KGFactors(heads["entity"], self.relation_rows("relation", relations), tails["entity"], "real")


class CP(_Bilinear):
    """Σ h r t of real numbers, where an entity has one vector as a head and another as a tail.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, of each of the two vectors.
        init_scale: standard deviation of the start.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> model = CP(5, 2, dim=4)
    >>> model.entity_tables, model.score_hrt(torch.tensor([[0, 1, 4]])).shape
    (('head', 'tail'), torch.Size([1]))
    """

    entity_tables = ("head", "tail")
    tail_tables = ("tail",)

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
        self._start(init_scale, seed, (dim,))

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """h r."""
        return (heads["head"] * self.relation_rows("relation", relations),)

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head as a head, relation, and tail as a tail, of family "real"."""
        return KGFactors(heads["head"], self.relation_rows("relation", relations), tails["tail"], "real")


class ComplEx(_Bilinear):
    """Re Σ h r t̄ of complex numbers.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, even: real and imaginary parts of d/2 numbers.
        init_scale: standard deviation of the start.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> model = ComplEx(5, 2, dim=4)
    >>> one = torch.tensor([1])
    >>> model.factors(model.rows(one), one, model.rows(one)).relation.dtype
    torch.complex64
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
        self._start(init_scale, seed, (dim,))

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """h r, as pairs."""
        return (complex_products(heads["entity"], self.relation_rows("relation", relations)),)

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head, relation and tail (n, d/2), of family "complex"."""
        relation = self.relation_rows("relation", relations)
        return KGFactors(as_complex(heads["entity"]), as_complex(relation), as_complex(tails["entity"]), "complex")


class RESCAL(_Bilinear):
    """hᵀ R t, where a relation is a matrix.

    Queries are grouped by relation, with one product of matrices for each, so that no (n, d, d) tensor is formed.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d; relations have d² numbers.
        init_scale: standard deviation of the start.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> RESCAL(5, 2, dim=4).relation.shape
    torch.Size([4, 4, 4])
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
        self._start(init_scale, seed, (dim, dim))

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """hᵀ R."""
        head = heads["entity"]
        order = relations.argsort(stable=True)
        kinds, counts = relations.unique(return_counts=True)
        matrices = self.relation_rows("relation", kinds)
        images = [
            all_products(part, matrix.T)
            for part, matrix in zip(head[order].split(counts.tolist()), matrices, strict=True)
        ]
        return (torch.cat(images)[order.argsort()] if images else head,)

    def factors(self, heads: Rows, relations: Tensor, tails: Rows) -> KGFactors:
        """Head (n, d), the matrices of the relations that are there, by index, and tail, of family "matrix"."""
        found, index = relations.unique(return_inverse=True)
        return KGFactors(heads["entity"], self.relation_rows("relation", found), tails["entity"], "matrix", index)


def products(query: Tensor, tails: Tensor) -> Tensor:
    """⟨q,t⟩ of all tails (m, d), giving (n, m), or of tails (n, k, d) of each query."""
    if tails.ndim == 2:
        return all_products(query, tails)
    with torch.autocast(query.device.type, enabled=False):
        return (tails @ query[:, :, None]).squeeze(2)


def as_complex(pairs: Tensor) -> Tensor:
    """Complex numbers (..., d/2) of pairs (real, imaginary) of neighbours in (..., d)."""
    return torch.view_as_complex(pairs.unflatten(-1, (-1, 2)).contiguous())


def complex_products(x: Tensor, y: Tensor) -> Tensor:
    """Elementwise products of complex numbers that are stored as pairs."""
    return torch.view_as_real(as_complex(x) * as_complex(y)).flatten(-2)


def check_complex(dim: int) -> None:
    """Raise `ValueError` unless coordinates are real and imaginary parts."""
    if dim % 2:
        raise ValueError(f"dim must be even for complex numbers, which count as two, got {dim}")
