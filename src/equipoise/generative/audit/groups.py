"""Rates of flags by group of prompts, and the tests of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from equipoise.generative.audit.detection import binomial_p_value, fisher_p_value, rate_interval
from equipoise.generative.audit.findings import GroupRate, Report

CLEAN = "clean"


def group_rates(
    names: Sequence[str], reports: Sequence[Report], clean_rate: float
) -> tuple[tuple[GroupRate, ...], float | None]:
    """The rate of every group, and the rate that they were tested against.

    Args:
        names: (n,) the group of every report.
        reports: of the prompts.
        clean_rate: what groups are tested against where none is "clean", or that one has no decision.

    Returns:
        The groups in the order in which they are met; p-values are multiplied by how many groups are tested
        (Bonferroni). The rate is None where they were tested against the clean group.
    """
    counts = {name: _counts([r for g, r in zip(names, reports, strict=True) if g == name]) for name in names}
    clean = counts.get(CLEAN, (0, 0, 0))
    tested = max(sum(name != CLEAN and decided > 0 for name, (decided, _, _) in counts.items()), 1)
    rates = []
    for name, (decided, flagged, undecided) in counts.items():
        p_value = None
        if name != CLEAN and decided:
            p = binomial_p_value(flagged, decided, clean_rate)
            if clean[0]:
                p = fisher_p_value(flagged, decided, clean[1], clean[0])
            p_value = min(1.0, p * tested)
        low, high = rate_interval(flagged, decided) if decided else (0.0, 1.0)
        rate = flagged / decided if decided else math.nan
        rates.append(GroupRate(name, decided, flagged, undecided, rate, low, high, p_value))
    return tuple(rates), None if clean[0] else clean_rate


def _counts(reports: Sequence[Report]) -> tuple[int, int, int]:
    decided = [report for report in reports if report.undecided is None]
    return len(decided), sum(report.flagged for report in decided), len(reports) - len(decided)
