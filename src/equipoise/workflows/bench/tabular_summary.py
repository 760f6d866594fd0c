"""What came out of `equipoise bench tabular`: `results.csv` in, comparisons and texts about them out.

A method's value on a table is its mean over splits. A method that failed on any split has no value there and ranks
last, beside the others that failed: a mean over the splits it survived would be of easier data than the others'.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equipoise.report.rank_page import rank_page
from equipoise.report.ranks import (
    RankComparison,
    as_plain,
    compare_ranks,
    draw_critical_difference,
    markdown_table,
    rank_rows,
    rank_sentence,
)
from equipoise.workflows.bench.request import STANDARD, Budget
from equipoise.workflows.bench.tabular_protocol import (
    BINARY,
    MAX_FPR,
    MIN_TPR,
    MULTICLASS,
    REFERENCE,
    TEST_SHARE,
    WIDE_FPR,
    method_names,
    settings,
)
from equipoise.workflows.errors import InputError

RESULTS = "results.csv"
# With fewer tables in a third, an average rank says little.
_LEAST_IN_THIRD = 4

Row = dict[str, str]


@dataclass(frozen=True)
class Summary:
    """What came out.

    Attributes:
        comparisons: metric → comparison of the methods over tables.
        folder: where everything was written.
        failures: runs that failed.
    """

    comparisons: dict[str, RankComparison]
    folder: Path
    failures: int


@dataclass(frozen=True)
class _Values:
    """One metric of every method on every table.

    Attributes:
        methods: names of the columns.
        tables: (tables, methods) values, NaN where the method failed.
        rarest: (tables,) rows of the rarest class.
    """

    methods: list[str]
    tables: NDArray[np.float64]
    rarest: NDArray[np.int64]

    def compared(self, rows: NDArray[np.bool_] | None = None) -> RankComparison:
        """The comparison over those tables; over all if absent."""
        values = self.tables if rows is None else self.tables[rows]
        return compare_ranks(
            values, self.methods, reference=REFERENCE if REFERENCE in self.methods else self.methods[0]
        )


def read_results(path: Path) -> list[Row]:
    """The finished runs; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summarise(
    folder: Path,
    *,
    tables: Sequence[str] = (),
    methods: Sequence[str] = (),
    splits: int | None = None,
    budget: Budget = STANDARD,
) -> Summary:
    """Compare the methods of `results.csv` and write `summary.json`, `.md`, `.html` and a diagram a metric.

    Args:
        folder: holds `results.csv`.
        tables: names of tables to take; all if empty.
        methods: names of methods to take; all if empty.
        splits: how many splits to take, from the first; all if absent.
        budget: what the runs could spend, for the text.

    Raises:
        InputError: if there are fewer than two tables or methods to compare.
    """
    rows = [
        row
        for row in read_results(folder / RESULTS)
        if (not tables or row["table"] in tables)
        and (not methods or row["method"] in methods)
        and (splits is None or int(row["split"]) < splits)
    ]
    comparisons: dict[str, RankComparison] = {}
    facts = _protocol(rows, budget)
    text, pictures = ["# Objectives on real tables", ""], {}
    for fact in facts:
        text += [fact, ""]
    for metric in (*BINARY, *MULTICLASS):
        values = _values(rows, metric)
        if len(values.methods) < 2 or len(values.tables) < 2:
            continue
        comparison = comparisons[metric] = values.compared()
        picture = folder / f"critical_difference_{metric.split('(')[0].lower()}.png"
        pictures[metric] = picture.with_suffix(".svg")
        for path in (picture, pictures[metric]):
            draw_critical_difference(comparison, path, f"{metric}: average rank over {comparison.data_sets} tables")
        text += [f"## {metric}", "", markdown_table(rank_rows(comparison)), "", rank_sentence(comparison), ""]
        text += [f"![{metric}]({picture.name})", ""]
        if metric in BINARY:
            text += _by_rarity(values, comparison)
    if not comparisons:
        raise InputError("there are fewer than two tables or two methods to compare; take more of them")
    costs = _costs(rows)
    text += ["## Runs", "", markdown_table(costs), ""]
    (folder / "summary.md").write_text("\n".join(text), encoding="utf-8")
    page = rank_page("Objectives on real tables", facts, comparisons, pictures, costs)
    (folder / "summary.html").write_text(page, encoding="utf-8")
    summary = {
        "settings": {**asdict(budget), **settings()},
        "metrics": {m: as_plain(c) for m, c in comparisons.items()},
    }
    (folder / "summary.json").write_text(
        json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
    )
    return Summary(comparisons, folder, sum(bool(row["failure"]) for row in rows))


