"""Intervals of the area under the ROC curve, and of the difference of two, by DeLong's variance: no draws, no seed.

With ψ = 1 where a positive scores above a negative, ½ where they tie and 0 else, a sample is known by its mean over the
other class, and the variance of the area by the spread of those means:

    v_i = 1/n Σ_j ψ(x_i, y_j)    w_j = 1/m Σ_i ψ(x_i, y_j)    Â = mean(v) = mean(w)    Var(Â) = s²(v)/m + s²(w)/n

for m positives x and n negatives y, s² with the divisors m − 1 and n − 1. The difference of two areas on the same
samples has the variance of the differences of v and of w. The means come from sorted scores in O((m + n) log(m + n)),
in whole numbers, so that ties are exact.

The interval is Â ± z √Var, cut at the ends of the range. It is meant for samples that are independent of one another
(for rows of one patient or device see `bootstrap_metrics(groups=)`) and for areas that are not close to 1, where the
distribution is skewed and it covers less often than it says.

DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic
Curves", Biometrics 1988. Sun and Xu, "Fast Implementation of DeLong's Algorithm for Comparing the Areas Under
Correlated Receiver Operating Characteristic Curves", IEEE Signal Processing Letters 2014.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from equipoise.core.curves.intervals import UNDEFINED, Interval, one_class
from equipoise.core.curves.ranks import sort_values
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, OpenFraction, Scores
from equipoise.core.validate import warn_once


@checked
def delong_interval(scores: Scores, target: BinaryTarget, confidence: OpenFraction = 0.95) -> Interval:
    """Interval of the AUROC of one score vector, by the variance of DeLong et al. 1988.

    Args:
        scores: (n,) raw scores, higher means more positive.
        target: (n,) in {0, 1}, rows independent of one another.
        confidence: of the two-sided interval, in (0, 1).

    Returns:
        The area and its ends within [0, 1]. Perfectly separated or constant scores have variance 0 and an interval
        without width, which is no certainty (warned once). NaN ends (warned once) where a class has one sample, all NaN
        where it has none.

    >>> print(delong_interval(torch.tensor([0.9, 0.4, 0.6, 0.2, 0.1]), torch.tensor([1, 1, 0, 0, 0])))
    0.833 [0.371, 1.000]
    """
    return UNDEFINED if one_class(target) else _interval(*_pairs_won(scores, target), confidence, low=0.0)


@checked
def delong_difference(first: Scores, second: Scores, target: BinaryTarget, confidence: OpenFraction = 0.95) -> Interval:
    """Interval of the AUROC of `first` less that of `second`, on the same samples, by the covariance of DeLong et al.

    Args:
        first: (n,) raw scores of one model.
        second: (n,) raw scores of another, on the same samples in the same order.
        target: (n,) in {0, 1}, rows independent of one another.
        confidence: of the two-sided interval, in (0, 1).

    Returns:
        The difference and its ends within [−1, 1]. Scores that rank every pair alike differ by exactly 0. Where the
        variance is 0 or undefined, as `delong_interval`.

    >>> target = torch.tensor([1, 1, 0, 0, 0])
    >>> one, two = torch.tensor([0.9, 0.4, 0.6, 0.2, 0.1]), torch.tensor([0.9, 0.7, 0.6, 0.2, 0.1])
    >>> print(delong_difference(two, one, target))
    0.167 [-0.295, 0.629]
    """
    if one_class(target):
        return UNDEFINED
    pos, neg = (a - b for a, b in zip(_pairs_won(first, target), _pairs_won(second, target), strict=True))
    return _interval(pos, neg, confidence, low=-1.0)


def _pairs_won(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the number of negatives that each positive beats, and of positives that each negative is beaten by."""
    pos, neg = (sort_values(scores[target == kind]) for kind in (1, 0))
    # Back in the order of the samples, for a difference pairs them up.
    x, y = (scores[target == kind].detach().to(pos.dtype) for kind in (1, 0))
    won = torch.searchsorted(neg, x) + torch.searchsorted(neg, x, right=True)
    lost = 2 * len(pos) - torch.searchsorted(pos, y) - torch.searchsorted(pos, y, right=True)
    return won, lost


def _interval(pos: Tensor, neg: Tensor, confidence: float, low: float) -> Interval:
    m, n = len(pos), len(neg)
    estimate = int(pos.sum()) / (2 * m * n)
    if min(m, n) < 2:
        warn_once(f"DeLong's variance needs two samples of a class, got {m} positives and {n} negatives; it is NaN")
        return Interval(estimate, math.nan, math.nan)
    # Whole numbers are divided last, so that a variance of zero is one.
    variance = float(pos.double().var()) / (4 * m * n**2) + float(neg.double().var()) / (4 * n * m**2)
    equal = low < 0 and not bool(pos.any())
    if variance == 0 and not equal:
        warn_once("DeLong's variance is 0 where all samples of a class fare alike; the interval has no width")
    width = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance)
    return Interval(estimate, max(estimate - width, low), min(estimate + width, 1.0))
