"""`equipoise bench tabular`: every objective on many real tables, under one budget, with tests over the tables.

Every run (a split of a table, a method) is a row of `results.csv`, written when it ends, so that a stopped benchmark
goes on where it was. See `tabular_protocol` for what is compared and `tabular_summary` for what is made of it.
"""

from __future__ import annotations

import csv
import json
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
from equipoise.workflows.bench.request import STANDARD, BenchRequest, Budget
from equipoise.workflows.bench.tabular_protocol import (
    FIELDS,
    LINEAR,
    MAX_FPR,
    MIN_TPR,
    TEST_SHARE,
    WIDE_FPR,
    bounds,
    method_names,
)
from equipoise.workflows.bench.tabular_summary import RESULTS, Summary, read_results, summarise
from equipoise.workflows.errors import InputError

Features = NDArray[np.float64]
Target = NDArray[np.int64]


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


def bench_tabular(
    request: BenchRequest, *, budget: Budget = STANDARD, progress: Callable[[str], None] = lambda _: None
) -> Summary:
    """Train and judge every method on every table, and compare the methods over the tables.

    Args:
        request: tables, methods and the output folder; a `results.csv` found there is gone on with.
        budget: what every run may spend; the folder keeps the results of one budget.
        progress: told a line when a run ends.

    Raises:
        InputError: on files, tables or methods that are not there, fewer than two tables or methods, or a folder with
            results of other data.
    """
    splits, jobs, methods = request.splits, request.jobs, request.methods or ()
    if splits < 1 or jobs < 1:
        raise InputError(f"splits={splits} and jobs={jobs} must both be at least 1")
    if not 0 <= budget.held_out < 1:
        raise InputError(f"held_out={budget.held_out} must lie in [0, 1)")
    chosen = _load(request.data or (), request.tables or ())
    known = sorted({name for table in chosen for name in method_names(table.classes)})
    unknown = sorted(set(methods) - set(known))
    if unknown:
        raise InputError(f"there is no method {unknown[0]!r}; there are {', '.join(map(repr, known))}")
    folder = Path(request.output)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / RESULTS
    done = _finished(results, chosen)
    _check_budget(folder / "budget.json", budget, fresh=not done)
    waiting = [
        (table, split, method, budget)
        for table in chosen
        for split in range(splits)
        for method in method_names(table.classes)
        if (not methods or method in methods) and (table.name, split, method) not in done
    ]
    # The longest first, so that no process is left with one at the end.
    waiting.sort(key=lambda task: -len(task[0].target))
    with results.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not results.stat().st_size:
            writer.writeheader()
        for ended, row in enumerate(_work(waiting, jobs), 1):
            writer.writerow(row)
            file.flush()
            progress(f"{ended} of {len(waiting)} runs; last {row['table']}, split {row['split']}, {row['method']}")
    return summarise(folder, tables=[t.name for t in chosen], methods=methods, splits=splits, budget=budget)


def _load(data: Sequence[str | Path], names: Sequence[str]) -> list[BenchTable]:
    found: dict[str, BenchTable] = {}
    if data:
        for path in data:
            try:
                arrays = load_npz_tables(path)
            except (FileNotFoundError, ValueError) as error:
                raise InputError(str(error)) from error
            for name, (features, target) in arrays.items():
                if name in found:
                    raise InputError(f"table {name!r} is in two of the files; give one of them")
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


def _finished(results: Path, tables: Sequence[BenchTable]) -> set[tuple[str, int, str]]:
    """The runs that need not be done again, after dropping a last line that a killed run left unfinished."""
    if results.is_file():
        text = results.read_bytes()
        if not text.endswith(b"\n"):
            results.write_bytes(text[: text.rfind(b"\n") + 1])
    found = read_results(results)
    shapes = {table.name: (len(table.target), table.features.shape[1], table.classes) for table in tables}
    for row in found:
        if tuple(row) != FIELDS:
            raise InputError(f"{results} has other columns than this version writes; name another folder")
        shape = int(row["rows"]), int(row["features"]), int(row["classes"])
        if shapes.get(row["table"], shape) != shape:
            raise InputError(
                f"{results} holds a table {row['table']!r} of other data ({shape[0]} rows, {shape[1]} features, "
                f"{shape[2]} classes); name another folder"
            )
    return {(row["table"], int(row["split"]), row["method"]) for row in found}


def _check_budget(path: Path, budget: Budget, *, fresh: bool) -> None:
    if fresh:
        path.write_text(json.dumps(asdict(budget), indent=1), encoding="utf-8")
        return
    spent = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else asdict(STANDARD)
    if spent != asdict(budget):
        raise InputError(f"{path.parent} holds results of another budget, {spent}; name another folder")


