"""`equipoise bench tabular`: every objective on many real tables, under one budget, with tests over the tables.

One budget for all: each method trains once a split with the settings below, none tuned for any method or table.
Networks are the same MLP with the same optimizer, epochs and early stopping (on AUROC, one-vs-one for several classes,
of a fifth of the training part); boosters have the same rounds and the same early stopping. Missing cells get the
training part's median, features its mean and scale. A method that fails on a split has no value on that table and ranks
last there.
"""

from __future__ import annotations

import csv
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.data import list_datasets, load_dataset, load_npz_tables
from equipoise.ranking import auroc, average_precision, multiclass_auroc, opauc, tpauc
from equipoise.report.ranks import (
    RankComparison,
    as_plain,
    compare_ranks,
    draw_critical_difference,
    ranks_markdown,
)
from equipoise.training.objectives import OBJECTIVES
from equipoise.workflows.errors import InputError

MAX_FPR, WIDE_FPR, MIN_TPR = 0.05, 0.5, 0.5
TEST_SHARE = 0.25
BINARY = ("AUROC", "OPAUC(0.05)", "TPAUC(0.5, 0.5)", "AP")
MULTICLASS = ("MAUC",)
REFERENCE = "mlp · cross_entropy"
LINEAR = "logistic regression"
# What the boosters' integration knows, in the order of the table.
_BOOSTED = ("cross_entropy", "auc", "partial_auc")
_FIELDS = (
    "table",
    "split",
    "method",
    "rows",
    "features",
    "classes",
    "rarest",
    "seconds",
    "failure",
    *BINARY,
    *MULTICLASS,
)

Features = NDArray[np.float64]
Target = NDArray[np.int64]


@dataclass(frozen=True)
class Budget:
    """What every run may spend.

    Attributes:
        epochs: of networks, at most.
        patience: epochs without a better held-out result before a network stops.
        rounds: of boosters, at most.
    """

    epochs: int = 30
    patience: int = 10
    rounds: int = 100


@dataclass(frozen=True)
class BenchTable:
    """A table to be judged on.

    Attributes:
        name: of the table.
        features: (n, d), NaN where a cell is missing.
        target: (n,) class indices.
    """

    name: str
    features: Features
    target: Target

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.target.max()) + 1


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


def method_names(classes: int) -> list[str]:
    """The methods that can be trained with so many classes.

    >>> method_names(3)[:2]
    ['logistic regression', 'mlp · cross_entropy']
    """
    neural = [o.name for o in OBJECTIVES.values() if classes == 2 or o.multiclass]
    boosted = [name for name in _BOOSTED if name in neural]
    return [LINEAR, *(f"mlp · {n}" for n in neural), *(f"lightgbm · {n}" for n in boosted)]


