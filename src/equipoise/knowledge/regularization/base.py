"""What every regulariser has in common: a term for each triple of a batch, a weight, and their mean.

    R = 1/B Σ_triples  λ_r · term(h, r, t)

It acts on the factors of the triples that were drawn, not on whole tables, so what is frequent is penalised more often.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import NonNegative
from equipoise.knowledge.models.base import KGFactors

Weight: TypeAlias = NonNegative | Float[Tensor, " relations"]
"""λ, or one for every relation; the reciprocal relations count, so there are 2M of these."""


class KGRegularizer(nn.Module, ABC):
    """A penalty on the factors of triples.

    Args:
        weight: λ, or (2M,) one for every relation.

    Raises:
        ValueError: if a weight is negative.
    """

    weight: float | Tensor

    @checked
    def __init__(self, weight: Weight) -> None:
        super().__init__()
        if isinstance(weight, Tensor):
            if bool((weight < 0).any()):
                raise ValueError(f"weight must be at least 0, got {float(weight.min())}")
            self.register_buffer("weight", weight)
        else:
            self.weight = weight

    @abstractmethod
    def terms(self, factors: KGFactors, triples: Tensor | None) -> Tensor:
        """The term of each triple, (n,), without its weight."""

    def forward(self, factors: KGFactors, triples: Int[Tensor, "n 3"] | None = None) -> Float[Tensor, ""]:
        """The weighted mean of the terms of a batch.

        Args:
            factors: of the batch, see `KGEModel.factors`.
            triples: (n, 3) the batch itself; needed where a setting differs between relations or entities.

        Raises:
            TypeError: if factors are complex and of a family that is not, or the other way round.
            ValueError: if the batch is empty, shapes do not fit the family, or a factor is NaN; if triples are needed
                and not given.
        """
        factors = checked_factors(factors)
        check_batch(factors, triples)
        terms = self.terms(factors, triples)
        weight = of_relations("weight", self.weight, triples)
        value = (terms * (weight.to(terms) if isinstance(weight, Tensor) else weight)).mean()
        if not torch.compiler.is_compiling() and bool(value.isnan()):
            for name in ("head", "relation", "tail"):
                if bool(getattr(factors, name).isnan().any()):
                    raise ValueError(f"{name} of the factors holds NaN; lower the learning rate")
        return value

    def check_sizes(self, num_entities: int, num_relations: int) -> None:
        """Raise `ValueError` unless settings of entities have N rows, and those of relations 2M."""
        check_rows("weight", self.weight, num_relations)

    def extra_repr(self) -> str:
        """The weight."""
        return f"weight={self.weight if isinstance(self.weight, float | int) else tuple(self.weight.shape)}"


def checked_factors(factors: KGFactors) -> KGFactors:
    """The factors, in float32 where they were in half precision.

    Raises:
        TypeError: if factors are complex and of a family that is not, or the other way round.
        ValueError: if the family is unknown, the batch empty, or shapes do not fit the family.
    """
    head, relation, tail = factors.head, factors.relation, factors.tail
    if factors.family not in ("real", "complex", "matrix"):
        raise ValueError(f"family={factors.family!r} is not known; choose one of 'real', 'complex', 'matrix'")
    for name, given in (("head", head), ("relation", relation), ("tail", tail)):
        if given.is_complex() != (factors.family == "complex"):
            raise TypeError(f"{name} is of {given.dtype}, which does not fit family={factors.family!r}")
    if head.ndim != 2 or head.shape != tail.shape:
        raise ValueError(f"head and tail must both have shape (n, d), got {tuple(head.shape)} and {tuple(tail.shape)}")
    if not len(head):
        raise ValueError("factors are of no triple: there is no mean of nothing")
    rows = len(relation) if factors.index is not None and relation.ndim else len(head)
    wanted = (rows, head.shape[1]) + ((head.shape[1],) if factors.family == "matrix" else ())
    if tuple(relation.shape) != wanted:
        raise ValueError(f"relation must have shape {wanted} in family={factors.family!r}, got {tuple(relation.shape)}")
    if factors.index is not None and factors.index.shape != head.shape[:1]:
        raise ValueError(f"index must have shape ({len(head)},), got {tuple(factors.index.shape)}")
    if head.dtype in (torch.float16, torch.bfloat16):
        return replace(factors, head=head.float(), relation=relation.float(), tail=tail.float())
    return factors


def check_batch(factors: KGFactors, triples: Tensor | None) -> None:
    """Raise `ValueError` unless the triples, if there are some, are as many as the factors."""
    if triples is not None and triples.shape != (len(factors.head), 3):
        raise ValueError(f"triples must have shape ({len(factors.head)}, 3), got {tuple(triples.shape)}")


def of_relations(name: str, setting: float | Tensor, triples: Tensor | None) -> float | Tensor:
    """A setting as each triple has it: the number itself, or of a tensor the row of the triple's relation.

    Raises:
        ValueError: if triples are needed and not given, or name a relation that the setting has no row for.
    """
    if not isinstance(setting, Tensor) or not setting.ndim:
        return setting
    if triples is None:
        raise ValueError(f"{name} has a row for every relation: triples must be given beside the factors")
    if (most := int(triples[:, 1].max())) >= len(setting):
        raise ValueError(
            f"{name} has {len(setting)} rows, but triples name relation {most}; with the reciprocal relations 2M rows "
            "are needed"
        )
    return setting[triples[:, 1]]


def check_rows(name: str, setting: float | Tensor | None, num_relations: int) -> None:
    """Raise `ValueError` if a setting of the regulariser has rows, and not one for each of 2M relations."""
    if isinstance(setting, Tensor) and setting.ndim and len(setting) != 2 * num_relations:
        raise ValueError(
            f"{name} of the regularizer has {len(setting)} rows, wanted {2 * num_relations}, one for each relation and "
            "each reciprocal one"
        )


def powers(values: Tensor, p: int = 2) -> Tensor:
    """|x|² or |x|³ of each real or complex number, with the gradient 0 at 0."""
    if values.is_complex():
        squares = torch.view_as_real(values.resolve_conj()).square().sum(-1)
        return squares if p == 2 else squares.pow(1.5)
    return values.square() if p == 2 else values.abs().pow(3)


def relation_powers(factors: KGFactors, p: int) -> Tensor:
    """(n,) the sum of the powers of each triple's relation."""
    found = powers(factors.relation, p).flatten(1).sum(1)
    return found if factors.index is None else found[factors.index]


def image(factors: KGFactors, vectors: Tensor, *, transposed: bool = False) -> Tensor:
    """(n, d) x R of each triple, or with the transposed relation: x Rᵀ, x times the conjugate of r.

    Matrices that come with an index are multiplied one by one with all rows that they act on.
    """
    if factors.family != "matrix":
        relation = factors.relation if factors.index is None else factors.relation[factors.index]
        return vectors * (relation.conj() if transposed else relation)
    matrices = factors.relation.mT if transposed else factors.relation
    if factors.index is None:
        return torch.bmm(vectors[:, None], matrices).squeeze(1)
    order = factors.index.argsort(stable=True)
    counts = factors.index.bincount(minlength=len(matrices)).tolist()
    groups = zip(vectors[order].split(counts), matrices, strict=True)
    found = torch.cat([rows @ matrix for rows, matrix in groups if len(rows)])
    return found[order.argsort()]
