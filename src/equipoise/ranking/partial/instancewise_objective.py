"""Partial AUC one sample at a time: a minimax form of the square loss without pairs, without sorting.

With scores s in [0, 1] and the loss of a sample

    P(s) = (s − a)² − 2(1 + γ) s   for positives        N(s) = (s − b)² + 2(1 + γ) s   for negatives

the square risk of the kept pairs (`exact_partial_square`) is, exactly,

    R = 1 + min over a, b   max over γ   mean P over the kept positives + mean N over the kept negatives − γ²

P falls and N rises with the score when γ ≥ max(−a, b − 1), so that to keep the hardest by score is to keep those with
the largest loss, and a mean of largest losses is a minimum over a threshold
(`core.curves.selection.average_top_fraction`):

    G = s⁺ + 1/α · mean h(P − s⁺) + s⁻ + 1/β · mean h(N − s⁻) − (1 + ω) γ² − θ_b (b − 1 − γ) + θ_a (a + γ)

with h the hinge, β = `max_fpr`, α = 1 − `min_tpr`, and multipliers θ ≥ 0 for the two bounds of γ. The one-way form has
the plain mean of P and no θ_a. The network, a, b, s⁺, s⁻ and θ descend, γ ascends. Two ways to treat the hinge:

    "softplus"    h(x) = log(1 + exp(κ x)) / κ: smooth, with a bias of at most log 2 / κ · (1/β + 1/α)
    "auxiliary"   h(x) = max over c in [0, 1] of c x: no bias. G loses ω mean c² for each class with a c, which makes
                  the maximum unique, c = clip((N − s⁻) / 2ωβ, 0, 1), and h a Huber-smoothed hinge with μ = ωβ. A small
                  ω has a small bias, ω = 0 none. How ω weighs c against the number of samples is not in the paper:
                  the mean is our reading [inferred].

The constant 1 is left out of G, as in the papers. G is concave in γ and in c, but not in both together, since c
multiplies γ (the second paper says it is): with ω = 0 and few samples simultaneous steps may circle, as measured on
twenty positives. A small ω ends that.

Shao et al., "Asymptotically Unbiased Instance-wise Regularized Partial AUC Optimization", NeurIPS 2022 (PAUCI);
"Closing the Approximation Gap of Partial AUC Optimization: A Tale of Two Formulations", TPAMI 2025 (UPAUCI).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.curves.selection import smoothed_relu
from equipoise.core.pairs.loss import split_classes
from equipoise.core.validate import (
    check_binary,
    check_choice,
    check_nonnegative,
    check_positive,
)
from equipoise.ranking.pairwise_auc import warn_of_one_class
from equipoise.ranking.partial.exact_partial_square import as_probability, check_region
from equipoise.ranking.partial.partial_auc import select_partial

BinaryTarget = Int[Tensor, " n"] | Bool[Tensor, " n"]

RELAXATIONS = ("softplus", "auxiliary")


class InnerVariables(NamedTuple):
    """Everything but the network that the objective is minimised or maximised over; scalars.

    Attributes:
        a: stands for the mean kept positive score, in [0, 1]; minimised.
        b: stands for the mean kept negative score, in [0, 1]; minimised.
        gamma: stands for b − a, in [−1, 1]; maximised.
        s_pos: threshold on P, in [−4, 1]; minimised. None where all positives count alike.
        s_neg: threshold on N, in [0, 5]; minimised. None where all negatives count alike.
        theta_a: multiplier of γ ≥ −a, at least 0; minimised. None where there is no such bound.
        theta_b: multiplier of γ ≥ b − 1, at least 0; minimised. None where there is no such bound.
    """

    a: Tensor | float
    b: Tensor | float
    gamma: Tensor | float
    s_pos: Tensor | float | None = None
    s_neg: Tensor | float | None = None
    theta_a: Tensor | float | None = None
    theta_b: Tensor | float | None = None


def instance_losses(
    pos: Float[Tensor, " n_pos"], neg: Float[Tensor, " n_neg"], inner: InnerVariables
) -> tuple[Float[Tensor, " n_pos"], Float[Tensor, " n_neg"]]:
    """P of the positives and N of the negatives, from scores in [0, 1].

    >>> instance_losses(torch.tensor([1.0]), torch.tensor([0.5]), InnerVariables(a=0.5, b=0.5, gamma=0.0))
    (tensor([-1.7500]), tensor([1.]))
    """
    slope = 2 * (1 + inner.gamma)
    return (pos - inner.a).square() - slope * pos, (neg - inner.b).square() + slope * neg


def instancewise_partial_auc_objective(
    scores: Float[Tensor, " n"],
    target: BinaryTarget,
    inner: InnerVariables,
    *,
    max_fpr: float,
    min_tpr: float = 0.0,
    relaxation: str = "softplus",
    kappa: float = 8.0,
    omega: float = 0.0,
    weight: Float[Tensor, " n"] | None = None,
    from_logits: bool = True,
) -> Float[Tensor, ""]:
    """The objective G of a batch, to be minimised over some of its variables and maximised over others.

    Args:
        scores: (n,) logits, or probabilities with `from_logits=False`.
        target: (n,) in {0, 1}.
        inner: where to evaluate it, see `InnerVariables`.
        max_fpr: share β of the negatives that counts, in (0, 1].
        min_tpr: 1 − share α of the positives that counts, in [0, 1).
        relaxation: "softplus" or "auxiliary", see the module.
        kappa: κ > 0 of the softplus.
        omega: ω ≥ 0, the concavity added to γ, and to c under "auxiliary".
        weight: (n,) the c of every sample under "auxiliary"; those that attain the maximum where not given.
        from_logits: apply the sigmoid.

    Returns:
        The value, 1 below the risk it stands for; zero, still attached to the graph, when a class is absent (warned
        once; the papers ask for batches with both).

    Raises:
        ValueError: on scores and targets as `pairwise_auc_loss`; if a setting is out of range, or `min_tpr` is above 0
            without a threshold for the positives.

    >>> inner = InnerVariables(a=0.9, b=0.2, gamma=-0.7, s_neg=0.1)
    >>> scores, target = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([1, 0, 0])
    >>> instancewise_partial_auc_objective(
    ...     scores, target, inner, max_fpr=0.5, relaxation="auxiliary", from_logits=False
    ... )
    tensor(-0.9100)
    """
    check_binary(scores, target)
    check_region(max_fpr, min_tpr)
    check_choice("relaxation", relaxation, RELAXATIONS)
    check_positive("kappa", kappa)
    check_nonnegative("omega", omega)
    for name, threshold, bound, whole in (
        ("s_pos", inner.s_pos, f"min_tpr={min_tpr:g}", min_tpr == 0),
        ("s_neg", inner.s_neg, f"max_fpr={max_fpr:g}", max_fpr == 1),
    ):
        if threshold is None and not whole:
            raise ValueError(f"{bound} selects by a threshold, but inner.{name} is None; give it")
    if weight is not None and (weight.shape != scores.shape or relaxation != "auxiliary"):
        raise ValueError(
            f"weight belongs to relaxation='auxiliary' and has the shape of the scores {tuple(scores.shape)}; got "
            f"{tuple(weight.shape)} with relaxation={relaxation!r}"
        )
    pos, neg = split_classes(as_probability(scores, from_logits), target == 1)
    warn_of_one_class(pos, neg, "the instance-wise partial AUC loss")
    if not (pos.shape[0] and neg.shape[0]):
        return scores.sum() * 0
    pos_loss, neg_loss = instance_losses(pos, neg, inner)
    pos_weight, neg_weight = (None, None) if weight is None else split_classes(weight, target == 1)

    def top_mean(loss: Tensor, threshold: Tensor | float | None, share: float, c: Tensor | None) -> Tensor:
        if threshold is None:
            return loss.mean()
        excess = loss - threshold
        if relaxation == "softplus":
            return threshold + smoothed_relu(excess, "softplus", kappa).mean() / share
        if c is None:
            return threshold + smoothed_relu(excess, "huber", omega * share).mean() / share
        return threshold + (c * excess).mean() / share - omega * c.square().mean()

    value = top_mean(pos_loss, inner.s_pos, 1 - min_tpr, pos_weight)
    value = value + top_mean(neg_loss, inner.s_neg, max_fpr, neg_weight) - (1 + omega) * inner.gamma**2
    if inner.theta_b is not None:
        value = value - inner.theta_b * (inner.b - 1 - inner.gamma)
    if inner.theta_a is not None:
        value = value + inner.theta_a * (inner.a + inner.gamma)
    return value


@torch.no_grad()
def inner_solution(
    scores: Float[Tensor, " n"],
    target: BinaryTarget,
    *,
    max_fpr: float,
    min_tpr: float = 0.0,
    from_logits: bool = True,
) -> tuple[InnerVariables, Float[Tensor, " n"]]:
    """The saddle point for fixed scores, in closed form: where G with the plain hinge is the exact risk less 1.

    Args:
        scores: as in `instancewise_partial_auc_objective`.
        target: as in `instancewise_partial_auc_objective`.
        max_fpr: as in `instancewise_partial_auc_objective`.
        min_tpr: as in `instancewise_partial_auc_objective`.
        from_logits: as in `instancewise_partial_auc_objective`.

    Returns:
        The variables in float64, with multipliers 0, and c of every sample: 1 where it is harder than the boundary
        sample of its class, the fraction there, 0 below; 1 for all of a class that counts as a whole.

    Raises:
        ValueError: as `instancewise_partial_auc_objective`, and where a class is absent.

    >>> scores, target = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([1, 0, 0])
    >>> inner, weight = inner_solution(scores, target, max_fpr=0.75, from_logits=False)
    >>> weight
    tensor([1.0000, 1.0000, 0.5000])
    """
    check_binary(scores, target)
    check_region(max_fpr, min_tpr)
    positive = target == 1
    pos, neg = split_classes(as_probability(scores, from_logits).double(), positive)
    if not (pos.shape[0] and neg.shape[0]):
        raise ValueError(f"there are {pos.shape[0]} positives and {neg.shape[0]} negatives; both are needed")
    chosen = select_partial(pos, neg, max_fpr, min_tpr)
    a = (pos[chosen.pos] * chosen.pos_weight).sum() / chosen.pos_weight.sum()
    b = (neg[chosen.neg] * chosen.neg_weight).sum() / chosen.neg_weight.sum()
    inner, zero = InnerVariables(a, b, b - a), torch.zeros_like(a)
    # The last of the kept is the boundary sample, whose loss is the threshold.
    pos_loss, neg_loss = instance_losses(pos[chosen.pos[-1:]], neg[chosen.neg[-1:]], inner)
    weight = scores.new_zeros(scores.shape[0], dtype=a.dtype)
    for mask, places, kept in ((positive, chosen.pos, chosen.pos_weight), (~positive, chosen.neg, chosen.neg_weight)):
        weight[mask.nonzero().squeeze(1)[places]] = kept
    return (
        inner._replace(
            s_pos=pos_loss[0] if min_tpr > 0 else None,
            s_neg=neg_loss[0] if max_fpr < 1 else None,
            theta_a=zero if min_tpr > 0 else None,
            theta_b=zero,
        ),
        weight.to(torch.promote_types(scores.dtype, torch.float32)),
    )