def bench_tabular(
    output: str | Path,
    *,
    data: Sequence[str | Path] = (),
    splits: int = 5,
    jobs: int = 1,
    tables: Sequence[str] = (),
    methods: Sequence[str] = (),
    budget: Budget = Budget(),
    progress: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Train and judge every method on every table, and compare the methods over the tables.

    Args:
        output: folder to write; `results.csv` found there is gone on with.
        data: npz files of tables (`<name>__X`, `<name>__y`); without any, the binary and multiclass tables that ship in
            installed packages.
        splits: stratified splits of every table, seeded 0, 1, ...
        jobs: processes, each with one thread.
        tables: names of tables to take; all if empty.
        methods: names of methods to take; all if empty.
        budget: what every run may spend; the folder keeps the results of one budget.
        progress: told a line when a run ends.

    Raises:
        InputError: on files, tables or methods that are not there, or fewer than two tables or methods.
    """
    if splits < 1 or jobs < 1:
        raise InputError(f"splits={splits} and jobs={jobs} must both be at least 1")
    chosen = _load(data, tables)
    known = sorted({name for table in chosen for name in method_names(table.classes)})
    unknown = sorted(set(methods) - set(known))
    if unknown:
        raise InputError(f"there is no method {unknown[0]!r}; there are {', '.join(map(repr, known))}")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.csv"
    done = {(row["table"], int(row["split"]), row["method"]) for row in _read(results)}
    waiting: list[Task] = []
    for table in chosen:
        names = [m for m in method_names(table.classes) if _wanted(m, methods)]
        for split in range(splits):
            missing = [m for m in names if (table.name, split, m) not in done]
            if missing:
                waiting.append((table, split, missing, budget))
    total, ended = sum(len(task[2]) for task in waiting), 0
    # The longest first, so that no process is left with one at the end.
    waiting.sort(key=lambda task: -len(task[0].target) * len(task[2]))
    with results.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _FIELDS)
        if not done and not results.stat().st_size:
            writer.writeheader()
        for rows in _work(waiting, jobs):
            writer.writerows(rows)
            file.flush()
            ended += len(rows)
            progress(f"{ended} of {total} runs; last {rows[0]['table']}, split {rows[0]['split']}")
    return summarise(folder, tables=[t.name for t in chosen], methods=methods, splits=splits, budget=budget)


def summarise(
    folder: Path,
    *,
    tables: Sequence[str] = (),
    methods: Sequence[str] = (),
    splits: int | None = None,
    budget: Budget = Budget(),
) -> Summary:
    """Compare the methods of `results.csv` and write `summary.json`, `summary.md` and a diagram a metric.

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
        for row in _read(folder / "results.csv")
        if (not tables or row["table"] in tables)
        and _wanted(row["method"], methods)
        and (splits is None or int(row["split"]) < splits)
    ]
    comparisons, text = {}, ["# Objectives on real tables", "", *_protocol(rows, budget), ""]
    for metric in (*BINARY, *MULTICLASS):
        of_kind = [row for row in rows if (int(row["classes"]) > 2) == (metric in MULTICLASS)]
        names = [
            m for m in method_names(3 if metric in MULTICLASS else 2) if any(row["method"] == m for row in of_kind)
        ]
        sets = sorted({row["table"] for row in of_kind})
        if len(names) < 2 or len(sets) < 2:
            continue
        values = np.full((len(sets), len(names)), math.nan)
        for i, table in enumerate(sets):
            for j, name in enumerate(names):
                found = [row for row in of_kind if row["table"] == table and row["method"] == name]
                if found and not any(row["failure"] for row in found):
                    values[i, j] = np.mean([float(row[metric]) for row in found])
        comparison = compare_ranks(values, names, reference=REFERENCE if REFERENCE in names else names[0])
        comparisons[metric] = comparison
        picture = f"critical_difference_{metric.split('(')[0].lower()}.png"
        draw_critical_difference(comparison, folder / picture, f"{metric}: average rank over {len(sets)} tables")
        text += [f"## {metric}", "", ranks_markdown(comparison), "", f"![{metric}]({picture})", ""]
    if not comparisons:
        raise InputError("there are fewer than two tables or two methods to compare; take more of them")
    (folder / "summary.md").write_text("\n".join(text), encoding="utf-8")
    summary = {
        "settings": {**asdict(budget), **_regions()},
        "metrics": {m: as_plain(c) for m, c in comparisons.items()},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return Summary(comparisons, folder, sum(bool(row["failure"]) for row in rows))


def _load(data: Sequence[str | Path], names: Sequence[str]) -> list[BenchTable]:
    found: dict[str, BenchTable] = {}
    if data:
        for path in data:
            try:
                arrays = load_npz_tables(path)
            except (FileNotFoundError, ValueError) as error:
                raise InputError(str(error)) from error
            for name, (features, target) in arrays.items():
                found[name] = BenchTable(name, features.astype(np.float64), np.unique(target, return_inverse=True)[1])
    else:
        for info in list_datasets():
            if info.available and (not names or info.name in names):
                found[info.name] = _embedded(info.name)
    missing = sorted(set(names) - set(found))
    if missing:
        raise InputError(f"there is no table {missing[0]!r} in the data")
    return [table for name, table in found.items() if not names or name in names]


def _embedded(name: str) -> BenchTable:
    from equipoise.data import make_encoder

    task = load_dataset(name).task()
    features = np.asarray(make_encoder("tree").fit_transform(task.features), dtype=np.float64)
    return BenchTable(name, features, np.asarray(task.target, dtype=np.int64))


Task = tuple[BenchTable, int, list[str], Budget]


def _work(tasks: Sequence[Task], jobs: int) -> Iterator[list[dict[str, Any]]]:
    if jobs == 1:
        yield from map(_run, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_run, task) for task in tasks]):
            yield future.result()


def _run(task: Task) -> list[dict[str, Any]]:
    """All methods of one split of one table."""
    from sklearn.model_selection import train_test_split

    table, split, names, budget = task
    torch.set_num_threads(1)
    counts = np.bincount(table.target)
    facts = {
        "table": table.name,
        "split": split,
        "rows": len(table.target),
        "features": table.features.shape[1],
        "classes": table.classes,
        "rarest": int(counts.min()),
    }
    train, test = train_test_split(
        np.arange(len(table.target)), test_size=TEST_SHARE, stratify=table.target, random_state=split
    )
    x_train, x_test = _prepared(table.features[train], table.features[test])
    rows = []
    for name in names:
        start, values, failure = time.perf_counter(), {}, ""
        try:
            with warnings.catch_warnings():
                # What an estimator has to say about small classes would be said a thousand times.
                warnings.simplefilter("ignore")
                scores = _scores(name, x_train, table.target[train], x_test, split, table.classes, budget)
            values = _judge(torch.from_numpy(scores), torch.from_numpy(table.target[test]))
        except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
            failure = f"{type(error).__name__}: {error}".splitlines()[0]
        rows.append(
            {**facts, "method": name, "seconds": round(time.perf_counter() - start, 3), "failure": failure, **values}
        )
    return rows


