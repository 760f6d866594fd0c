"""Parquet files larger than memory: row groups are read a few at a time and counted into sketches.

A file, a folder of parts or a pattern is cut into tasks of neighbouring row groups. The tasks do not depend on who
carries them out, and their sketches are merged in the order of the file; so one thread, many, and the machines of a Ray
cluster come to the same result, to the last digit.
"""

from __future__ import annotations

import glob
import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equipoise.core.curves.sketch import CurveSketch
from equipoise.workflows.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

# Files of more rows are streamed without being asked for it.
STREAM_ROWS = 5_000_000
_ENDINGS = (".parquet", ".pq")
# A task ends with the row group that completes so many rows, and sorts and counts so many of them at once.
_TASK_ROWS, _COUNT_ROWS = 1 << 23, 1 << 22
_READ_ROWS = 1 << 20
_MOST_LABELS = 1000

States = dict[str, dict[str, Tensor]]
# Like `map`: the results of a work on each task, in the order of the tasks.
_CarryOut = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


@dataclass(frozen=True)
class Part:
    """A Parquet file and how many rows each of its row groups has."""

    path: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """Neighbouring row groups of one file, and what to count in them."""

    path: str
    groups: tuple[int, ...]
    target: str
    positive: Any
    scores: tuple[str, ...]


@dataclass(frozen=True)
class Streamed:
    """What was counted.

    Attributes:
        sketches: score column → its sketch.
        labels: value of the target → number of rows, the negative values first.
        positive: the value that counts as positive.
        files: how many files were read.
        groups: how many row groups they have.
    """

    sketches: Mapping[str, CurveSketch]
    labels: Mapping[Any, int]
    positive: Any
    files: int
    groups: int


def find_parts(path: str | Path) -> tuple[Part, ...]:
    """The Parquet files that a file name, a folder or a pattern stands for, in the order of their names.

    Empty where `path` is a file of another kind.

    Raises:
        InputError: if a folder or pattern has no Parquet files, or one cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _ENDINGS and not _hidden(f, path))
    elif path.exists():
        files = [path] if path.suffix.lower() in _ENDINGS else []
        if not files:
            return ()
    elif glob.has_magic(str(path)):
        root = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
        found = map(Path, glob.glob(str(path), recursive=True))
        files = sorted(f for f in found if _hidden(path, root) or not _hidden(f, root))
    else:
        return ()
    if not files:
        raise InputError(f"{path} holds no Parquet files; wanted names that end with .parquet")
    return tuple(_part(file) for file in files)


def _hidden(file: Path, root: Path) -> bool:
    """Whether it is a note or an unfinished part of the program that wrote the folder: `_temporary/`, `.part`."""
    return any(name[0] in "._" for name in file.relative_to(root).parts)


def stream_scores(
    parts: Sequence[Part],
    *,
    target: str,
    score: Sequence[str],
    positive: str | None = None,
    workers: int | None = None,
    ray: bool = False,
) -> Streamed:
    """Count the scores of Parquet files, without ever holding more than a few row groups.

    Args:
        parts: the files, as `find_parts` finds them.
        target: column of true labels.
        score: columns of scores, higher meaning more positive.
        positive: the label that counts as positive; by default 1 or True, else the rarer one.
        workers: threads that read and count; one for each core if absent.
        ray: let the machines of a Ray cluster do it (the one of `RAY_ADDRESS`, else one that is started here); they
            must find the files under the same names.

    Raises:
        InputError: if a column is absent or of the wrong kind, a label is missing or a third one, or a score is missing
            or infinite, with the row group named; or if Ray is wanted and not installed.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} must be at least 1")
    columns = tuple(dict.fromkeys(score))
    for part in parts:
        _check_columns(part, target, columns)
    sketches = {name: CurveSketch() for name in columns}
    with _ray_cluster() if ray else _threads(workers or _cores()) as carry_out:
        labels, chosen = _classes(parts, target, positive, carry_out)
        tasks = [
            Task(part.path, groups, target, chosen, columns)
            for part in parts
            for groups in _neighbours(part, _TASK_ROWS)
        ]
        for states in carry_out(run_task, tasks):
            for name, state in states.items():
                merged = CurveSketch()
                merged.load_state_dict(state)
                sketches[name].merge(merged)
    return Streamed(sketches, labels, chosen, len(parts), sum(len(part.rows) for part in parts))


