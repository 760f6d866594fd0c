"""A table of many tasks in three parts, every task in each of them, as standardised matrices."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from equipoise.data.tables.reading import group_codes, read_table, table_task
from equipoise.workflows.errors import InputError
from equipoise.workflows.multitask.request import MultitaskRequest

if TYPE_CHECKING:
    import pandas as pd

    from equipoise.data.tables.encoding import TableEncoder

Vector = NDArray[np.float64]
_LEAST = 3


@dataclass(frozen=True, eq=False)
class TaskTable:
    """The rows of all tasks.

    Attributes:
        frame: the columns to predict from.
        y: (n,) numbers; of two classes 1 for the positive one and 0.
        task: (n,) number of the task.
        names: of the tasks.
        part: (n,) 0 to learn from, 1 to choose by, 2 to judge by.
        classes: the negative and the positive value; None where the target is a number.
        left_out: rows of tasks that are too small.
        notes: what was decided.
    """

    frame: pd.DataFrame
    y: Vector
    task: NDArray[np.int64]
    names: tuple[str, ...]
    part: NDArray[np.int64]
    classes: tuple[Any, Any] | None
    left_out: int
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scaled:
    """Rows as matrices, by what training rows say of their columns and targets.

    Attributes:
        x: (n, d) standardised features.
        y: (n,) target; of a number less the mean of the task in training, divided by the spread of all.
        centre: (tasks,) that mean.
        spread: of the target within tasks.
        names: of the features.
        encoder: that made them.
        mean: (d,) of the features.
        scale: (d,) of the features.
    """

    x: Vector
    y: Vector
    centre: Vector
    spread: float
    names: tuple[str, ...]
    encoder: TableEncoder
    mean: Vector
    scale: Vector


def read_tasks_table(path: str | Path, request: MultitaskRequest) -> TaskTable:
    """Read it and divide the rows of each task.

    Raises:
        InputError: if columns are not there, or no two tasks are large enough.
    """
    import pandas as pd

    frame = read_table(path, names=lambda name: name == request.task)
    columns = [str(name) for name in frame.columns]
    for role, name in (("task", request.task), ("target", request.target)):
        if name not in columns:
            close = get_close_matches(name, columns, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, columns[:8]))}"
            raise InputError(f"{role} column {name!r} is not in {path}; {hint}")
    if request.task == request.target:
        raise InputError(f"column {request.task!r} cannot be both task and target")
    features = frame.drop(columns=[request.task, request.target])
    if not features.shape[1]:
        raise InputError(f"{path} has no columns besides {request.task!r} and {request.target!r} to predict from")
    codes, notes = group_codes(request.task, frame[request.task])
    first = pd.Series(codes).drop_duplicates()
    names = [str(frame[request.task].iloc[place]) for place in first.index]
    y, classes, decided = _target(frame, request)
    counts = np.bincount(codes)
    large = np.flatnonzero(counts >= max(request.min_rows, _LEAST))
    if len(large) < 2:
        raise InputError(
            f"{len(large)} tasks of column {request.task!r} have {request.min_rows} rows or more, wanted at least two; "
            "lower --min-rows, or name another column"
        )
    kept = np.isin(codes, large)
    number = np.full(len(counts), -1)
    number[large] = np.arange(len(large))
    task = number[codes[kept]]
    part = _parts(task, y[kept] if classes is not None else None, request.test_size, request.seed)
    return TaskTable(
        features[kept].reset_index(drop=True),
        y[kept],
        task,
        tuple(names[place] for place in large),
        part,
        classes,
        int((~kept).sum()),
        (*notes, *decided),
    )


def scaled(table: TaskTable, rows: NDArray[np.bool_]) -> Scaled:
    """All rows as matrices, with what only the given ones say of them."""
    from equipoise.data.tables.encoding import make_encoder

    encoder = make_encoder("neural")
    encoder.fit(table.frame[rows])
    matrix = encoder.transform(table.frame).astype(np.float64)
    mean, scale = matrix[rows].mean(0), matrix[rows].std(0)
    moves = scale > 1e-12
    x = (matrix[:, moves] - mean[moves]) / scale[moves]
    names = tuple(str(name) for name, moving in zip(encoder.vectorizer_.all_outputs_, moves, strict=True) if moving)
    centre, spread = np.zeros(len(table.names)), 1.0
    y = table.y
    if table.classes is None:
        sums = np.bincount(table.task[rows], table.y[rows], len(centre))
        centre = sums / np.bincount(table.task[rows], minlength=len(centre))
        spread = float((table.y - centre[table.task])[rows].std()) or 1.0
        y = (table.y - centre[table.task]) / spread
    return Scaled(x, y, centre, spread, names, encoder, mean[moves], scale[moves])


def _target(frame: pd.DataFrame, request: MultitaskRequest) -> tuple[Vector, tuple[Any, Any] | None, tuple[str, ...]]:
    import pandas as pd

    column = frame[request.target]
    distinct = column.dropna().unique()
    if len(distinct) == 2 or request.positive is not None:
        found = table_task(frame, target=request.target, positive=request.positive)
        return found.target.astype(np.float64), (found.classes[0], found.classes[1]), found.notes
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(np.argmax(bad))
        value = column.iloc[row].item() if isinstance(column.iloc[row], np.generic) else column.iloc[row]
        raise InputError(
            f"target column {request.target!r} holds {value!r} in row {row} (from 0), wanted a number "
            "in every row, or two values; with more values name one of them with --positive"
        )
    if len(distinct) < 2:
        raise InputError(f"target column {request.target!r} holds one value only")
    return numbers, None, ()


def _parts(task: NDArray[np.int64], labels: Vector | None, share: float, seed: int) -> NDArray[np.int64]:
    """Parts in every task, of each class in turn; the first row of a task, and of each class, is learned from."""
    generator = np.random.default_rng(seed)
    part = np.zeros(len(task), dtype=np.int64)
    for number in range(int(task.max()) + 1):
        mine = np.flatnonzero(task == number)
        kinds = [mine] if labels is None else [mine[labels[mine] == value] for value in np.unique(labels[mine])]
        order = np.concatenate([generator.permutation(rows) for rows in kinds])
        # Evenly spaced along the classes, so that each part has its share of them.
        begin = generator.random()
        place = (np.arange(len(order)) * share + begin) % 1.0
        held = np.flatnonzero(place + share >= 1.0)
        held = held if len(held) else np.array([len(order) - 1])
        part[order[held]] = 2
        rest = order[part[order] == 0]
        choosing = generator.permutation(len(rest))[: max(1, round(share * len(order)))]
        part[rest[choosing[: len(rest) - 1]]] = 1
    return part