def _prepared(train: Features, test: Features) -> tuple[Features, Features]:
    """Median for missing cells, then mean 0 and scale 1, all from the training part."""
    with warnings.catch_warnings():
        # A column without any value has no median.
        warnings.simplefilter("ignore", RuntimeWarning)
        median = np.nan_to_num(np.nanmedian(train, axis=0))
    filled = [np.where(np.isnan(part), median, part) for part in (train, test)]
    mean, scale = filled[0].mean(0), filled[0].std(0)
    scale[scale == 0] = 1.0
    return (filled[0] - mean) / scale, (filled[1] - mean) / scale


def _scores(
    method: str, x_train: Features, y_train: Target, x_test: Features, seed: int, classes: int, budget: Budget
) -> Features:
    if method == LINEAR:
        from sklearn.linear_model import LogisticRegression

        model: Any = LogisticRegression(max_iter=1000)
    else:
        family, objective = method.split(" · ")
        bounds = _bounds(objective)
        metric = "auroc" if classes == 2 else "ovo_auroc"
        if family == "mlp":
            from equipoise.integrations.sklearn import EquipoiseClassifier

            model = EquipoiseClassifier(
                objective, metric=metric, epochs=budget.epochs, patience=budget.patience, random_state=seed, **bounds
            )
        else:
            from equipoise.integrations.lightgbm import LightGBMRankingClassifier

            model = LightGBMRankingClassifier(
                objective, metric=metric, n_estimators=budget.rounds, n_jobs=1, random_state=seed, **bounds
            )
    model.fit(x_train, y_train)
    if method == LINEAR and classes > 2:
        return np.asarray(model.predict_proba(x_test), dtype=np.float64)
    return np.asarray(model.decision_function(x_test), dtype=np.float64)


def _bounds(objective: str) -> dict[str, Any]:
    """The region of an objective that has one: a small budget, or both bounds where it takes both."""
    kind = OBJECTIVES[objective]
    if kind.needs_min_tpr:
        return {"max_fpr": WIDE_FPR, "min_tpr": MIN_TPR}
    return {"max_fpr": MAX_FPR} if kind.needs_max_fpr else {}


def _judge(scores: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    if scores.ndim == 2:
        return {"MAUC": float(multiclass_auroc(scores, target))}
    return {
        "AUROC": float(auroc(scores, target)),
        "OPAUC(0.05)": float(opauc(scores, target, MAX_FPR)),
        "TPAUC(0.5, 0.5)": float(tpauc(scores, target, WIDE_FPR, MIN_TPR)),
        "AP": float(average_precision(scores, target)),
    }


def _wanted(method: str, methods: Sequence[str]) -> bool:
    return not methods or method in methods


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _regions() -> dict[str, Any]:
    return {
        "test_share": TEST_SHARE,
        "max_fpr": MAX_FPR,
        "two_way": {"max_fpr": WIDE_FPR, "min_tpr": MIN_TPR},
    }


def _protocol(rows: Sequence[dict[str, str]], budget: Budget) -> list[str]:
    tables = {row["table"]: int(row["classes"]) for row in rows}
    splits = len({row["split"] for row in rows})
    failed = [row for row in rows if row["failure"]]
    lines = [
        f"{sum(c == 2 for c in tables.values())} tables with two classes and {sum(c > 2 for c in tables.values())} "
        f"with more, {splits} stratified splits of each ({1 - TEST_SHARE:.0%} to train), values averaged over "
        "splits before they are ranked. One budget: the estimators' defaults, except at most "
        f"{budget.epochs} epochs ({budget.rounds} boosting rounds) and early stopping on AUROC for all; nothing was "
        "tuned. "
        f"Objectives with a budget aim at FPR ≤ {MAX_FPR:g}, those with two bounds at FPR ≤ {WIDE_FPR:g} and TPR ≥ "
        f"{MIN_TPR:g}.",
    ]
    if failed:
        names = ", ".join(sorted({f"{row['method']} on {row['table']}" for row in failed}))
        lines += ["", f"{len(failed)} runs failed and rank last on their table: {names}."]
    return lines


__all__ = ["BenchTable", "Summary", "bench_tabular", "method_names", "summarise"]
