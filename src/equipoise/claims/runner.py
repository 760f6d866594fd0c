"""Running claims: every arm of an experiment on the same seeds of a block."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import equipoise
from equipoise.claims.judging import judge_claim, paired_differences
from equipoise.claims.lab.tuning import Setting
from equipoise.claims.loading import available_claims, fingerprint, load_claim
from equipoise.claims.model import LEAST_SEEDS, Claim, Experiment, Gain
from equipoise.claims.page import read_result, write_result
from equipoise.claims.results import ClaimResult, ClaimRun, ExperimentRun
from equipoise.claims.verdict import SEEDS_OF_LARGE_SPREAD, seeds_needed

Progress = Callable[[str], None]


def run_claims(
    slugs: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (),
    quick: bool = False,
    output: Path | str | None = None,
    progress: Progress | None = None,
) -> list[ClaimResult]:
    """Run the claims of some papers, or of all that work, and judge them.

    Args:
        slugs: which papers; all working ones if empty.
        seeds: of a fresh block; the recorded seeds if empty.
        quick: fewer seeds and smaller sizes: a check that it works, without verdicts.
        output: folder that gets `claims/<slug>.json` for each and `claims.md` of all JSON files there, written as each
            claim ends. The other block that it holds of the same code is kept and judged, and the settings that were
            chosen for the arms are taken from it. None writes nothing.
        progress: called with a line of text as the work goes on.

    Raises:
        ValueError: if a slug is unknown or only planned, or the seeds are too few or not fresh; found before anything
            is run.
    """
    results = []
    for claim, other in plan_claims(slugs, seeds=seeds, quick=quick, output=output):
        run = run_claim(claim, seeds=seeds, quick=quick, settings_of=other, progress=progress)
        results.append(judge_claim(claim, *((other, run) if seeds else (run, other))))
        if output is not None:
            write_result(results[-1], Path(output))
    return results


def plan_claims(
    slugs: Sequence[str] = (), *, seeds: Sequence[int] = (), quick: bool = False, output: Path | str | None = None
) -> list[tuple[Claim, ClaimRun | None]]:
    """The claims that `run_claims` would run, each with the other block that its output holds of the same code."""
    claims = [load_claim(slug) for slug in (list(slugs) or available_claims())]
    for claim in claims:
        _check_fresh(claim, seeds, quick)
    name = "recorded" if seeds else "fresh"
    return [(claim, None if output is None else _held(claim, Path(output), name, quick)) for claim in claims]


def run_claim(
    claim: Claim,
    *,
    seeds: Sequence[int] = (),
    quick: bool = False,
    settings_of: ClaimRun | None = None,
    progress: Progress | None = None,
) -> ClaimRun:
    """Measure all experiments of a claim.

    Args:
        claim: what to run.
        seeds: all that are run of every experiment; the claim's own if empty, and more where the spread is large.
        quick: fewer seeds and smaller sizes.
        settings_of: a run whose chosen settings are taken; chosen anew if None.
        progress: called with a line of text as the work goes on.
    """
    began, code = time.perf_counter(), fingerprint(claim)
    experiments = {}

    def tell(text: str) -> None:
        if progress is not None:
            progress(f"{claim.slug}: {text}")

    for experiment in claim.experiments:
        chosen = None if settings_of is None else settings_of.experiments[experiment.name].settings
        experiments[experiment.name] = _run_experiment(experiment, tuple(seeds), quick, chosen or {}, tell)
    return ClaimRun(
        fingerprint=code,
        quick=quick,
        experiments=experiments,
        seconds=round(time.perf_counter() - began, 1),
        environment={
            "equipoise": equipoise.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
        },
    )


def _run_experiment(
    experiment: Experiment,
    seeds: tuple[int, ...],
    quick: bool,
    settings: dict[str, Setting],
    tell: Progress,
) -> ExperimentRun:
    began = time.perf_counter()
    if experiment.tuning is not None and not settings:
        tell(f"{experiment.name}, choosing settings")
        settings = experiment.tuning.choose(quick=quick)
    chosen = () if experiment.tuning is None else (settings,)
    run = ExperimentRun([], {}, settings, 0.0)

    def measure(block: Sequence[int]) -> None:
        for seed in block:
            tell(f"{experiment.name}, seed {seed}")
            for arm, values in experiment.run(seed, quick, *chosen).items():
                for name, value in values.items():
                    run.measures.setdefault(arm, {}).setdefault(name, []).append(float(value))
            run.seeds.append(seed)

    measure(seeds or experiment.seeds[: 1 if quick else None])
    gains = [part for part in experiment.parts if isinstance(part, Gain) and part.asserted]
    if not (seeds or quick):
        needed = max((seeds_needed(paired_differences(g, run), g.minimum_effect) for g in gains), default=0)
        measure(_further(experiment)[: max(0, needed - len(run.seeds))])
    return ExperimentRun(run.seeds, run.measures, settings, round(time.perf_counter() - began, 1))


def _further(experiment: Experiment) -> range:
    """Seeds that follow those of an experiment where their spread is large."""
    after = max(experiment.seeds) + 1
    return range(after, after + max(0, SEEDS_OF_LARGE_SPREAD - len(experiment.seeds)))


def _check_fresh(claim: Claim, seeds: Sequence[int], quick: bool) -> None:
    if not seeds:
        return
    if quick:
        raise ValueError("a quick run takes the first of the recorded seeds; leave the seeds out")
    if len(set(seeds)) < max(LEAST_SEEDS, len(seeds)):
        raise ValueError(f"a fresh block needs at least {LEAST_SEEDS} distinct seeds, got {list(seeds)}")
    for experiment in claim.experiments:
        held = {*experiment.seeds, *_further(experiment), *(experiment.tuning.seeds if experiment.tuning else ())}
        if held & set(seeds):
            raise ValueError(f"seeds {sorted(held & set(seeds))} are not fresh: {claim.slug!r} uses them already")


def _held(claim: Claim, output: Path, name: str, quick: bool) -> ClaimRun | None:
    before = read_result(output, claim.slug)
    run = None if before is None else before.runs.get(name)
    return run if run is not None and (run.fingerprint, run.quick) == (fingerprint(claim), quick) else None
