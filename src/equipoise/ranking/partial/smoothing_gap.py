"""How far the instance-wise objectives are from the partial risk that they stand for.

At the exact a*, b*, γ* of some scores, the thresholds are minimised once more with the smoothed hinge. What the value
then differs by from the exact risk is the approximation gap:

    "softplus"     0 ≤ gap ≤ log 2 / κ · (1/β + 1/α)              (without 1/α where α = 1)
    "auxiliary"    −ω (γ*² + β + α) ≤ gap ≤ 0                     (likewise); none at ω = 0

The first bound is the papers'. The second is ours: the minimum over the threshold is at least the value with the exact
weights c*, which does not depend on the threshold and falls short of the exact mean by ω mean c*² ≤ ω β.

The gap is a bias: it does not shrink with more samples, where the error of sampling does. `smoothing_gap_table` puts
the two side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from equipoise.core.curves.selection import average_top_fraction, smoothed_relu
from equipoise.core.pairs.loss import split_classes
from equipoise.core.pairs.sides import as_probabilities
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Count, Fraction, NonNegative, Positive, ProperFraction, Range, Scores
from equipoise.ranking.partial.instancewise_objective import Relaxation, inner_solution, instance_losses
from equipoise.ranking.partial.instancewise_partial_auc import best_weight
from equipoise.ranking.partial.partial_auc import exact_partial_square_risk

SampleSize: TypeAlias = Annotated[int, Range(2)]

# Halvings of the interval that holds the best threshold; float64 has no more digits.
_HALVINGS = 80


class SmoothingGap(NamedTuple):
    """A smoothed value beside the exact one; both are risks, with the constant 1 that the objective leaves out.

    Attributes:
        smoothed_value: the least value over the thresholds.
        exact_value: the exact partial square risk.
        gap: smoothed − exact.
        lower_bound: of the gap.
        upper_bound: of the gap.
    """

    smoothed_value: float
    exact_value: float
    gap: float
    lower_bound: float
    upper_bound: float


@torch.no_grad()
@checked
def smoothing_gap(
    scores: Scores,
    target: BinaryTarget,
    *,
    max_fpr: Fraction,
    min_tpr: ProperFraction = 0.0,
    relaxation: Relaxation = "softplus",
    kappa: Positive = 8.0,
    omega: NonNegative = 0.0,
    from_logits: bool = True,
) -> SmoothingGap:
    """The gap of one objective on some scores.

    Args:
        scores: (n,) logits, or probabilities with `from_logits=False`.
        target: (n,) in {0, 1}.
        max_fpr: as in `instancewise_partial_auc_objective`.
        min_tpr: as in `instancewise_partial_auc_objective`.
        relaxation: "softplus" or "auxiliary".
        kappa: of the softplus.
        omega: of the auxiliary weights; not looked at for the softplus, whose γ* is exact here.
        from_logits: apply the sigmoid.

    Raises:
        ValueError: as `inner_solution`.

    >>> scores, target = torch.tensor([0.9, 0.4, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
    >>> gap = smoothing_gap(scores, target, max_fpr=0.5, kappa=8.0, from_logits=False)
    >>> gap.lower_bound <= gap.gap <= gap.upper_bound
    True
    """
    inner, _ = inner_solution(scores, target, max_fpr=max_fpr, min_tpr=min_tpr, from_logits=from_logits)
    probability = as_probabilities(scores, from_logits).double()
    losses = instance_losses(*split_classes(probability, target == 1), inner)
    gamma = float(inner.gamma)
    soft = relaxation == "softplus"
    value, bound = 1 - (1 if soft else 1 + omega) * gamma**2, 0.0 if soft else omega * gamma**2
    for loss, share in zip(losses, (1 - min_tpr, max_fpr), strict=True):
        if share == 1:
            value += float(loss.mean())
            continue
        value += _least(loss, share, kappa) if soft else _least_huber(loss, share, omega)
        bound += math.log(2) / (kappa * share) if soft else omega * share
    exact = float(
        exact_partial_square_risk(probability, target, max_fpr=max_fpr, min_tpr=min_tpr, from_logits=False).loss
    )
    return SmoothingGap(value, exact, value - exact, 0.0 if soft else -bound, bound if soft else 0.0)


def _least(x: Tensor, share: float, kappa: float) -> float:
    """min_t t + mean softplus(x − t) / share: where the mean sigmoid is the share."""
    logit = math.log(share / (1 - share)) / kappa
    t = _root(
        lambda t: float(torch.sigmoid(kappa * (x - t)).mean()) - share,
        float(x.min()) - logit,
        float(x.max()) - logit,
    )
    return t + float(smoothed_relu(x - t, "softplus", kappa).mean()) / share


def _least_huber(x: Tensor, share: float, omega: float) -> float:
    """min_t t + mean h(x − t) / share, μ = ω share: where the mean weight is the share."""
    if omega == 0:
        return float(average_top_fraction(x, share))
    mu = omega * share
    t = _root(lambda t: float(best_weight(x - t, mu).mean()) - share, float(x.min()) - 2 * mu, float(x.max()))
    return t + float(smoothed_relu(x - t, "huber", mu).mean()) / share


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


class GapRow(NamedTuple):
    """One line of `smoothing_gap_table`.

    Attributes:
        samples: n of the draws.
        relaxation: "softplus" or "auxiliary".
        strength: κ or ω.
        gap: mean over the draws.
        largest_gap: largest absolute value over the draws.
        bound: of the absolute value, mean over the draws.
        sampling_error: mean |exact risk of the draw − exact risk of all scores|, the same for every strength.
    """

    samples: int
    relaxation: str
    strength: float
    gap: float
    largest_gap: float
    bound: float
    sampling_error: float


@checked
def smoothing_gap_table(
    scores: Scores,
    target: BinaryTarget,
    *,
    max_fpr: Fraction,
    min_tpr: ProperFraction = 0.0,
    sizes: Sequence[SampleSize] = (100, 1_000, 10_000),
    kappas: Sequence[Positive] = (2.0, 8.0, 32.0, 128.0),
    omegas: Sequence[NonNegative] = (0.0, 0.05, 0.5),
    draws: Count = 20,
    seed: int = 0,
    from_logits: bool = True,
) -> list[GapRow]:
    """Gap against sample size and smoothing, both relaxations, beside the error that the sample itself has.

    Samples are drawn from the scores with replacement, each class keeping its share, at least one of each.

    Args:
        scores: (n,) of a validation set, or of a known distribution.
        target: (n,) in {0, 1}.
        max_fpr: as in `smoothing_gap`.
        min_tpr: as in `smoothing_gap`.
        sizes: how many samples a draw has.
        kappas: of the softplus.
        omegas: of the auxiliary weights.
        draws: of each size.
        seed: of the draws.
        from_logits: apply the sigmoid.

    Returns:
        Rows by size, then relaxation, then strength.

    Raises:
        ValueError: as `smoothing_gap`.

    >>> scores = torch.linspace(0.01, 0.99, 50)
    >>> rows = smoothing_gap_table(
    ...     scores, (scores > 0.4).long(), max_fpr=0.3, sizes=[50], kappas=[8.0], omegas=[0.0], from_logits=False
    ... )
    >>> [(row.relaxation, round(row.largest_gap, 9) > 0) for row in rows]
    [('softplus', True), ('auxiliary', False)]
    """
    region: dict[str, Any] = {"max_fpr": max_fpr, "min_tpr": min_tpr}
    probability = as_probabilities(scores, from_logits).double()
    whole = float(exact_partial_square_risk(probability, target, **region, from_logits=False).loss)
    pos, neg = split_classes(probability, target == 1)
    if not (pos.shape[0] and neg.shape[0]):
        raise ValueError(f"there are {pos.shape[0]} positives and {neg.shape[0]} negatives; both are needed")
    generator = torch.Generator().manual_seed(seed)
    settings: list[tuple[Relaxation, float]] = [("softplus", kappa) for kappa in kappas]
    settings += [("auxiliary", omega) for omega in omegas]
    rows = []
    for size in sizes:
        n_pos = min(size - 1, max(1, round(size * pos.shape[0] / probability.shape[0])))
        labels = (torch.arange(size) < n_pos).long()
        found: dict[tuple[Relaxation, float], list[SmoothingGap]] = {setting: [] for setting in settings}
        errors = []
        for _ in range(draws):
            drawn = [
                side[torch.randint(side.shape[0], (count,), generator=generator)]
                for side, count in ((pos, n_pos), (neg, size - n_pos))
            ]
            sample = torch.cat(drawn)
            exact = exact_partial_square_risk(sample, labels, **region, from_logits=False).loss
            errors.append(abs(float(exact) - whole))
            for relaxation, strength in settings:
                option = {"kappa" if relaxation == "softplus" else "omega": strength}
                found[relaxation, strength].append(
                    smoothing_gap(sample, labels, **region, relaxation=relaxation, from_logits=False, **option)
                )
        for (relaxation, strength), gaps in found.items():
            rows.append(
                GapRow(
                    size,
                    relaxation,
                    strength,
                    sum(g.gap for g in gaps) / draws,
                    max(abs(g.gap) for g in gaps),
                    sum(max(g.upper_bound, -g.lower_bound) for g in gaps) / draws,
                    sum(errors) / draws,
                )
            )
    return rows