def run_task(task: Task) -> States:
    """Read the row groups of a task and return the states of its sketches.

    Raises:
        InputError: if a score is missing or infinite.
    """
    import pyarrow.compute as pc

    sketches = {name: CurveSketch() for name in task.scores}
    waiting: list[tuple[np.ndarray, list[np.ndarray]]] = []
    rows = 0

    def count() -> None:
        if not waiting:
            return
        positive = torch.from_numpy(np.concatenate([part for part, _ in waiting]))
        for index, sketch in enumerate(sketches.values()):
            sketch.update(torch.from_numpy(np.concatenate([parts[index] for _, parts in waiting])), positive)
        waiting.clear()

    for group, table in _batches(task.path, task.groups, [task.target, *task.scores]):
        labels = _plain(table.column(task.target))
        is_positive = pc.equal(labels, _scalar(task.positive, labels.type)).to_numpy(zero_copy_only=False)
        waiting.append((is_positive, [_finite(table.column(name), name, task.path, group) for name in task.scores]))
        rows += len(is_positive)
        if rows >= _COUNT_ROWS:
            count()
            rows = 0
    count()
    return {name: sketch.state_dict() for name, sketch in sketches.items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(path: str | Path) -> Any:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return pq.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _part(path: Path) -> Part:
    with _open(path) as file:
        found = file.metadata
        return Part(str(path), tuple(found.row_group(k).num_rows for k in range(found.num_row_groups)))


def _check_columns(part: Part, target: str, columns: Sequence[str]) -> None:
    import pyarrow.types as kinds

    with _open(part.path) as file:
        schema = file.schema_arrow
    for name in (target, *columns):
        if name not in schema.names:
            close = get_close_matches(name, schema.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the file has {', '.join(schema.names)}"
            raise InputError(f"there is no column {name!r} in {part.path}; {hint}")
    for name in columns:
        kind = schema.field(name).type
        if not (kinds.is_floating(kind) or kinds.is_integer(kind) or kinds.is_boolean(kind) or kinds.is_decimal(kind)):
            raise InputError(f"column {name!r} of {part.path} holds {kind}, no numbers; give a column of scores")


def _batches(path: str, groups: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each row group, a million at a time; large row groups are never read whole."""
    from pyarrow import ArrowException

    with _open(path) as file:
        for group in groups:
            try:
                for batch in file.iter_batches(_READ_ROWS, row_groups=[group], columns=columns, use_threads=False):
                    yield group, batch
            except (ArrowException, OSError) as error:
                words = f"row group {group} of {path} cannot be read: {str(error).splitlines()[0]}"
                raise InputError(words) from error


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(value, type=kind)


def _finite(column: pa.Array, name: str, path: str, group: int) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_decimal(column.type) or pa.types.is_boolean(column.type):
        column = column.cast(pa.int8() if pa.types.is_boolean(column.type) else pa.float64())
    values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    bad = len(values) - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(
            f"column {name!r} holds {bad} missing or infinite scores in row group {group} of {path}; drop those rows"
        )
    return values


def _neighbours(part: Part, rows: int) -> Iterator[tuple[int, ...]]:
    """Row groups in runs of at least so many rows."""
    run: list[int] = []
    held = 0
    for group, size in enumerate(part.rows):
        run.append(group)
        held += size
        if held >= rows:
            yield tuple(run)
            run, held = [], 0
    if run:
        yield tuple(run)


def _classes(
    parts: Sequence[Part], target: str, positive: str | None, carry_out: _CarryOut
) -> tuple[dict[Any, int], Any]:
    """The values of the target with their rows, and the one that counts as positive."""
    runs = [(part.path, groups, target) for part in parts for groups in _neighbours(part, _TASK_ROWS)]
    counts: dict[Any, int] = {}
    for found in carry_out(_labels, runs):
        for value, rows in found.items():
            counts[value] = counts.get(value, 0) + rows
    if not counts:
        raise InputError(f"{parts[0].path} has no rows")
    if positive is None and counts.keys() == {0, 1}:
        # True is 1. Tables need pandas, which takes as long to import as millions of rows to count.
        return {value: counts[value] for value in sorted(counts)}, max(counts)
    if positive is None and len(counts) > 2:
        raise InputError(
            f"column {target!r} has {len(counts)} classes; evaluate judges two, so name the one of interest with "
            "--positive"
        )
    import pandas as pd

    from equipoise.data import table_task

    # The rarest value once and every other twice: a table that small decides as the whole file would.
    rarest = min(counts, key=lambda value: counts[value])
    equal = len(set(counts.values())) == 1
    few = [value for value in counts for _ in range(1 if value == rarest or equal else 2)]
    try:
        frame = pd.DataFrame({target: pd.Series(few, dtype=object), f"{target} ": 0})
        task = table_task(frame, target=target, positive=positive)
    except ValueError as error:
        raise InputError(str(error)) from error
    chosen = task.positive
    ordered = [value for value in counts if value != chosen] + [value for value in counts if value == chosen]
    return {value: counts[value] for value in ordered}, chosen


def _labels(run: tuple[str, Sequence[int], str]) -> dict[Any, int]:
    """How often each label occurs.

    Raises:
        InputError: if a label is missing, or there are so many that they are no labels.
    """
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    path, groups, target = run
    counts: dict[Any, int] = {}
    for group, table in _batches(path, groups, [target]):
        if kinds.is_integer(table.column(0).type) and not table.column(0).null_count:
            # Zeros and ones, which nearly all labels are, are counted in a tenth of the time.
            values = table.column(0).to_numpy()
            zeros, ones = int(np.count_nonzero(values == 0)), int(np.count_nonzero(values == 1))
            if zeros + ones == len(values):
                for value, rows in ((0, zeros), (1, ones)):
                    if rows:
                        counts[value] = counts.get(value, 0) + rows
                continue
        for found in pc.value_counts(_plain(table.column(0))).to_pylist():
            value, rows = found["values"], found["counts"]
            if value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == "":
                raise InputError(f"target column {target!r} has no value in {rows} rows of row group {group} of {path}")
            counts[value] = counts.get(value, 0) + rows
        if len(counts) > _MOST_LABELS:
            raise InputError(
                f"target column {target!r} holds more than {_MOST_LABELS} different values; it is no column of labels"
            )
    return counts


@contextmanager
def _threads(workers: int) -> Iterator[_CarryOut]:
    """Threads of this process: reading, sorting and searching leave Python's lock to others."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ray_cluster() -> Iterator[_CarryOut]:
    """The machines of a Ray cluster, which is started here where there is none."""
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise InputError("--ray needs Ray, which is not installed; run `pip install 'equipoise[ray]'`") from error

    def carry_out(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        remote = ray.remote(_told)
        pending = [remote.remote(work, task) for task in tasks]
        return (_or_raise(ray.get(task)) for task in pending)

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        yield carry_out
    finally:
        if ours:
            ray.shutdown()


def _told(work: Callable[[Any], Any], task: Any) -> tuple[Any, str]:
    """The result, or what the user has to mend: an exception would come back wrapped in Ray's own."""
    try:
        return work(task), ""
    except InputError as error:
        return None, str(error)


def _or_raise(told: tuple[Any, str]) -> Any:
    found, words = told
    if words:
        raise InputError(words)
    return found
