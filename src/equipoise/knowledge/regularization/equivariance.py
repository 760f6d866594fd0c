r"""Entities that are near should be near after a relation was applied to both, and those that are far should be far.

    ρ (‖h‖² + ‖t‖²) + σ ( A ‖h R + t R‖² + P ‖h R − t R‖² )

The last term draws the images of a near pair together, the one before drives those of a far pair to opposite sides:

    A = a · [far],  P = b · [near]               where a pair is near if ‖h − t‖ ≤ ε_r, or both are of one category
    A = a,  P = b                                without ε and categories

Ungated with a = b it is weighted DURA: by the parallelogram law the images add up to 2aσ (‖hR‖² + ‖tR‖²), and with
ρ = a = 1 and σ = ½ it is DURA. Public copies of the authors' code ship a = b = 1 without a threshold, in which setting
nothing of the idea is active; give ε, categories, or a ≠ b.

Of the same triple's head and tail, as in the experiments; the text has all pairs of entities (eq. 3). Complex factors
are multiplied as complex numbers; the copies take moduli, which forgets the phase between h and t. The variant over
paths of two relations (eq. 15) is left out, the authors do not recommend it.

Cao et al., "ER: Equivariance Regularizer for Knowledge Graph Completion", AAAI 2022, eq. 2, 3, 6 and 9. The soft gate
stands in for thresholds "learned automatically", of which the paper says no more: reconstructed.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, MayBeInfinite, NonNegative, Positive, Range
from equipoise.knowledge.models.base import KGEModel, KGFactors
from equipoise.knowledge.regularization.base import (
    KGRegularizer,
    Weight,
    check_batch,
    check_rows,
    checked_factors,
    image,
    of_relations,
    powers,
)

Power: TypeAlias = Literal[2, 3]
TailMap: TypeAlias = Literal["same", "transpose"]
Threshold: TypeAlias = Annotated[float, Range(0), MayBeInfinite()]


class EquivarianceRegularizer(KGRegularizer):
    """Near entities stay near under a relation, far ones far.

    With a = b and no gate it is weighted DURA.

    Args:
        weight: λ, or (2M,) one for every relation.
        base: ρ, of the norms of head and tail.
        scale: σ, of the images.
        a: weight of dissimilarity, on far pairs.
        b: weight of proximity, on near pairs.
        eps: ε, the largest distance of a near pair, or (2M,) one for every relation; 0 means equal. None for no gate.
        soft: learn ε, a parameter that begins at `eps`: a pair is near to the degree of sigmoid((ε − ‖h − t‖)/tau).
        tau: width of the soft gate.
        p: 2 for squared 2-norms, 3 for sums of cubed absolute values; the gate has the 2-norm either way.
        tail: "same" relation on head and tail, or the "transpose" on the tail, as copies of the code have it for
            matrices (of complex numbers, the conjugate).
        categories: (N,) the category of each entity, which then says who is near.

    Raises:
        ValueError: on a bad setting, by name; if there are both `eps` and `categories`; if the gate is soft without a
            finite `eps` to begin at.

    >>> from equipoise.knowledge.models.base import KGFactors
    >>> factors = KGFactors(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2), "real")
    >>> EquivarianceRegularizer(1.0, b=0.5, eps=2.0)(factors), EquivarianceRegularizer(1.0, b=0.5, eps=1.0)(factors)
    (tensor(3.), tensor(4.))
    """

    eps: float | Tensor | None
    categories: Tensor | None

    @checked
    def __init__(
        self,
        weight: Weight,
        base: NonNegative = 1.0,
        scale: NonNegative = 1.0,
        a: NonNegative = 1.0,
        b: NonNegative = 1.0,
        eps: Threshold | Float[Tensor, " relations"] | None = None,
        soft: bool = False,
        tau: Positive = 0.1,
        p: Power = 2,
        tail: TailMap = "same",
        categories: Integer[Tensor, " entities"] | None = None,
    ) -> None:
        super().__init__(weight)
        if eps is not None and categories is not None:
            raise ValueError("eps and categories both say which pairs are near; give one of them")
        if isinstance(eps, Tensor) and bool((eps < 0).any()):
            raise ValueError(f"eps must be at least 0, got {float(eps.min())}")
        if soft and (eps is None or not bool(torch.as_tensor(eps).isfinite().all())):
            raise ValueError(f"soft=True learns thresholds from eps on, which must be finite; got eps={eps}")
        self.base, self.scale, self.a, self.b = base, scale, a, b
        self.soft, self.tau, self.p, self.tail = soft, tau, p, tail
        if soft:
            self.eps = nn.Parameter(torch.as_tensor(eps, dtype=torch.get_default_dtype()).clone())
        elif isinstance(eps, Tensor):
            self.register_buffer("eps", eps)
        else:
            self.eps = eps
        self.register_buffer("categories", None if categories is None else categories.long())

    def terms(self, factors: KGFactors, triples: Tensor | None) -> Tensor:
        """The term of each triple, (n,), without its weight."""
        gate = self._gate(factors, triples, self.soft)
        return equivariance_terms(
            factors, gate, base=self.base, scale=self.scale, a=self.a, b=self.b, p=self.p, tail=self.tail
        )

    def check_sizes(self, num_entities: int, num_relations: int) -> None:
        """Raise `ValueError` unless settings of entities have N rows, and those of relations 2M."""
        super().check_sizes(num_entities, num_relations)
        check_rows("eps", self.eps, num_relations)
        if self.categories is not None and len(self.categories) != num_entities:
            raise ValueError(
                f"categories of the regularizer are those of {len(self.categories)} entities, wanted {num_entities}"
            )

    def near(self, factors: KGFactors, triples: Tensor | None = None) -> Tensor:
        """(n,) whether head and tail of each triple are near, also under a soft gate.

        Raises:
            ValueError: if there is no gate, or the factors are refused.
        """
        factors = checked_factors(factors)
        check_batch(factors, triples)
        gate = self._gate(factors, triples, False)
        if gate is None:
            raise ValueError("without eps and categories no pair is near or far")
        return gate

    @torch.no_grad()
    def near_share(
        self, model: KGEModel, triples: Integer[Tensor, "n 3"], batch_size: Count = 4096
    ) -> Float[Tensor, " relations"]:
        """The share of near pairs among the triples of each relation, to log beside the loss.

        A share of 0 or 1 says that the gate separates nothing.

        Args:
            model: gives the factors.
            triples: (n, 3).
            batch_size: triples at a time.

        Returns:
            (2M,), NaN of a relation without triples.
        """
        near, triples = [], triples.long()
        for batch in triples.split(batch_size):
            heads, relations, tails = batch.unbind(1)
            near.append(self.near(model.factors(model.rows(heads), relations, model.rows(tails)), batch))
        counts = torch.zeros(2, 2 * model.num_relations, dtype=torch.float64, device=triples.device)
        of_all = torch.cat(near).to(counts)
        counts[0].index_add_(0, triples[:, 1], of_all)
        counts[1].index_add_(0, triples[:, 1], torch.ones_like(of_all))
        return counts[0] / counts[1]

    def _gate(self, factors: KGFactors, triples: Tensor | None, soft: bool) -> Tensor | None:
        if self.categories is not None:
            if triples is None:
                raise ValueError("categories are of entities: triples must be given beside the factors")
            if (most := int(triples[:, [0, 2]].max())) >= len(self.categories):
                raise ValueError(
                    f"categories must have a row for every entity, got {len(self.categories)} rows and a triple of "
                    f"entity {most}"
                )
            heads, _, tails = triples.unbind(1)
            return self.categories[heads] == self.categories[tails]
        if self.eps is None:
            return None
        return near_gate(factors, of_relations("eps", self.eps, triples), self.tau if soft else None)


def near_gate(factors: KGFactors, eps: float | Tensor, tau: float | None = None) -> Tensor:
    """(n,) whether ‖h − t‖ ≤ ε; with `tau` the degree sigmoid((ε − ‖h − t‖)/τ), whose gradient is 0 in h where h = t.

    Args:
        factors: of the batch.
        eps: ε, or (n,) that of each triple.
        tau: width of the soft gate; None for the hard one, through which no gradient flows.
    """
    if tau is None:
        difference = (factors.head - factors.tail).detach()
        distance = torch.linalg.vector_norm(difference, dim=1)
        # Squares of what is tiny are 0, and 0 would pass for equal.
        equal = (difference == 0).all(1)
        return (distance <= eps) & (torch.as_tensor(eps, device=equal.device).gt(0) | equal)
    squares = powers(factors.head - factors.tail).sum(1)
    apart = squares > 0
    distance = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    return torch.sigmoid(((eps.to(distance) if isinstance(eps, Tensor) else eps) - distance) / tau)


def equivariance_terms(
    factors: KGFactors,
    gate: Tensor | None,
    *,
    base: float = 1.0,
    scale: float = 1.0,
    a: float = 1.0,
    b: float = 1.0,
    p: int = 2,
    tail: TailMap = "same",
) -> Tensor:
    """(n,) ρ (|h|ᵖ + |t|ᵖ) + σ (A |hR + tR|ᵖ + P |hR − tR|ᵖ), where P = b · gate and A = a · (1 − gate)."""
    first = image(factors, factors.head)
    second = image(factors, factors.tail, transposed=tail == "transpose")
    apart, together = powers(first + second, p).sum(1), powers(first - second, p).sum(1)
    near = None if gate is None else gate.to(apart.dtype)
    images = a * apart + b * together if near is None else a * (1 - near) * apart + b * near * together
    return base * (powers(factors.head, p) + powers(factors.tail, p)).sum(1) + scale * images
