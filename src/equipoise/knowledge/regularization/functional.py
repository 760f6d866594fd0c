"""Every regulariser as one function of tensors."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive, Scalar
from equipoise.knowledge.models.base import Family, KGFactors
from equipoise.knowledge.regularization.base import checked_factors
from equipoise.knowledge.regularization.dura import dura_terms
from equipoise.knowledge.regularization.equivariance import (
    Power,
    TailMap,
    Threshold,
    equivariance_terms,
    near_gate,
)
from equipoise.knowledge.regularization.norms import norm_terms

Kind: TypeAlias = Literal["f2", "n3", "dura", "er"]


@checked
def kg_regularizer(
    kind: Kind,
    family: Family,
    head: Float[Tensor, "n ..."] | Complex[Tensor, "n ..."],
    relation: Float[Tensor, "n ..."] | Complex[Tensor, "n ..."],
    tail: Float[Tensor, "n ..."] | Complex[Tensor, "n ..."],
    *,
    weight: NonNegative = 1.0,
    base: NonNegative = 1.0,
    scale: NonNegative = 1.0,
    a: NonNegative = 1.0,
    b: NonNegative = 1.0,
    eps: Threshold | None = None,
    soft: bool = False,
    tau: Positive = 0.1,
    p: Power = 2,
    tail_map: TailMap = "same",
) -> Scalar:
    """A regulariser of the factors of a batch, the mean over its triples.

    Args:
        kind: "f2", "n3", "dura" or "er", see `F2Regularizer`, `N3Regularizer`, `DURARegularizer`,
            `EquivarianceRegularizer`.
        family: "real", "complex" or "matrix".
        head: (n, d), complex or, in family "complex", (n, d, 2) of real and imaginary parts.
        relation: the same; in family "matrix" (n, d, d).
        tail: as `head`.
        weight: λ.
        base: ρ; this and what follows count for "er" only.
        scale: σ.
        a: weight of dissimilarity.
        b: weight of proximity.
        eps: ε of the gate; None for no gate.
        soft: whether the gate is soft.
        tau: width of the soft gate.
        p: 2 or 3.
        tail_map: "same" or "transpose", `tail` of `EquivarianceRegularizer`.

    Raises:
        TypeError: if complex tensors are given for another family.
        ValueError: on a bad argument, by name; if shapes do not fit the family; if the gate is soft without `eps`.

    >>> one, i = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    >>> kg_regularizer("er", "complex", one, one, i, base=0.0, a=0.0)
    tensor(2.)
    """
    if family == "complex":
        head, relation, tail = _numbers("head", head), _numbers("relation", relation), _numbers("tail", tail)
    factors = checked_factors(KGFactors(head, relation, tail, family))
    if kind in ("f2", "n3"):
        return weight * norm_terms(factors, 2 if kind == "f2" else 3).mean()
    if kind == "dura":
        return weight * dura_terms(factors).mean()
    if soft and eps is None:
        raise ValueError("soft=True needs eps, the middle of the gate")
    gate = None if eps is None else near_gate(factors, eps, tau if soft else None)
    terms = equivariance_terms(factors, gate, base=base, scale=scale, a=a, b=b, p=p, tail=tail_map)
    return weight * terms.mean()


def _numbers(name: str, pairs: Tensor) -> Tensor:
    """Complex numbers of real pairs."""
    if pairs.is_complex():
        return pairs
    if pairs.ndim != 3 or pairs.shape[2] != 2:
        raise ValueError(f"{name} of family='complex' must have shape (n, d, 2), got {tuple(pairs.shape)}")
    return torch.view_as_complex(pairs.contiguous())
