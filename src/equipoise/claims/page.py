"""Results on paper: one JSON file per claim, and a Markdown page of all of them."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.catalog import load_catalog
from equipoise.claims.judging import QUICK, judge_claim
from equipoise.claims.loading import fingerprint, load_claim
from equipoise.claims.results import ClaimResult, Finding, readable

_HEAD = """# Claims

Each paper says that something gets better. Here a small experiment per paper asks whether it does: method and baseline
on the same data and seeds. Where settings are tuned, each arm has as many to choose from, by a validation measure on
seeds that are not reported; the protocol says so, and the table what was chosen. No verdict is written by hand:
`equipoise reproduce --all` writes this page, and `equipoise reproduce --all --seeds 100-109` runs the fresh block.

Of a gain, the difference is paired by seed and oriented so that positive favours the method, with its 95 % Student
interval. A block of seeds says *supported* where the interval lies above 0 and the mean reaches the least effect worth
having, stated before the run; *not supported* where the interval lies below that effect; *inconclusive* otherwise. It
takes five seeds, or ten where the interval of the first five is wider than ± the least effect. Of a bound, every seed
must keep it.

The verdict is that of two blocks, the recorded seeds and a fresh one, where both say the same, and *inconclusive*
where they differ; a bound that one seed breaks is *not supported*. *Not yet repeated*: one block of seeds was run, and
decides nothing. *Not yet run*: not in its present form. What is only *reported* has no verdict.
"""


def claims_page(results: Sequence[ClaimResult]) -> str:
    """The Markdown page of these results: an overview, then a section per paper."""
    lines = [_HEAD, "| paper | verdicts | seeds |", "|---|---|---|"]
    for result in results:
        blocks = ", ".join(f"{QUICK if run.quick else name} {run.seconds:.0f} s" for name, run in result.runs.items())
        lines.append(f"| [`{result.slug}`](#{result.slug}) | {result.summary} | {blocks or 'none'} |")
    return "\n".join([*lines, "", *(_section(result) for result in results)])


def read_result(folder: Path, slug: str) -> ClaimResult | None:
    """What `claims/<slug>.json` in the folder holds, or None if there is no such file.

    Raises:
        ValueError: if the file is none that `write_result` of this version wrote.
    """
    path = folder / "claims" / f"{slug}.json"
    if not path.exists():
        return None
    try:
        return ClaimResult.from_dict(_restore(json.loads(path.read_text("utf-8"))))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no result of this version; remove it or choose another folder") from error


def write_result(result: ClaimResult, folder: Path) -> None:
    """Write `claims/<slug>.json` in the folder, and `claims.md` anew from all JSON files there, and what there is in
    Markdown (tables of larger experiments) behind them.
    """
    place = folder / "claims"
    place.mkdir(parents=True, exist_ok=True)
    _write(place / f"{result.slug}.json", json.dumps(_plain(result.to_dict()), indent=1, allow_nan=False) + "\n")
    _write(folder / "claims.md", page_of(folder))


def page_of(folder: Path) -> str:
    """The page of all JSON and Markdown files in `claims` of the folder."""
    found = [result for paper in load_catalog() if (result := read_result(folder, paper.slug)) is not None]
    larger = [path.read_text("utf-8") for path in sorted((folder / "claims").glob("*.md"))]
    return "\n".join([claims_page(found), *larger])


def judge_again(folder: Path) -> list[ClaimResult]:
    """Judge what the JSON files of a folder hold by the claims of today, and write files and page. Nothing is run.

    Runs that other code measured are left out: their claim is then not yet run, or not yet repeated.
    """
    results = []
    for paper in load_catalog():
        held = read_result(folder, paper.slug)
        if held is not None:
            claim = load_claim(paper.slug)
            code = fingerprint(claim)
            valid = [run if run and run.fingerprint == code else None for run in (held.recorded, held.fresh)]
            results.append(judge_claim(claim, *valid))
            write_result(results[-1], folder)
    return results


def _section(result: ClaimResult) -> str:
    lines = [f"## {result.slug}", "", f"*{result.title}*", "", result.statement, ""]
    if any(run.quick for run in result.runs.values()):
        lines += ["**A quick run**, with fewer seeds or smaller sizes: it shows that the experiment works.", ""]
    for experiment in result.experiments:
        lines += [f"### {experiment.name}", "", experiment.protocol, ""]
        for name, run in result.runs.items():
            measured = run.experiments[experiment.name]
            lines += [f"{name.capitalize()} block, seeds {', '.join(map(str, measured.seeds))}:", ""]
            lines += _measures(measured.measures, measured.settings)
        lines += ["| statement | recorded | fresh | needed | verdict |", "|---|---|---|---|---|"]
        for part in experiment.parts:
            blocks = f"{_found(part.recorded)} | {_found(part.fresh)}"
            lines.append(f"| {part.statement} | {blocks} | {part.needed} | **{part.verdict}** |")
        lines.append("")
    if result.caveats:
        lines += ["Outside of these experiments:", "", *(f"- {caveat}" for caveat in result.caveats), ""]
    for name, run in result.runs.items():
        where = ", ".join(f"{what} {version}" for what, version in run.environment.items())
        lines += [f"The {name} block took {run.seconds:.0f} s ({where}).", ""]
    return "\n".join(lines)


def _found(finding: Finding | None) -> str:
    return "not run" if finding is None else str(finding)


def _measures(measures: dict[str, dict[str, list[float]]], settings: dict[str, dict[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for values in measures.values() for name in values))
    columns = [*names, *(["chosen"] if settings else [])]
    lines = ["| arm | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for arm, values in measures.items():
        cells = [_spread(values.get(name)) for name in names]
        if settings:
            cells.append(", ".join(f"{name} {value:g}" for name, value in settings.get(arm, {}).items()))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _spread(values: list[float] | None) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    if len(values) == 1 or not math.isfinite(mean):
        return readable(mean)
    return f"{readable(mean)} ± {statistics.stdev(values):.2g}"


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _plain(value: object) -> object:
    """The same with "nan", "inf" and "-inf" as strings, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else value
