r"""Norms of the factors of a triple.

    F2   ‖h‖₂² + ‖r‖₂² + ‖t‖₂²
    N3   Σ|h|³ + Σ|r|³ + Σ|t|³                moduli of complex numbers

N3: Lacroix et al., "Canonical Tensor Decomposition for Knowledge Base Completion", ICML 2018, as both appear in Cao et
al., "ER: Equivariance Regularizer for Knowledge Graph Completion", AAAI 2022.
"""

from __future__ import annotations

from torch import Tensor

from equipoise.knowledge.models.base import KGFactors
from equipoise.knowledge.regularization.base import KGRegularizer, powers, relation_powers


class F2Regularizer(KGRegularizer):
    """The squared 2-norms of head, relation and tail; of a matrix, the squared Frobenius norm.

    Args:
        weight: λ, or (2M,) one for every relation.

    Raises:
        ValueError: if a weight is negative.

    >>> from equipoise.knowledge.models.base import KGFactors
    >>> ones = torch.ones(4, 2)
    >>> F2Regularizer(0.5)(KGFactors(ones, ones, ones, "real"))
    tensor(3.)
    """

    def terms(self, factors: KGFactors, triples: Tensor | None) -> Tensor:
        """The term of each triple, (n,), without its weight."""
        return norm_terms(factors, 2)


class N3Regularizer(KGRegularizer):
    """The cubed absolute values of head, relation and tail, of complex numbers their moduli.

    Args:
        weight: λ, or (2M,) one for every relation.

    Raises:
        ValueError: if a weight is negative.

    >>> from equipoise.knowledge.models.base import KGFactors
    >>> ones = torch.ones(4, 2)
    >>> N3Regularizer(0.5)(KGFactors(2 * ones, ones, ones, "real"))
    tensor(10.)
    """

    def terms(self, factors: KGFactors, triples: Tensor | None) -> Tensor:
        """The term of each triple, (n,), without its weight."""
        return norm_terms(factors, 3)


def norm_terms(factors: KGFactors, p: int) -> Tensor:
    """(n,) Σ|h|ᵖ + Σ|r|ᵖ + Σ|t|ᵖ."""
    return powers(factors.head, p).sum(1) + relation_powers(factors, p) + powers(factors.tail, p).sum(1)
