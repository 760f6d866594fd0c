"""Thresholds for a wanted false-positive or true-positive rate, as estimated and as guaranteed.

A sample is called positive when its score lies strictly *above* the threshold. The plug-in threshold keeps the rate on
the sample at hand; on new data it overshoots about half of the time. The guaranteed threshold is the order statistic
for which

    P( FPR(threshold) > max_fpr ) ≤ 1 − confidence

over the draw of the n negatives: with the k-th highest negative as threshold the true FPR is at most a variable of
distribution Beta(k, n − k + 1), so k is the largest number with P(Binomial(n, max_fpr) < k) ≤ 1 − confidence. It holds
for any distribution, with ties too (then on the safe side), and needs n ≥ log(1 − confidence) / log(1 − max_fpr). For a
wanted TPR the same is done from below on the positives. Tong, Feng and Li, "Neyman-Pearson classification algorithms
and NP receiver operating characteristics", Science Advances 2018, call it the umbrella algorithm.

Rows of one patient, customer or device are not n independent draws. With `groups` one row per group is drawn, and the
promise is of the rate averaged over new groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equipoise.core.curves.intervals import Groups, incomplete_beta
from equipoise.core.signature import checked
from equipoise.core.types import Fraction, OpenFraction, Scores, Whole


@dataclass(frozen=True)
class Threshold:
    """Where to cut: a sample is positive when its score is greater than `value`.

    Attributes:
        value: infinite (upwards for a wanted FPR, downwards for a wanted TPR) where the sample is too small to promise
            the rate with any other cut.
        rate: the share of the given sample above `value`, of groups the share of the rows that were drawn.
        samples: how many scores were given, or groups.
        samples_needed: the least number for which a finite value can be promised; None where no number is enough.
    """

    value: float
    rate: float
    samples: int
    samples_needed: int | None

    @property
    def finite(self) -> bool:
        """Whether the sample was large enough to say where to cut."""
        return math.isfinite(self.value)


@checked
def threshold_at_fpr(negative_scores: Scores, max_fpr: Fraction) -> Threshold:
    """The lowest threshold with at most the share `max_fpr` of these negatives above it.

    Args:
        negative_scores: (n,) scores of negatives.
        max_fpr: false-positive rate in (0, 1].

    >>> threshold_at_fpr(torch.tensor([0.1, 0.2, 0.3, 0.9]), max_fpr=0.25).value
    0.30000001192092896
    """
    return _cut_above(negative_scores, math.floor(len(negative_scores) * max_fpr + 1e-9), samples_needed=1)


@checked
def threshold_at_tpr(positive_scores: Scores, min_tpr: Fraction) -> Threshold:
    """The highest threshold with at least the share `min_tpr` of these positives above it.

    Args:
        positive_scores: (n,) scores of positives.
        min_tpr: true-positive rate in (0, 1].

    >>> cut = threshold_at_tpr(torch.tensor([0.1, 0.7, 0.8, 0.9]), min_tpr=0.75)
    >>> cut.rate, 0.1 < cut.value < 0.7
    (0.75, True)
    """
    return _cut_below(positive_scores, math.floor(len(positive_scores) * (1 - min_tpr) + 1e-9), samples_needed=1)


@checked
def guaranteed_threshold(
    negative_scores: Scores,
    max_fpr: Fraction,
    confidence: OpenFraction = 0.95,
    *,
    groups: Groups | None = None,
    seed: Whole = 0,
) -> Threshold:
    """The lowest threshold whose false-positive rate on new data is at most `max_fpr` with this confidence.

    The negatives must not have been used to train the model, and new negatives must come from where these came from.

    Args:
        negative_scores: (n,) scores of held-out negatives.
        max_fpr: false-positive rate in (0, 1].
        confidence: probability over the draw of the negatives that the promise holds, in (0, 1).
        groups: (n,) whose rows belong together; `samples_needed` then counts groups.
        seed: of the row that is drawn per group.

    Returns:
        The threshold; `value` is infinite, so that nothing is called positive, when n < `samples_needed`.

    >>> guaranteed_threshold(torch.linspace(0, 1, 1001), max_fpr=0.05).rate < 0.05
    True
    >>> guaranteed_threshold(torch.linspace(0, 1, 50), max_fpr=0.05).samples_needed
    59
    """
    chosen = _one_per_group(negative_scores, groups, seed)
    if max_fpr == 1:
        return _cut_above(chosen, len(chosen), samples_needed=1)
    allowed = _order(len(chosen), max_fpr, confidence) - 1
    return _cut_above(chosen, allowed, samples_needed=_least_sample(max_fpr, confidence))


@checked
def guaranteed_threshold_at_tpr(
    positive_scores: Scores,
    min_tpr: Fraction,
    confidence: OpenFraction = 0.95,
    *,
    groups: Groups | None = None,
    seed: Whole = 0,
) -> Threshold:
    """The highest threshold whose true-positive rate on new data is at least `min_tpr` with this confidence.

    Args:
        positive_scores: (n,) scores of held-out positives.
        min_tpr: true-positive rate in (0, 1]; a rate of 1 cannot be promised from any sample.
        confidence: probability over the draw of the positives that the promise holds, in (0, 1).
        groups: (n,) whose rows belong together; `samples_needed` then counts groups.
        seed: of the row that is drawn per group.

    Returns:
        The threshold; `value` is minus infinity, so that everything is called positive, when n < `samples_needed`.

    >>> guaranteed_threshold_at_tpr(torch.linspace(0, 1, 1001), min_tpr=0.9).rate > 0.9
    True
    """
    chosen, missed = _one_per_group(positive_scores, groups, seed), 1 - min_tpr
    if missed == 0:
        return _cut_below(chosen, -1, samples_needed=None)
    allowed = _order(len(chosen), missed, confidence) - 1
    return _cut_below(chosen, allowed, samples_needed=_least_sample(missed, confidence))


def _one_per_group(scores: Tensor, groups: Tensor | None, seed: int) -> Tensor:
    if groups is None:
        return scores
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
    _, first = np.unique(groups.detach().cpu()[order].numpy(), return_index=True)
    return scores[order[torch.from_numpy(first)].to(scores.device)]


def _order(n: int, rate: float, confidence: float) -> int:
    """The largest k ≤ n with P(Binomial(n, rate) ≤ k − 1) ≤ 1 − confidence; 0 if there is none."""
    allowed = (1 - confidence) * (1 + 1e-12)  # so that rounding does not refuse an equality
    low, high = 0, n
    while low < high:
        k = (low + high + 1) // 2
        if incomplete_beta(n - k + 1, k, 1 - rate) <= allowed:  # P(Binomial(n, rate) ≤ k − 1)
            low = k
        else:
            high = k - 1
    return low


def _least_sample(rate: float, confidence: float) -> int:
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate) - 1e-9)


def _cut_above(scores: Tensor, allowed: int, samples_needed: int | None) -> Threshold:
    """The lowest value with at most `allowed` scores above it."""
    scores, n = scores.detach(), len(scores)
    if allowed < 0:
        value = math.inf
    elif allowed >= n:
        value = -math.inf
    else:
        value = float(scores.kthvalue(n - allowed).values)
    return Threshold(value, float((scores > value).double().mean()), n, samples_needed)


def _cut_below(scores: Tensor, allowed: int, samples_needed: int | None) -> Threshold:
    """The highest value with at most `allowed` scores at or below it."""
    scores, n = scores.detach(), len(scores)
    if allowed < 0:
        value = -math.inf
    else:
        next_lowest = scores.kthvalue(min(allowed, n - 1) + 1).values
        value = float(torch.nextafter(next_lowest, torch.full_like(next_lowest, -math.inf)))
    return Threshold(value, float((scores > value).double().mean()), n, samples_needed)
