"""A mixture whose router does not show which expert does what, and how much it shows.

    w = softmax(router logits)        e = Σ_m w_m e_m
    L = mean (e − target)² + λ Σ_m mean_b (w_{b,m} − 1/K)²
    H_b = −Σ_m w_{b,m} log w_{b,m}    of a sample, in nats; or the same of the mean weights of a group

Weights near 1/K hide the experts, at some cost in error; log K is the highest entropy. As in the authors' code, which
fixes λ = 1, of "Heterogeneous Image-to-Image Backdoor Attack through Mixture of Schroedinger Bridges", ICML 2025.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.models.experts import mix_experts
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Scalar


class ReallocationTerms(NamedTuple):
    """A mixture and its loss.

    Attributes:
        loss: error + λ spread.
        error: mean squared error of the mixture.
        spread: Σ_m mean_b (w − 1/K)².
        mixture: (n, ...).
        weights: (n, K), rows sum to 1.
        mean_weight: (K,).
    """

    loss: Tensor
    error: Tensor
    spread: Tensor
    mixture: Tensor
    weights: Tensor
    mean_weight: Tensor


@checked
def weight_reallocation_terms(
    expert_outputs: Float[Tensor, "k n *shape"],
    router_logits: Float[Tensor, "n k"],
    target: Float[Tensor, " n *shape"],
    *,
    weight: NonNegative = 1.0,
) -> ReallocationTerms:
    """The mixture, its squared error, and how far its weights are from equal.

    Args:
        expert_outputs: (K, n, ...).
        router_logits: (n, K).
        target: (n, ...).
        weight: λ, at least 0.

    Raises:
        ValueError: if shapes do not match.

    >>> terms = weight_reallocation_terms(torch.ones(2, 1, 3), torch.zeros(1, 2), torch.zeros(1, 3))
    >>> float(terms.error), float(terms.spread)
    (1.0, 0.0)
    """
    weights = router_logits.softmax(1)
    mixture = mix_experts(list(expert_outputs), weights)
    error = (mixture - target).square().mean()
    spread = (weights - 1 / weights.shape[1]).square().mean(0).sum()
    return ReallocationTerms(error + weight * spread, error, spread, mixture, weights, weights.mean(0))


@checked
def weight_reallocation_loss(
    expert_outputs: Float[Tensor, "k n *shape"],
    router_logits: Float[Tensor, "n k"],
    target: Float[Tensor, " n *shape"],
    *,
    weight: NonNegative = 1.0,
) -> Scalar:
    """The squared error of a mixture, and a price on weights that differ; arguments as `weight_reallocation_terms`.

    >>> weight_reallocation_loss(torch.ones(2, 1, 3), torch.tensor([[50.0, 0.0]]), torch.ones(1, 3))
    tensor(0.5000)
    """
    return weight_reallocation_terms(expert_outputs, router_logits, target, weight=weight).loss


class WeightReallocationLoss(nn.Module):
    """`weight_reallocation_loss` with its setting.

    Args:
        weight: λ, at least 0; the authors have 1.

    >>> WeightReallocationLoss()(torch.ones(2, 1, 3), torch.zeros(1, 2), torch.zeros(1, 3))
    tensor(1.)
    """

    @checked
    def __init__(self, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self,
        expert_outputs: Float[Tensor, "k n *shape"],
        router_logits: Float[Tensor, "n k"],
        target: Float[Tensor, " n *shape"],
    ) -> Scalar:
        """The loss; arguments and errors as `weight_reallocation_terms`."""
        return weight_reallocation_loss(expert_outputs, router_logits, target, weight=self.weight)

    def extra_repr(self) -> str:
        """The setting."""
        return f"weight={self.weight}"


@checked
def router_entropy(weights: Float[Tensor, "n k"], mean_first: bool = False) -> Float[Tensor, "*n"]:
    """Entropy of router weights in nats: 0 where one expert decides alone, log K where all weigh alike.

    Args:
        weights: (n, K), rows of probabilities.
        mean_first: the entropy of the mean weights, for instance of all samples of a task, instead of each sample's.

    Returns:
        (n,), or () of the mean weights.

    Raises:
        ValueError: if a weight is negative or a row does not sum to 1.

    >>> one_or_the_other = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> router_entropy(one_or_the_other), router_entropy(one_or_the_other, mean_first=True)
    (tensor([0., 0.]), tensor(0.6931))
    """
    check_weights(weights)
    return torch.special.entr(weights.mean(0) if mean_first else weights).sum(-1)


def check_weights(weights: Tensor) -> None:
    """Raise `ValueError` unless every row has no negative entry and sums to 1, to within 10⁻⁴."""
    if torch.compiler.is_compiling():
        return
    held = weights.detach()
    if bool((held < 0).any()):
        raise ValueError(f"weights must not be negative, got {float(held.min()):g}; pass softmax(logits), not logits")
    gap = (held.double().sum(1) - 1).abs()
    # A hair more than 10⁻⁴, for weights that were rounded to four digits.
    if bool((gap > 1.01e-4).any()):
        row = int(gap.argmax())
        raise ValueError(f"weights must sum to 1 in every row, but row {row} sums to {float(held[row].sum()):g}")
