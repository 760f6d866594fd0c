"""Results on paper: one JSON file a claim, and a Markdown page of all of them."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.catalog import load_catalog
from equipoise.claims.results import ClaimResult, ExperimentResult, readable

_HEAD = """# Claims

Each paper says that something gets better. Here a small experiment a paper asks whether it does: method and baseline on
the same data and seeds, tuned alike. `equipoise reproduce --all` writes this page; no verdict is written by hand.

Of a gain, the difference is paired by seed and oriented so that positive favours the method; its 95 % interval is a
bootstrap over seeds, somewhat too narrow when they are few. *Supported*: the interval lies above 0 and the mean reaches
the least effect worth having, stated before the run. *Not supported*: the interval lies below that effect.
*Inconclusive*: anything else, or fewer than three seeds. A bound is *supported* when every seed keeps it. What is only
*reported* has no verdict.
"""


def claims_page(results: Sequence[ClaimResult]) -> str:
    """The Markdown page of these results: an overview, then a section a paper."""
    lines = [_HEAD, "| paper | verdicts | run |", "|---|---|---|"]
    for result in results:
        run = ("quick" if result.quick else "full") + f", {result.seconds:.0f} s"
        lines.append(f"| [`{result.slug}`](#{result.slug}) | {result.summary} | {run} |")
    return "\n".join([*lines, "", *(_section(result) for result in results)])


def write_result(result: ClaimResult, folder: Path) -> None:
    """Write `claims/<slug>.json` in the folder, and `claims.md` anew from all JSON files there, and what there is in
    Markdown (tables of larger experiments) behind them.
    """
    place = folder / "claims"
    place.mkdir(parents=True, exist_ok=True)
    _write(place / f"{result.slug}.json", json.dumps(_plain(result.to_dict()), indent=1, allow_nan=False) + "\n")
    order = {paper.slug: number for number, paper in enumerate(load_catalog())}
    found = [ClaimResult.from_dict(_numbers(json.loads(path.read_text("utf-8")))) for path in place.glob("*.json")]
    page = claims_page(sorted(found, key=lambda r: (order.get(r.slug, len(order)), r.slug)))
    larger = [path.read_text("utf-8") for path in sorted(place.glob("*.md"))]
    _write(folder / "claims.md", "\n".join([page, *larger]))


def _section(result: ClaimResult) -> str:
    lines = [f"## {result.slug}", "", f"*{result.title}*", "", result.statement, ""]
    if result.quick:
        lines += ["**A quick run**, with fewer seeds or smaller sizes: it shows that the experiment works.", ""]
    for experiment in result.experiments:
        lines += _experiment(experiment, result.quick)
    if result.caveats:
        lines += ["Not expected to show, or out of reach here:", "", *(f"- {caveat}" for caveat in result.caveats), ""]
    where = ", ".join(f"{name} {version}" for name, version in result.environment.items())
    lines += [f"Took {result.seconds:.0f} s ({where}).", ""]
    return "\n".join(lines)


def _experiment(experiment: ExperimentResult, quick: bool) -> list[str]:
    seeds = f"{len(experiment.seeds)} of {experiment.all_seeds} seeds:" if quick else "Seeds"
    names = list(dict.fromkeys(name for values in experiment.measures.values() for name in values))
    lines = [
        f"### {experiment.name}",
        "",
        f"{experiment.protocol} {seeds} {', '.join(map(str, experiment.seeds))}.",
        "",
    ]
    lines += ["| arm | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for arm, values in experiment.measures.items():
        lines.append(f"| {arm} | " + " | ".join(_spread(values.get(name)) for name in names) + " |")
    lines += ["", "| statement | found | seeds | needed | verdict |", "|---|---|---|---|---|"]
    for part in experiment.parts:
        lines.append(
            f"| {part.statement} | {part.found} | {part.wins}/{part.seeds} | {part.needed} | **{part.verdict}** |"
        )
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


def _numbers(value: object) -> dict[str, Any]:
    restored = _restore(value)
    if not isinstance(restored, dict):
        raise ValueError("a claim's JSON file must hold an object")
    return restored


def _restore(value: object) -> object:
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else value
