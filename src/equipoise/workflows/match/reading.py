"""Embeddings of two modalities from files, with identities and groups that mean the same in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.data import read_table
from equipoise.workflows.array_file import opened_arrays
from equipoise.workflows.errors import InputError, mendable

_EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class Modality:
    """One file.

    Attributes:
        name: of the file, without its ending.
        embeddings: (n, d) float32 or float64.
        identity: (n,) codes that both files share.
        group: (n,) codes that both files share, or None.
    """

    name: str
    embeddings: Tensor
    identity: Tensor
    group: Tensor | None


@dataclass(frozen=True)
class Modalities:
    """Both files.

    Attributes:
        first: of them.
        second: of them.
        groups: the name of each code of a group.
    """

    first: Modality
    second: Modality
    groups: tuple[str, ...]


def read_modalities(first: Path, second: Path, identity: str, group: str | None) -> Modalities:
    """Read both files.

    Raises:
        InputError: if they cannot be read, or do not go together.
    """
    read = [_read(path, identity, group) for path in (first, second)]
    columns = [set(each.numbers) for each in read]
    if all(columns) and columns[0] == columns[1]:
        # The same names in another order.
        read[1] = read[1].in_order(read[0].numbers)
    widths = [each.values.shape[1] for each in read]
    if widths[0] != widths[1]:
        raise InputError(
            f"{first} has embeddings of {widths[0]} numbers, {second} of {widths[1]}; both must be in one space"
        )
    codes = _codes([each.identity for each in read])[0]
    if not set(codes[0].tolist()) & set(codes[1].tolist()):
        raise InputError(f"no value of {identity!r} stands in both files, so that nothing can be matched")
    groups: list[Tensor] | list[None] = [None, None]
    names: tuple[str, ...] = ()
    if group is not None:
        groups, names = _codes([each.group for each in read])
    names_of_files = [path.stem for path in (first, second)]
    if names_of_files[0] == names_of_files[1]:
        names_of_files = [str(path) for path in (first, second)]
    sides = [
        Modality(name, torch.from_numpy(each.values), code, held)
        for name, each, code, held in zip(names_of_files, read, codes, groups, strict=True)
    ]
    return Modalities(sides[0], sides[1], names)


@dataclass(frozen=True)
class _Read:
    values: NDArray[Any]
    numbers: list[str]
    identity: NDArray[Any]
    group: NDArray[Any] | None

    def in_order(self, names: list[str]) -> _Read:
        places = [self.numbers.index(name) for name in names]
        return _Read(np.ascontiguousarray(self.values[:, places]), names, self.identity, self.group)


def _read(path: Path, identity: str, group: str | None) -> _Read:
    with mendable():
        if path.suffix.lower() == ".npz":
            return _of_arrays(path, identity, group)
        frame = read_table(path, names=lambda name: name in (identity, group))
    labels = []
    for name in (identity, *([group] if group is not None else [])):
        if name not in frame.columns:
            raise InputError(f"{path} has no column {name!r}; it has {_listed(frame.columns)}")
        labels.append(_labels(path, name, frame.pop(name)))
    numbers = frame.select_dtypes(include=["number"], exclude=["timedelta"])
    if not numbers.shape[1]:
        raise InputError(f"{path} has no columns of numbers; an embedding is a column for each of its numbers")
    values = numbers.to_numpy(dtype=np.float64)
    return _Read(_finite(path, values), list(map(str, numbers.columns)), labels[0], labels[1] if group else None)


def _of_arrays(path: Path, identity: str, group: str | None) -> _Read:
    with opened_arrays(path) as found:
        held = {name: found[name] for name in found.files}
    for name in (_EMBEDDINGS, identity, *([group] if group is not None else [])):
        if name not in held:
            raise InputError(f"{path} has no array {name!r}; it has {_listed(held)}")
    values = held[_EMBEDDINGS]
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise InputError(f"{_EMBEDDINGS} of {path} must be numbers in rows, got {values.dtype} {values.shape}")
    labels = []
    for name in (identity, *([group] if group is not None else [])):
        if held[name].shape != values.shape[:1]:
            raise InputError(f"{name} of {path} has shape {held[name].shape}, wanted {values.shape[:1]}, one a row")
        labels.append(_labels(path, name, pd.Series(held[name])))
    kept = values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
    return _Read(np.ascontiguousarray(_finite(path, kept)), [], labels[0], labels[1] if group else None)


def _finite(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    bad = int((~np.isfinite(values)).any(1).sum())
    if bad:
        raise InputError(f"{path} has {bad} rows with missing or infinite numbers; drop them first")
    empty = int((values == 0).all(1).sum())
    if empty:
        raise InputError(f"{path} has {empty} rows of zeros, which are near to nothing and far from nothing; drop them")
    return values


def _labels(path: Path, name: str, column: pd.Series) -> NDArray[Any]:
    missing = int(column.isna().sum())
    if missing:
        raise InputError(f"column {name!r} of {path} is empty in {missing} rows; drop them or fill them in")
    # A number that one file holds as 7 and the other as 7.0 is the same; what is no number is what is written.
    if pd.api.types.is_float_dtype(column) and bool((column % 1 == 0).all()):
        column = column.astype(np.int64)
    return column.astype(str).to_numpy(dtype=object)


def _codes(sides: list[Any]) -> tuple[list[Tensor], tuple[str, ...]]:
    codes, names = pd.factorize(np.concatenate(sides), sort=True)
    cut = len(sides[0])
    return [torch.from_numpy(each.astype(np.int64)) for each in (codes[:cut], codes[cut:])], tuple(map(str, names))


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
