"""Partial AUC one sample at a time: a minimax form of the square loss without pairs, without sorting.

With scores s in [0, 1] and the loss of a sample

    P(s) = (s − a)² − 2(1 + γ) s   for positives        N(s) = (s − b)² + 2(1 + γ) s   for negatives

the square risk of the kept pairs (`exact_partial_square_risk`) is, exactly,

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
                  ω has a small bias, ω = 0 none. That c² counts by its mean is reconstructed: the paper does not say
                  how ω weighs c against the number of samples.

The constant 1 is left out of G, as in the papers. G is concave in γ and in c, but not in both together, since c
multiplies γ (the second paper says it is): with ω = 0 and few samples simultaneous steps may circle, as measured on
twenty positives. A small ω ends that.

Shao et al., "Asymptotically Unbiased Instance-wise Regularized Partial AUC Optimization", NeurIPS 2022 (PAUCI);
"Closing the Approximation Gap of Partial AUC Optimization: A Tale of Two Formulations", TPAMI 2025 (UPAUCI).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.selection import hardest, smoothed_relu
from equipoise.core.pairs.loss import split_classes
from equipoise.core.pairs.sides import as_probabilities, binary_sides
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Fraction, NonNegative, Positive, ProperFraction, Scalar, Scores

Relaxation: TypeAlias = Literal["softplus", "auxiliary"]


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


@checked
def instancewise_partial_auc_objective(
    scores: Scores,
    target: BinaryTarget,
    inner: InnerVariables,
    *,
    max_fpr: Fraction,
    min_tpr: ProperFraction = 0.0,
    relaxation: Relaxation = "softplus",
    kappa: Positive = 8.0,
    omega: NonNegative = 0.0,
    weight: Scores | None = None,
    from_logits: bool = True,
) -> Scalar:
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
        ValueError: if a class of which a share counts has no threshold, or `weight` is given to the softplus.

    >>> inner = InnerVariables(a=0.9, b=0.2, gamma=-0.7, s_neg=0.1)
    >>> scores, target = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([1, 0, 0])
    >>> instancewise_partial_auc_objective(
    ...     scores, target, inner, max_fpr=0.5, relaxation="auxiliary", from_logits=False
    ... )
    tensor(-0.9100)
    """
    for name, threshold, bound, whole in (
        ("s_pos", inner.s_pos, f"min_tpr={min_tpr:g}", min_tpr == 0),
        ("s_neg", inner.s_neg, f"max_fpr={max_fpr:g}", max_fpr == 1),
    ):
        if threshold is None and not whole:
            raise ValueError(f"{bound} selects by a threshold, but inner.{name} is None; give it")
    if weight is not None and relaxation != "auxiliary":
        raise ValueError(f"weight belongs to relaxation='auxiliary', got relaxation={relaxation!r}")
    probability = as_probabilities(scores, from_logits)
    sides = binary_sides(probability, target, objective="the instance-wise partial AUC loss")
    if not sides.rankable:
        return attached_zero(scores)
    pos_loss, neg_loss = instance_losses(sides.pos, sides.neg, inner)
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
@checked
def inner_solution(
    scores: Scores,
    target: BinaryTarget,
    *,
    max_fpr: Fraction,
    min_tpr: ProperFraction = 0.0,
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
        ValueError: if a class is absent.

    >>> scores, target = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([1, 0, 0])
    >>> inner, weight = inner_solution(scores, target, max_fpr=0.75, from_logits=False)
    >>> weight
    tensor([1.0000, 1.0000, 0.5000])
    """
    wide = as_probabilities(scores, from_logits).double()
    counts = [int((target == label).sum()) for label in (1, 0)]
    if not all(counts):
        raise ValueError(f"there are {counts[0]} positives and {counts[1]} negatives; both are needed")
    weight, means, boundary = torch.zeros_like(wide), [], []
    for label, share in ((1, 1 - min_tpr), (0, max_fpr)):
        members = (target == label).nonzero().squeeze(1)
        index, kept = hardest(wide[members], share, largest=label == 0)
        chosen = members[index]
        weight[chosen] = kept
        means.append((wide[chosen] * kept).sum() / kept.sum())
        # The last of the kept is the boundary sample, whose loss is the threshold.
        boundary.append(wide[chosen[-1:]])
    (a, b), (last_pos, last_neg) = means, boundary
    inner, zero = InnerVariables(a, b, b - a), torch.zeros_like(a)
    pos_loss, neg_loss = instance_losses(last_pos, last_neg, inner)
    return (
        inner._replace(
            s_pos=pos_loss[0] if min_tpr > 0 else None,
            s_neg=neg_loss[0] if max_fpr < 1 else None,
            theta_a=zero if min_tpr > 0 else None,
            theta_b=zero,
        ),
        weight.to(scores.dtype),
    )
