"""Running claims: every arm of an experiment on the same seeds, then the rule of `verdict`."""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import equipoise
from equipoise.catalog import find_paper, load_catalog
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.claims.page import write_result
from equipoise.claims.results import ClaimResult, ExperimentResult, PartResult
from equipoise.claims.verdict import REPORTED, SUPPORTED, judge_bound, judge_gain

Progress = Callable[[str], None]

_QUICK = " (quick)"


def available_claims() -> list[str]:
    """Slugs of the papers whose claim can be run, in the order of the catalogue."""
    return [paper.slug for paper in load_catalog() if paper.working]


def load_claim(slug: str) -> Claim:
    """The claim of a paper, from `equipoise.claims.<room>`.

    Raises:
        ValueError: if there is no such paper, or it is only planned.
        ImportError: if its experiment needs a library that is not installed.
    """
    paper = find_paper(slug)
    if not paper.provides:
        raise ValueError(f"{slug!r} is planned and has no claim yet; those that run: {', '.join(available_claims())}")
    try:
        module = importlib.import_module(f"equipoise.claims.{paper.room}.{slug.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("equipoise."):
            raise
        raise ImportError(f"the claim {slug!r} needs {error.name}; pip install 'equipoise[cli]'") from error
    claim: Claim = module.CLAIM
    return claim


def run_claims(
    slugs: Sequence[str] = (),
    *,
    quick: bool = False,
    output: Path | str | None = None,
    progress: Progress | None = None,
) -> list[ClaimResult]:
    """Run the claims of some papers, or of all that work.

    Args:
        slugs: which papers; all working ones if empty.
        quick: fewer seeds and smaller sizes, which every verdict then says.
        output: folder that gets `claims/<slug>.json` for each and `claims.md` of all JSON files there, written as each
            claim ends; None writes nothing.
        progress: called with a line of text as the work goes on.

    Raises:
        ValueError: if a slug is unknown or only planned; found before anything is run.
    """
    claims = [load_claim(slug) for slug in (list(slugs) or available_claims())]
    results = []
    for claim in claims:
        results.append(run_claim(claim, quick=quick, progress=progress))
        if output is not None:
            write_result(results[-1], Path(output))
    return results


def run_claim(claim: Claim, *, quick: bool = False, progress: Progress | None = None) -> ClaimResult:
    """Run all experiments of a claim and judge their parts."""
    began = time.perf_counter()
    experiments = [_run_experiment(claim.slug, experiment, quick, progress) for experiment in claim.experiments]
    return ClaimResult(
        slug=claim.slug,
        title=find_paper(claim.slug).title,
        statement=claim.statement,
        quick=quick,
        experiments=experiments,
        caveats=list(claim.caveats),
        seconds=round(time.perf_counter() - began, 1),
        environment={
            "equipoise": equipoise.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
        },
    )


def _run_experiment(slug: str, experiment: Experiment, quick: bool, progress: Progress | None) -> ExperimentResult:
    began = time.perf_counter()
    seeds = experiment.seeds[: experiment.quick_seeds] if quick else experiment.seeds
    measures: dict[str, dict[str, list[float]]] = {}
    for position, seed in enumerate(seeds):
        if progress is not None:
            progress(f"{slug}: {experiment.name}, seed {position + 1} of {len(seeds)}")
        for arm, values in experiment.run(seed, quick).items():
            for measure, value in values.items():
                measures.setdefault(arm, {}).setdefault(measure, []).append(float(value))
    return ExperimentResult(
        name=experiment.name,
        protocol=experiment.protocol,
        seeds=list(seeds),
        all_seeds=len(experiment.seeds),
        measures=measures,
        parts=[_judge(part, measures, len(seeds), quick) for part in experiment.parts],
        seconds=round(time.perf_counter() - began, 1),
    )


def _judge(part: Gain | Bound, measures: dict[str, dict[str, list[float]]], seeds: int, quick: bool) -> PartResult:
    if isinstance(part, Bound):
        values = measures[part.arm][part.measure]
        verdict, worst = judge_bound(values, part.at_most, part.at_least)
        needed = f"≤ {part.at_most:g}" if part.at_most is not None else f"≥ {part.at_least:g}"
        kept = sum(judge_bound([value], part.at_most, part.at_least)[0] == SUPPORTED for value in values)
        verdict += _QUICK if quick else ""
        return PartResult(part.statement, verdict, f"{needed} on every seed", worst, None, None, kept, seeds)
    sign = 1.0 if part.higher_is_better else -1.0
    method, baseline = measures[part.method][part.measure], measures[part.baseline][part.measure]
    differences = [sign * (a - b) for a, b in zip(method, baseline, strict=True)]
    verdict, interval = judge_gain(differences, part.minimum_effect)
    if part.asserted:
        verdict += _QUICK if quick else ""
        needed = f"interval above 0, mean ≥ {part.minimum_effect:g}"
    else:
        verdict, needed = REPORTED, "nothing asserted"
    wins = sum(d > 0 for d in differences)
    return PartResult(
        part.statement, verdict, needed, interval.estimate, interval.low, interval.high, wins, len(differences)
    )
