"""What in a table would flatter a model: row numbers, names, copies of the target, what is known only afterwards.

What is certain is left out. The rest is a warning: only who knows the table can tell a leak from a good feature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.data.tables.cells import as_dates, as_numbers, as_text
from equipoise.data.tables.columns import column_reading
from equipoise.data.tables.reading import Indices, TableTask

# A column that ranks as well as this by itself is asked about.
_ALONE = 0.98
# Fewer rows, and fewer members of a class, say nothing.
_LEAST_ROWS, _LEAST_MEMBERS = 50, 10
_MOST_ROWS = 50_000
_NUMBERED = re.compile(r"(\D*)\d+")
_HEX = re.compile(r"(?=.*\d)[0-9a-f]{8,}(?:-?[0-9a-f]{4,})*", re.IGNORECASE)
_ID = re.compile(r"(?:.*[\W_])?id|.*[a-z]I[dD]|uuid|guid", re.IGNORECASE)


@dataclass(frozen=True)
class Leaks:
    """What was found.

    Attributes:
        task: the task without the columns that are left out.
        dropped: column → why it is left out.
        warnings: what may be a leak, in sentences.
    """

    task: TableTask
    dropped: dict[str, str]
    warnings: tuple[str, ...]


def find_leaks(task: TableTask, train: Indices, test: Indices) -> Leaks:
    """Look for leaks: columns in the training rows, dates against the task's times, rows on both sides of the split.

    Args:
        task: the table.
        train: training rows; columns are judged on these only.
        test: rows that are tested on.

    >>> frame = pd.DataFrame({"row": range(60), "size": [3.0, 1.0, 2.0] * 20, "y": [0, 1] * 30})
    >>> from equipoise.data import table_task
    >>> find_leaks(table_task(frame, target="y"), np.arange(50), np.arange(50, 60)).dropped
    {'row': 'it counts the rows'}
    """
    found = {str(name): _certain(str(name), column, task, train) for name, column in task.features.items()}
    dropped = {name: why for name, why in found.items() if why}
    if len(dropped) == len(found):
        raise ValueError(
            f"no column is left to predict from: {', '.join(f'{name!r} ({why})' for name, why in dropped.items())}"
        )
    kept = replace(task, features=task.features.drop(columns=list(dropped)))
    warnings = [f"column {name!r} is left out: {why}." for name, why in dropped.items()]
    for name, column in kept.features.items():
        alone = _alone(column, task.target, train)
        if alone >= _ALONE:
            warnings.append(
                f"column {name!r} alone reaches AUROC {alone:.3f}: does it hold what is known only afterwards?"
            )
        later = _later(column, task)
        if later:
            warnings.append(f"column {name!r} holds dates after the row's time in {later} of {len(task)} rows.")
    crossing = _crossing(kept.features, train, test)
    if crossing:
        warnings.append(
            f"{crossing} of {len(test)} test rows have the features of a training row: if they are copies, drop them "
            "or keep them together with --group."
        )
    return Leaks(kept, dropped, tuple(warnings))


def _certain(name: str, column: pd.Series, task: TableTask, train: Indices) -> str:
    rows = len(column)
    if rows < _LEAST_ROWS:
        return ""
    numbers = as_numbers(column)
    if bool((np.abs(np.diff(numbers)) == 1).all()) and abs(numbers[-1] - numbers[0]) == rows - 1:
        return "it counts the rows"
    text = as_text(column)
    if _copies(text.iloc[train], task.target[train]):
        return f"it is a copy of {task.target_name!r}"
    if text.nunique() == rows and (_ID.fullmatch(name) or _identifiers(text)):
        return "it is an identifier, different in every row"
    return ""


def _copies(text: pd.Series, target: Indices) -> bool:
    """Whether every value stands for one class and every class for one value."""
    if text.nunique(dropna=False) != len(np.unique(target)):
        return False
    counts = pd.crosstab(text.fillna("").to_numpy(), target).to_numpy()
    held = counts > 0
    return bool((held.sum(0) == 1).all() and (held.sum(1) == 1).all() and counts[held].min() >= _LEAST_MEMBERS)


def _identifiers(text: pd.Series) -> bool:
    """Whether all are one prefix with a number, or hexadecimal."""
    if pd.to_numeric(text, errors="coerce").notna().any():
        return False
    numbered = [_NUMBERED.fullmatch(cell) for cell in text]
    if all(numbered):
        return len({found[1] for found in numbered if found}) == 1
    return all(_HEX.fullmatch(cell) for cell in text)


def _alone(column: pd.Series, target: Indices, train: Indices) -> float:
    """The AUROC of one column over training rows, the mean over classes against the rest; at least .5."""
    rows = train[np.linspace(0, len(train) - 1, min(len(train), _MOST_ROWS)).astype(int)]
    column, codes = column.iloc[rows].reset_index(drop=True), target[rows]
    counts = np.bincount(codes)
    classes = np.flatnonzero((counts >= _LEAST_MEMBERS) & (len(codes) - counts >= _LEAST_MEMBERS))
    if len(codes) < _LEAST_ROWS or not len(classes):
        return 0.5
    reading = column_reading(column)
    read = reading.read(column)
    areas = []
    for code in classes:
        positive = codes == code
        gaps = read.isna().to_numpy()
        candidates = [gaps.astype(float)]
        if reading.kind == "text":
            candidates.append(_shares(read, positive))
        else:
            values = as_dates(read).astype(np.int64) if reading.kind == "date" else read
            candidates.append(values.rank().fillna(0).to_numpy(dtype=float))
        areas.append(max(abs(_area(scores, positive) - 0.5) + 0.5 for scores in candidates))
    return float(np.mean(areas))


def _shares(text: pd.Series, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Per row the share of positives among rows of the same value in the other half: every second row."""
    half = np.arange(len(text)) % 2 == 0
    scores = np.full(len(text), positive.mean())
    for own in (half, ~half):
        shares = pd.Series(positive[~own]).groupby(text[~own].to_numpy(), dropna=False).mean()
        scores[own] = text[own].map(shares).fillna(positive.mean()).to_numpy(dtype=float)
    return scores


def _area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    ranks = pd.Series(scores).rank().to_numpy()
    pos, neg = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - pos * (pos + 1) / 2) / (pos * neg))


def _later(column: pd.Series, task: TableTask) -> int:
    """Rows in which a date lies after the task's time, where both are dates."""
    if task.times is None or len(task) < _LEAST_ROWS or np.abs(task.times).max() < 1e15:
        return 0  # times of dates are nanoseconds
    reading = column_reading(column)
    if reading.kind != "date":
        return 0
    dates = as_dates(reading.read(column))
    return int((dates.notna().to_numpy() & (dates.astype(np.int64).to_numpy() > task.times)).sum())


def _crossing(features: pd.DataFrame, train: Indices, test: Indices) -> int:
    hashes = pd.util.hash_pandas_object(features.astype(object).map(str), index=False).to_numpy()
    return int(np.isin(hashes[test], hashes[train]).sum())