Task = tuple[BenchTable, int, str, Budget]


def _work(tasks: Sequence[Task], jobs: int) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        yield from map(_run, tasks)
        return
    # Several processes with several threads each would wait for each other.
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for future in as_completed([pool.submit(_run, task) for task in tasks]):
            yield future.result()


def _run(task: Task) -> dict[str, Any]:
    """One method on one split of one table: a row of the results."""
    table, split, method, budget = task
    start, failure, values = time.perf_counter(), "", {}
    try:
        with warnings.catch_warnings():
            # What an estimator has to say about small classes would be said a thousand times.
            warnings.simplefilter("ignore")
            train, test = _split(table.target, split)
            x_train, x_test = _prepared(table.features[train], table.features[test])
            scores = _scores(method, x_train, table.target[train], x_test, split, table.classes, budget)
        values = _judge(torch.from_numpy(scores), torch.from_numpy(table.target[test]))
    except Exception as error:  # whatever one method runs into on one table, the others must be heard
        failure = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
    return {
        "table": table.name,
        "split": split,
        "method": method,
        "rows": len(table.target),
        "features": table.features.shape[1],
        "classes": table.classes,
        "rarest": int(np.bincount(table.target).min()),
        "seconds": round(time.perf_counter() - start, 3),
        "failure": failure,
        **values,
    }


def _split(target: Target, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train and to test on, stratified, with every class in both parts."""
    from sklearn.model_selection import train_test_split

    parts = list(train_test_split(np.arange(len(target)), test_size=TEST_SHARE, stratify=target, random_state=seed))
    # A share of two rows rounds to none: what is missing in one part comes from the other.
    for label in np.unique(target):
        for to, away in ((0, 1), (1, 0)):
            if not (target[parts[to]] == label).any():
                row = parts[away][target[parts[away]] == label][0]
                parts[to] = np.append(parts[to], row)
                parts[away] = parts[away][parts[away] != row]
    return parts[0], parts[1]


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

        linear = LogisticRegression(max_iter=1000).fit(x_train, y_train)
        found = linear.predict_proba(x_test) if classes > 2 else linear.decision_function(x_test)
        return np.asarray(found, dtype=np.float64)
    family, objective = method.split(" · ")
    if family == "lightgbm" and not budget.held_out:
        return _boosted_to_the_end(objective, x_train, y_train, x_test, seed, classes, budget)
    common = {
        "metric": "auroc" if classes == 2 else "ovo_auroc",
        "validation_fraction": budget.held_out,
        "calibration": None,
        "random_state": seed,
        **bounds(objective),
    }
    model: Any
    if family == "mlp":
        from equipoise.estimators.network_classifier import EquipoiseClassifier

        model = EquipoiseClassifier(objective, epochs=budget.epochs, patience=budget.patience, **common)
    else:
        from equipoise.estimators.lightgbm import LightGBMRankingClassifier

        model = LightGBMRankingClassifier(objective, n_estimators=budget.rounds, n_jobs=1, **common)
    return np.asarray(model.fit(x_train, y_train).decision_function(x_test), dtype=np.float64)


def _boosted_to_the_end(
    objective: str, x_train: Features, y_train: Target, x_test: Features, seed: int, classes: int, budget: Budget
) -> Features:
    """All rounds on all rows: the estimator always holds some out."""
    import lightgbm as lgb

    from equipoise.estimators.boosting import RankingObjective
    from equipoise.estimators.lightgbm import train

    params = {"objective": "binary" if classes == 2 else "multiclass", "num_class": 1 if classes == 2 else classes}
    params |= {"num_threads": 1, "seed": seed, "deterministic": True, "force_col_wise": True, "verbosity": -1}
    params["feature_pre_filter"] = False
    ranking = None if objective == "cross_entropy" else RankingObjective(objective, **bounds(objective))
    booster = train(params, lgb.Dataset(x_train, y_train, params=params), budget.rounds, objective=ranking)
    return np.asarray(booster.predict(x_test, raw_score=True, num_threads=1), dtype=np.float64)


def _judge(scores: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    if scores.ndim == 2:
        return {"MAUC": float(multiclass_auroc(scores, target))}
    return {
        "AUROC": float(auroc(scores, target)),
        "OPAUC(0.05)": float(opauc(scores, target, MAX_FPR)),
        "TPAUC(0.5, 0.5)": float(tpauc(scores, target, WIDE_FPR, MIN_TPR)),
        "AP": float(average_precision(scores, target)),
    }
