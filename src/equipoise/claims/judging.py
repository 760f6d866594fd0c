"""A claim and what was measured: verdicts."""

from __future__ import annotations

from equipoise.catalog import find_paper
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.claims.results import ClaimResult, ClaimRun, ExperimentResult, ExperimentRun, Finding, PartResult
from equipoise.claims.verdict import NOT_SUPPORTED, REPORTED, judge_blocks, judge_bound, judge_gain

QUICK = "quick"


def judge_claim(claim: Claim, recorded: ClaimRun | None = None, fresh: ClaimRun | None = None) -> ClaimResult:
    """Judge every part of a claim by the runs there are.

    Args:
        claim: what is said.
        recorded: the run over the seeds that the claim names.
        fresh: the run over other seeds.
    """
    runs = [run for run in (recorded, fresh) if run is not None]
    return ClaimResult(
        slug=claim.slug,
        title=find_paper(claim.slug).title,
        statement=claim.statement,
        caveats=list(claim.caveats),
        experiments=[
            ExperimentResult(
                experiment.name,
                experiment.protocol,
                [
                    _part(part, experiment, recorded, fresh, quick=any(run.quick for run in runs))
                    for part in experiment.parts
                ],
            )
            for experiment in claim.experiments
        ],
        recorded=recorded,
        fresh=fresh,
    )


def paired_differences(part: Gain, run: ExperimentRun) -> list[float]:
    """One difference per seed, positive where the method did better."""
    sign = 1.0 if part.higher_is_better else -1.0
    method, baseline = run.measures[part.method][part.measure], run.measures[part.baseline][part.measure]
    return [sign * (a - b) for a, b in zip(method, baseline, strict=True)]


def _part(
    part: Gain | Bound, experiment: Experiment, recorded: ClaimRun | None, fresh: ClaimRun | None, *, quick: bool
) -> PartResult:
    blocks = [None if run is None else _finding(part, run.experiments[experiment.name]) for run in (recorded, fresh)]
    if isinstance(part, Gain):
        needed = f"interval above 0, mean ≥ {part.minimum_effect:g}"
    else:
        needed = (f"≤ {part.at_most:g}" if part.at_most is not None else f"≥ {part.at_least:g}") + " on every seed"
    if not part.asserted:
        verdict, needed = REPORTED, "nothing asserted"
    elif quick:
        verdict = QUICK
    else:
        found = [block.verdict for block in blocks if block is not None]
        verdict = judge_blocks(found, refutable=isinstance(part, Bound))
    return PartResult(part.statement, verdict, needed, *blocks)


def _finding(part: Gain | Bound, run: ExperimentRun) -> Finding:
    low: float | None = None
    high: float | None = None
    if isinstance(part, Gain):
        differences = paired_differences(part, run)
        verdict, interval = judge_gain(differences, part.minimum_effect)
        value, low, high = interval.estimate, interval.low, interval.high
        wins = sum(d > 0 for d in differences)
    else:
        values = run.measures[part.arm][part.measure]
        verdict, value = judge_bound(values, part.at_most, part.at_least)
        wins = sum(judge_bound([v], part.at_most, part.at_least)[0] != NOT_SUPPORTED for v in values)
    return Finding(verdict if part.asserted else REPORTED, value, low, high, wins, len(run.seeds))
