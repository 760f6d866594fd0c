"""A file with several blocks of features, in three parts with every class in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.data.tables.reading import read_table
from equipoise.workflows.array_file import opened_arrays
from equipoise.workflows.errors import InputError
from equipoise.workflows.fuse.request import FuseRequest

_MOST_CLASSES = 1000
_LEAST = 3


@dataclass(frozen=True, eq=False)
class Blocks:
    """Features of all modalities, and classes, of the same rows.

    Attributes:
        x: block → (n, d) float32; NaN where not known.
        y: (n,) class codes.
        classes: what each code stands for.
        columns: block → names of its features.
        part: (n,) 0 to learn from, 1 to choose by, 2 to judge by.
        notes: what was decided.
    """

    x: dict[str, NDArray[np.float32]]
    y: NDArray[np.int64]
    classes: tuple[Any, ...]
    columns: dict[str, tuple[str, ...]]
    part: NDArray[np.int64]
    notes: tuple[str, ...]


def read_blocks(path: str | Path, request: FuseRequest) -> Blocks:
    """Read a table whose columns start with the names of blocks, or an .npz file with an array for each.

    Raises:
        InputError: if a block or the target is not there, features are no numbers, or a class is too small.
    """
    path = Path(path)
    read = _from_arrays if path.suffix.lower() == ".npz" else _from_table
    x, columns, labels, notes = read(path, request)
    classes, y = _classes(labels, request.target)
    for name, values in x.items():
        if not np.isfinite(values).any():
            raise InputError(f"block {name!r} of {path} holds no number; leave it out of --blocks")
    missing = {name: int((~np.isfinite(values)).any(1).sum()) for name, values in x.items()}
    notes += [
        f"features that are not known, in {rows:,} of the rows of {name}, count as their mean"
        for name, rows in missing.items()
        if rows
    ]
    part = _parts(y, classes, request.test_size, request.seed)
    return Blocks(x, y, classes, columns, part, tuple(notes))


_Read = tuple[dict[str, NDArray[np.float32]], dict[str, tuple[str, ...]], NDArray[Any], list[str]]


def _from_table(path: Path, request: FuseRequest) -> _Read:
    import pandas as pd

    frame = read_table(path)
    names = [str(name) for name in frame.columns]
    if request.target not in names:
        raise InputError(f"target column {request.target!r} is not in {path}; {_hint(request.target, names)}")
    if not request.blocks:
        raise InputError(
            "name the blocks with --blocks, the starts of column names: audio visual for audio_1, visual_1"
        )
    x, columns, taken = {}, {}, {request.target}
    # The longest start first, so that audio_left is no column of audio.
    for block in sorted(request.blocks, key=len, reverse=True):
        start = block if block.endswith("_") else f"{block}_"
        mine = [name for name in names if name.startswith(start) and name not in taken]
        if not mine:
            starts = sorted({name.rpartition("_")[0] for name in names if "_" in name})
            raise InputError(f"no column of {path} starts with {start!r}; {_hint(block, starts or names)}")
        taken |= set(mine)
        for name in mine:
            if not pd.api.types.is_numeric_dtype(frame[name].dtype):
                found = frame[name].dropna().iloc[:1].tolist()
                raise InputError(f"column {name!r} holds {found[0] if found else None!r}, wanted numbers; encode it")
        x[block] = frame[mine].to_numpy(dtype=np.float32, na_value=np.nan)
        columns[block] = tuple(mine)
    left = [name for name in names if name not in taken]
    notes = (
        [f"columns that belong to no block are left out: {', '.join(left[:5])}{' and others' * (len(left) > 5)}"]
        if left
        else []
    )
    labels = frame[request.target]
    if labels.isna().any():
        raise InputError(f"target column {request.target!r} is empty in row {int(labels.isna().argmax())} (from 0)")
    return {name: x[name] for name in request.blocks}, columns, labels.to_numpy(), notes


def _from_arrays(path: Path, request: FuseRequest) -> _Read:
    with opened_arrays(path) as held:
        names = list(held)
        if request.target not in names:
            raise InputError(f"target array {request.target!r} is not in {path}; {_hint(request.target, names)}")
        labels = held[request.target]
        wanted = list(request.blocks) or [name for name in names if name != request.target]
        x = {}
        for name in wanted:
            if name not in names:
                raise InputError(f"there is no array {name!r} in {path}; {_hint(name, names)}")
            x[name] = _matrix(name, held[name], len(labels) if labels.ndim else 0, path)
    if labels.ndim != 1 or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
        raise InputError(f"target array {request.target!r} has shape {labels.shape}, wanted a class for each row")
    left = [name for name in names if name not in (*x, request.target)]
    notes = (
        [f"arrays that belong to no block are left out: {', '.join(left[:5])}{' and others' * (len(left) > 5)}"]
        if left
        else []
    )
    columns = {name: tuple(f"{name}[{k}]" for k in range(values.shape[1])) for name, values in x.items()}
    return x, columns, labels, notes


def _matrix(name: str, values: NDArray[Any], rows: int, path: Path) -> NDArray[np.float32]:
    if values.ndim < 1 or values.dtype.kind not in "fiub" or len(values) != rows:
        raise InputError(
            f"array {name!r} of {path} has shape {values.shape} of {values.dtype}, wanted numbers in {rows:,} rows; "
            "name the right ones with --blocks"
        )
    flat = values.reshape(rows, -1).astype(np.float32)
    if not flat.shape[1]:
        raise InputError(f"array {name!r} of {path} has no features")
    return flat


def _classes(labels: NDArray[Any], target: str) -> tuple[tuple[Any, ...], NDArray[np.int64]]:
    if labels.dtype == object:
        labels = np.array([str(label) for label in labels])
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"target {target!r} holds one value only")
    if labels.dtype.kind == "f" and (classes != np.round(classes)).any():
        raise InputError(f"target {target!r} holds {classes[0]}, wanted classes; numbers are not predicted here")
    if len(classes) > _MOST_CLASSES:
        raise InputError(f"target {target!r} holds {len(classes):,} values, wanted at most {_MOST_CLASSES:,} classes")
    return tuple(classes.tolist()), y.reshape(-1).astype(np.int64)


def _parts(y: NDArray[np.int64], classes: Sequence[Any], share: float, seed: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    part = np.zeros(len(y), dtype=np.int64)
    for code, name in enumerate(classes):
        rows = generator.permutation(np.flatnonzero(y == code))
        if len(rows) < _LEAST:
            raise InputError(f"class {name!r} has {len(rows)} rows, wanted {_LEAST} at least; leave it out, or join it")
        held = max(1, round(share * len(rows)))
        part[rows[:held]], part[rows[held : 2 * held]] = 2, 1
        part[rows[-1]] = 0
    return part


def _hint(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, known[:8]))}"
