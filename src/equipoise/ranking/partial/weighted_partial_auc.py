"""Partial AUC by smooth weights: a sample counts the more, the harder it is, and nothing is cut off.

    L = 1/(n₊ n₋)  Σ_i Σ_j  ψ(1 − s_i) ψ(s_j) ℓ(s_i − s_j)        s = sigmoid(logit) ∈ [0, 1]

The hard selection of a partial AUC picks weights v ∈ {0, 1}. Letting the inner problem choose v ∈ [0, 1] by maximising
v u − φ(v), with u = 1 − s_i or s_j the hardness, gives v = ψ(u) = (φ')⁻¹(u):

    poly    φ(v) = v^r / r, r > 2                          ψ(u) = (u + ε)^γ, γ = 1/(r − 1)
    exp     φ(v) = ((1 − v) log(1 − v) + v) / γ            ψ(u) = 1 − exp(−γ u)

A concave ψ (γ < 1 for poly, any γ for exp) makes L an upper bound of the truncated risk far more often than a convex
one.

Gradient through the weights, as published, lets L fall by moving *all* scores to where ψ vanishes (all 0, or all 1),
and strong weightings drift there. Treating the weights as constants in the backward pass (`detach_weights`, the default
here) and dividing them by their mean (`normalize_weights`) removes that.

The weights factorise, so that L is an exact weighted pairwise loss (`core.pairs.loss`) times the mean weights: O(n) for
the square and O(n log n) for the hinges, where the authors build the n₊ × n₋ matrix. The warm-up of the authors, the
unweighted loss for the first epochs, follows `core.phases`.

Yang et al., "When All We Need is a Piece of the Pie", ICML 2021; "Optimizing Two-way Partial AUC with an End-to-end
Framework", TPAMI 2022, arXiv 2206.11655. The formulas follow the authors' code and slides.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.pairs.sides import as_probabilities, binary_sides
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate
from equipoise.core.phases import Phased
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import (
    BinaryTarget,
    MayBeEmpty,
    NonNegative,
    Positive,
    Range,
    SampleWeight,
    Scalar,
    Scores,
    Whole,
)
from equipoise.ranking.pairwise_auc import pairwise_auc_loss

Scheme: TypeAlias = Literal["poly", "exp"]
Region: TypeAlias = Literal["two_way", "one_way"]


@checked
def calibrated_weight(
    hardness: Annotated[Float[Tensor, "*shape"], MayBeEmpty()],
    scheme: Scheme = "poly",
    gamma: Positive = 0.1,
    *,
    eps: NonNegative = 1e-6,
) -> Float[Tensor, "*shape"]:
    """The weight ψ(u) of a sample of hardness u.

    Args:
        hardness: u, clamped to [0, 1]: 1 − s for positives, s for negatives.
        scheme: "poly" or "exp".
        gamma: shape γ > 0; for "poly" the exponent 1/(r − 1).
        eps: added to u under "poly", whose slope at 0 is infinite for γ < 1.

    >>> calibrated_weight(torch.tensor([0.0, 1.0]), "exp", gamma=8.0)
    tensor([0.0000, 0.9997])
    """
    u = hardness.clamp(0, 1)
    return (u + eps) ** gamma if scheme == "poly" else -torch.expm1(-gamma * u)


@checked
def calibrated_penalty(
    weight: Annotated[Float[Tensor, "*shape"], Range(0, 1)], scheme: Scheme = "poly", gamma: Positive = 0.1
) -> Float[Tensor, "*shape"]:
    """The penalty φ(v) that the weighting of the same scheme and γ comes from: ψ(u) = argmax_v { v u − φ(v) }.

    Args:
        weight: v in [0, 1].
        scheme: "poly" or "exp".
        gamma: γ > 0; for "poly" r = 1 + 1/γ.

    >>> calibrated_penalty(torch.tensor([0.0, 1.0]), "exp", gamma=2.0)
    tensor([0.0000, 0.5000])
    """
    if scheme == "poly":
        r = 1 + 1 / gamma
        return weight**r / r
    return (torch.xlogy(1 - weight, 1 - weight) + weight) / gamma


@checked
def weighted_partial_auc_loss(
    scores: Scores,
    target: BinaryTarget,
    *,
    scheme: Scheme = "poly",
    gamma: Positive = 0.1,
    region: Region = "two_way",
    surrogate: SurrogateLike = "square",
    margin: NonNegative = 1.0,
    detach_weights: bool = True,
    normalize_weights: bool = False,
    from_logits: bool = True,
    eps: NonNegative = 1e-6,
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """All-pairs loss in which hard samples weigh more.

    Args:
        scores: (n,) logits, or probabilities with `from_logits=False`.
        target: (n,) in {0, 1}.
        scheme: "poly" or "exp"; see `calibrated_weight`.
        gamma: shape γ of the weighting. It has nothing to do with the margin (XCurve's code uses one for both).
        region: "two_way" weighs both classes; "one_way" (the papers' OP) only the negatives.
        surrogate: loss of a pair as a function of the difference of *probabilities*.
        margin: margin or rate of the surrogate.
        detach_weights: no gradient through the weights; False is the loss as published.
        normalize_weights: divide the weights by their mean.
        from_logits: apply the sigmoid.
        eps: as in `calibrated_weight`.
        sample_weight: (n,) non-negative, how often each sample counts; it multiplies the weight of its hardness.

    Returns:
        The loss; zero, still attached to the graph, when one class is absent (warned once).

    Raises:
        ValueError: on probabilities outside [0, 1].

    >>> weighted_partial_auc_loss(torch.tensor([3.0, -3.0]), torch.tensor([1, 0]), region="one_way")
    tensor(0.0066)
    """
    probability = as_probabilities(scores, from_logits)
    sides = binary_sides(probability, target, sample_weight, objective="the weighted partial AUC loss")
    if not sides.rankable:
        return attached_zero(scores)
    pos, neg = sides.pos, sides.neg
    hard_neg = neg.detach() if detach_weights else neg
    neg_weight = calibrated_weight(hard_neg, scheme, gamma, eps=eps)
    pos_weight = None
    if region == "two_way":
        hard_pos = pos.detach() if detach_weights else pos
        pos_weight = calibrated_weight(1 - hard_pos, scheme, gamma, eps=eps)
    hardness = ((pos_weight, sides.pos_weight), (neg_weight, sides.neg_weight))
    mean = pairwise_loss(pos, neg, surrogate, margin, *(_product(*each) for each in hardness))
    if normalize_weights:
        return mean
    for each in hardness:
        mean = mean * _mean(*each)
    return mean


def _product(hardness: Tensor | None, count: Tensor | None) -> Tensor | None:
    if hardness is None or count is None:
        return count if hardness is None else hardness
    return hardness * count


def _mean(hardness: Tensor | None, count: Tensor | None) -> Tensor | float:
    """The mean weight of a side whose samples count so often; 1 where hardness does not weigh."""
    if hardness is None:
        return 1.0
    if count is None:
        return hardness.mean()
    # Without any weight there is no pair, whose mean is 0 already.
    return (hardness * count).sum() / count.sum().clamp_min(torch.finfo(count.dtype).tiny)


class WeightedPartialAUCLoss(Phased):
    """`weighted_partial_auc_loss` as a module, with the authors' warm-up on the unweighted loss.

    Args:
        scheme: as in `weighted_partial_auc_loss`.
        gamma: as in `weighted_partial_auc_loss`.
        region: as in `weighted_partial_auc_loss`.
        surrogate: as in `weighted_partial_auc_loss`.
        margin: as in `weighted_partial_auc_loss`.
        detach_weights: as in `weighted_partial_auc_loss`.
        normalize_weights: as in `weighted_partial_auc_loss`.
        from_logits: as in `weighted_partial_auc_loss`.
        eps: as in `weighted_partial_auc_loss`.
        warmup_epochs: how many epochs, from the first, all weights are 1; the paper's E_k. Tell the loss the epoch by
            `set_epoch`.
        gather: rank the pairs of all processes of torch.distributed; see `core.distributed`.

    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) < 40
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), WeightedPartialAUCLoss("exp", gamma=8.0, warmup_epochs=10)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x).squeeze(1), y).item()
    >>> for epoch in range(50):
    ...     loss.set_epoch(epoch)
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> loss(model(x).squeeze(1), y).item() < start
    True
    """

    @checked
    def __init__(
        self,
        scheme: Scheme = "poly",
        gamma: Positive = 0.1,
        region: Region = "two_way",
        surrogate: SurrogateLike = "square",
        margin: NonNegative = 1.0,
        detach_weights: bool = True,
        normalize_weights: bool = False,
        from_logits: bool = True,
        eps: NonNegative = 1e-6,
        warmup_epochs: Whole = 0,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        resolve_surrogate(surrogate, margin)
        self.scheme, self.gamma, self.region = scheme, gamma, region
        self.surrogate, self.margin, self.eps = surrogate, margin, eps
        self.detach_weights, self.normalize_weights = detach_weights, normalize_weights
        self.from_logits, self.warmup_epochs, self.gather = from_logits, warmup_epochs, gather

    def forward(self, scores: Scores, target: BinaryTarget, sample_weight: SampleWeight | None = None) -> Scalar:
        """The loss of scores (n,) by targets (n,), samples counting as often as the weights (n,) say.

        Hardness does not weigh while the epoch is below `warmup_epochs`.
        """
        if self.gather:
            scores, target, sample_weight = gather_batch(scores, target, sample_weight)
        return self._loss(scores, target, sample_weight)

    @checked
    def _loss(self, scores: Scores, target: BinaryTarget, sample_weight: SampleWeight | None) -> Scalar:
        if self.epoch < self.warmup_epochs:
            probability = as_probabilities(scores, self.from_logits)
            return pairwise_auc_loss(
                probability, target, surrogate=self.surrogate, margin=self.margin, sample_weight=sample_weight
            )
        return weighted_partial_auc_loss(
            scores,
            target,
            scheme=self.scheme,
            gamma=self.gamma,
            region=self.region,
            surrogate=self.surrogate,
            margin=self.margin,
            detach_weights=self.detach_weights,
            normalize_weights=self.normalize_weights,
            from_logits=self.from_logits,
            eps=self.eps,
            sample_weight=sample_weight,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"scheme={self.scheme}, gamma={self.gamma}, region={self.region}, warmup_epochs={self.warmup_epochs}"