def _values(rows: Sequence[Row], metric: str) -> _Values:
    multiclass = metric in MULTICLASS
    found: dict[tuple[str, str], list[Row]] = {}
    rarest: dict[str, int] = {}
    for row in rows:
        if (int(row["classes"]) > 2) == multiclass:
            found.setdefault((row["table"], row["method"]), []).append(row)
            rarest[row["table"]] = int(row["rarest"])
    ran = {method for _, method in found}
    methods = [m for m in method_names(3 if multiclass else 2) if m in ran]
    tables = sorted(rarest)
    values = np.full((len(tables), len(methods)), math.nan)
    for i, table in enumerate(tables):
        for j, method in enumerate(methods):
            runs = found.get((table, method), [])
            if runs and not any(row["failure"] for row in runs):
                values[i, j] = np.mean([float(row[metric]) for row in runs])
    return _Values(methods, values, np.array([rarest[table] for table in tables], dtype=np.int64))


def _by_rarity(values: _Values, overall: RankComparison) -> list[str]:
    """Average ranks within thirds of the tables by how many rows the rarest class has."""
    low, high = (int(np.quantile(values.rarest, q)) for q in (1 / 3, 2 / 3)) if len(values.rarest) else (0, 0)
    thirds = {
        f"up to {low} rows": values.rarest <= low,
        f"{low + 1} to {high}": (values.rarest > low) & (values.rarest <= high),
        f"more than {high}": values.rarest > high,
    }
    if min(int(part.sum()) for part in thirds.values()) < _LEAST_IN_THIRD:
        return []
    parts = [values.compared(part) for part in thirds.values()]
    ranks = [dict(zip(part.methods, part.average_rank, strict=True)) for part in parts]
    cells = [["method", *(f"{name} ({int(part.sum())} tables)" for name, part in thirds.items())]]
    for method in overall.methods:
        row = [method]
        for part, rank in zip(parts, ranks, strict=True):
            beside = part.against.get(method)
            row.append(f"{rank[method]:.2f}" + (f" ({beside.mean_gain:+.4f})" if beside else ""))
        cells.append(row)
    title = f"Average rank (mean gain over {overall.reference}) by the rarest class's rows in the whole table:"
    return [title, "", markdown_table(cells), ""]


def _costs(rows: Sequence[Row]) -> list[list[str]]:
    cells = [["method", "runs", "failed", "median seconds", "longest"]]
    for method in method_names(2):
        runs = [row for row in rows if row["method"] == method]
        if runs:
            seconds = [float(row["seconds"]) for row in runs]
            failed = sum(bool(row["failure"]) for row in runs)
            numbers = (str(len(runs)), str(failed), f"{statistics.median(seconds):.3f}", f"{max(seconds):.1f}")
            cells.append([method, *numbers])
    return cells


def _protocol(rows: Sequence[Row], budget: Budget) -> list[str]:
    tables = {row["table"]: int(row["classes"]) for row in rows}
    splits = len({row["split"] for row in rows})
    stopping = (
        f"at most, stopped early by AUROC on a held-out {budget.held_out:.0%} of the training part (networks after "
        f"{budget.patience} epochs without a better one; a network holds none out where that would be fewer than 3 of "
        "a class, a booster always does)"
        if budget.held_out
        else "on the whole training part, without early stopping"
    )
    several = sum(c > 2 for c in tables.values())
    facts = [
        f"{len(tables) - several} tables with two classes and {several} with more, {splits} stratified splits of each "
        f"({1 - TEST_SHARE:.0%} to train); values are averaged over splits, then ranked within a table. One budget: "
        f"the estimators' defaults, except for {budget.epochs} epochs of networks and {budget.rounds} rounds of "
        f"boosters {stopping}; logistic regression trains on the whole training part. Nothing was tuned. Objectives "
        f"with a false-positive budget aim at FPR ≤ {MAX_FPR:g}, those that need two bounds at FPR ≤ {WIDE_FPR:g} and "
        f"TPR ≥ {MIN_TPR:g}. All rows of a table are used."
    ]
    failed = [row for row in rows if row["failure"]]
    if failed:
        reasons: dict[str, str] = {}
        for row in failed:
            reasons.setdefault(f"{row['method']} on {row['table']}", row["failure"])
        named = "; ".join(f"{where} ({why})" for where, why in sorted(reasons.items()))
        facts.append(
            f"{len(failed)} runs failed; a method that failed on any split of a table ranks last there, and its mean "
            f"leaves the table out: {named}."
        )
    return facts
