"""The rule for verdicts, the same for every claim. No verdict is written by hand.

Of a *gain*, d is the paired difference, oriented so that positive favours the method, with its 95 % bootstrap interval
[low, high] over seeds, and m > 0 the least effect worth having:

    supported       low > 0 and mean d ≥ m
    not supported   high < m, the data rule out an effect worth having
    inconclusive    otherwise, or with fewer than three seeds

Of a *bound*: supported if every seed keeps it, else not supported. A value that is not finite supports nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from equipoise.core.curves.intervals import Interval, paired_bootstrap

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
INCONCLUSIVE = "inconclusive"
REPORTED = "reported"
LEAST_SEEDS = 3


def judge_gain(differences: Sequence[float], minimum_effect: float) -> tuple[str, Interval]:
    """Verdict and interval of paired differences, positive where the method did better.

    >>> judge_gain([0.02, 0.03, 0.025, 0.02], minimum_effect=0.005)[0]
    'supported'
    """
    if not all(map(math.isfinite, differences)):
        return NOT_SUPPORTED, Interval(math.nan, math.nan, math.nan)
    interval = paired_bootstrap(differences)
    if len(differences) < LEAST_SEEDS:
        return INCONCLUSIVE, interval
    if interval.low > 0 and interval.estimate >= minimum_effect:
        return SUPPORTED, interval
    if interval.high < minimum_effect:
        return NOT_SUPPORTED, interval
    return INCONCLUSIVE, interval


def judge_bound(values: Sequence[float], at_most: float | None, at_least: float | None) -> tuple[str, float]:
    """Verdict and the worst value over seeds.

    >>> judge_bound([1e-12, 3e-12], at_most=1e-9, at_least=None)
    ('supported', 3e-12)
    """
    if any(map(math.isnan, values)):
        return NOT_SUPPORTED, math.nan
    if at_most is not None:
        return (SUPPORTED if max(values) <= at_most else NOT_SUPPORTED), max(values)
    if at_least is None:
        raise ValueError("give at_most or at_least")
    return (SUPPORTED if min(values) >= at_least else NOT_SUPPORTED), min(values)
