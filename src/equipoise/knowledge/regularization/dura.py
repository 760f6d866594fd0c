r"""DURA: what a relation makes of its head is bounded, and so is what it makes of its tail.

    ‖h‖² + ‖t‖² + ‖h r‖² + ‖t r̄‖²              elementwise, r̄ the conjugate
    ‖h‖² + ‖t‖² + ‖h R‖² + ‖t Rᵀ‖²            of matrices

Zhang et al., "Duality-Induced Regularizer for Tensor Factorization Based Knowledge Graph Completion", NeurIPS 2020, as
it appears in Cao et al., "ER: Equivariance Regularizer for Knowledge Graph Completion", AAAI 2022.
"""

from __future__ import annotations

from torch import Tensor

from equipoise.knowledge.models.base import KGFactors
from equipoise.knowledge.regularization.base import KGRegularizer, image, powers


class DURARegularizer(KGRegularizer):
    """The squared norms of head and tail, and of what the relation makes of each.

    Args:
        weight: λ, or (2M,) one for every relation.

    Raises:
        ValueError: if a weight is negative.

    >>> from equipoise.knowledge.models.base import KGFactors
    >>> ones = torch.ones(4, 2)
    >>> DURARegularizer(0.5)(KGFactors(ones, 2 * ones, ones, "real"))
    tensor(10.)
    """

    def terms(self, factors: KGFactors, triples: Tensor | None) -> Tensor:
        """The term of each triple, (n,), without its weight."""
        return dura_terms(factors)


def dura_terms(factors: KGFactors) -> Tensor:
    """(n,) ‖h‖² + ‖t‖² + ‖h R‖² + ‖t Rᵀ‖²."""
    own = powers(factors.head) + powers(factors.tail)
    return (own + powers(image(factors, factors.head)) + powers(image(factors, factors.tail, transposed=True))).sum(1)
