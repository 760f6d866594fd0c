"""The rule for verdicts, the same for every claim. No verdict is written by hand.

Of a *gain*, d is the paired difference over the seeds of a block, oriented so that positive favours the method, with
its 95 % Student interval [low, high], and m > 0 the least effect worth having:

    supported       low > 0 and mean d ≥ m
    not supported   high < m, the data rule out an effect worth having
    inconclusive    otherwise, or with too few seeds

Five seeds are the least, ten where the spread is large: where the interval of the first five is wider than ± m, so that
five cannot tell an effect of m from none. This looks at the spread alone, never at the mean, so that running on takes
nothing from the interval's coverage (the two-stage rule of Stein, Annals of Mathematical Statistics 1945).

Of a *bound*: supported if every seed keeps it, not supported if one does not, inconclusive with fewer than five seeds.
A value that is not finite supports nothing.

A claim is judged over two blocks: the recorded seeds and a fresh block. Where both say the same, that is the verdict;
where they differ it is inconclusive, but for a bound, which one seed of either block refutes. One block alone decides
nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from equipoise.claims.model import LEAST_SEEDS
from equipoise.core.curves.intervals import Interval, paired_interval

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
INCONCLUSIVE = "inconclusive"
REPORTED = "reported"
NOT_REPEATED = "not yet repeated"
NOT_RUN = "not yet run"
SEEDS_OF_LARGE_SPREAD = 10


def seeds_needed(differences: Sequence[float], minimum_effect: float) -> int:
    """Five, or ten where the interval of the first five paired differences is wider than ± the least effect.

    >>> seeds_needed([0.02, 0.03, 0.025, 0.02, 0.02], minimum_effect=0.01)
    5
    """
    first = differences[:LEAST_SEEDS]
    if len(first) < LEAST_SEEDS or not all(map(math.isfinite, first)):
        return LEAST_SEEDS
    interval = paired_interval(first)
    return SEEDS_OF_LARGE_SPREAD if interval.high - interval.estimate > minimum_effect else LEAST_SEEDS


def judge_gain(differences: Sequence[float], minimum_effect: float) -> tuple[str, Interval]:
    """Verdict of a block and interval of its paired differences, positive where the method did better.

    >>> judge_gain([0.02, 0.03, 0.025, 0.02, 0.02], minimum_effect=0.01)[0]
    'supported'
    """
    if not all(map(math.isfinite, differences)):
        return NOT_SUPPORTED, Interval(math.nan, math.nan, math.nan)
    interval = paired_interval(differences)
    if len(differences) < seeds_needed(differences, minimum_effect):
        return INCONCLUSIVE, interval
    if interval.low > 0 and interval.estimate >= minimum_effect:
        return SUPPORTED, interval
    return (NOT_SUPPORTED if interval.high < minimum_effect else INCONCLUSIVE), interval


def judge_bound(values: Sequence[float], at_most: float | None, at_least: float | None) -> tuple[str, float]:
    """Verdict of a block and the worst value over its seeds.

    >>> judge_bound([1e-12, 3e-12, 0.0, 0.0, 1e-12], at_most=1e-9, at_least=None)
    ('supported', 3e-12)
    """
    if any(map(math.isnan, values)):
        return NOT_SUPPORTED, math.nan
    if at_most is not None:
        worst, kept = max(values), max(values) <= at_most
    elif at_least is not None:
        worst, kept = min(values), min(values) >= at_least
    else:
        raise ValueError("give at_most or at_least")
    enough = SUPPORTED if len(values) >= LEAST_SEEDS else INCONCLUSIVE
    return (enough if kept else NOT_SUPPORTED), worst


def judge_blocks(verdicts: Sequence[str], *, refutable: bool = False) -> str:
    """The verdict over blocks, the recorded one and the fresh one.

    Args:
        verdicts: one per block that was run.
        refutable: whether one block that does not support it is enough against it, as of a bound.

    >>> judge_blocks(["supported", "inconclusive"])
    'inconclusive'
    """
    if refutable and NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    if len(verdicts) < 2:
        return NOT_REPEATED if verdicts else NOT_RUN
    return verdicts[0] if len(set(verdicts)) == 1 else INCONCLUSIVE
