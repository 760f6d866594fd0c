"""Triplets, "the anchor is nearer to this than to that", and quadruples, "these two are nearer than those two"."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.core.validate import warn_once

_NAMES = (("anchor", "near", "far"), ("head", "winner", "loser"), ("query", "positive", "negative"), ("a", "b", "c"))


class TripletTable(NamedTuple):
    """What a file of triplets holds.

    Attributes:
        triplets: (n, 3) int64: anchor, near, far.
        num_items: items there are.
        item_names: their names; None where the file has numbers from 0.
    """

    triplets: Int[Tensor, "n 3"]
    num_items: int
    item_names: tuple[str, ...] | None


@checked
def check_triplets(triplets: Any, num_items: Count | None = None) -> tuple[Int[Tensor, "n 3"], int]:
    """Triplets as (n, 3) int64, and how many items there are.

    Args:
        triplets: (n, 3) whole numbers: anchor, near, far; a tensor, array or list.
        num_items: one more than the largest index by default.

    Raises:
        ValueError: naming the first bad row: none at all, another shape, not whole numbers, an item twice in a row,
            fewer than three items, an index that is negative or not below `num_items`, or indices that seem to count
            from 1.
    """
    return _checked_rows("triplets", triplets, 3, num_items)


@checked
def check_quadruples(quadruples: Any, num_items: Count | None = None) -> tuple[Int[Tensor, "n 4"], int]:
    """Quadruples as (n, 4) int64, and how many items there are.

    Args:
        quadruples: (n, 4) whole numbers i, j, l, k: i and j are nearer than l and k.
        num_items: as in `check_triplets`.

    Raises:
        ValueError: as `check_triplets`; if a pair is of one item, or both pairs are the same.
    """
    return _checked_rows("quadruples", quadruples, 4, num_items)


def as_quadruples(triplets: Int[Tensor, "n 3"]) -> Int[Tensor, "n 4"]:
    """The same answers as quadruples: (anchor, near, anchor, far).

    >>> as_quadruples(torch.tensor([[0, 1, 2]]))
    tensor([[0, 1, 0, 2]])
    """
    return triplets[:, [0, 1, 0, 2]]


@checked
def read_triplets(path: str | Path) -> TripletTable:
    """Read triplets.

    Args:
        path: CSV, TSV or Parquet with the columns anchor, near and far (or head, winner, loser, as adaptive collectors
            write them; or query, positive, negative); or an npz file with an array `triplets` (n, 3) and perhaps
            `responses` as cblearn has them: 1 or True where the second item is the nearer one, −1 or False where the
            third is.

    Rows of a table in which an item stands twice say nothing; they are left out, with a warning.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `check_triplets`; if the columns are not there, a cell is empty, or a response is neither.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return _of_arrays(path)
    from equipoise.data.tables.reading import read_table

    frame = read_table(path, names=lambda name: any(name.strip().lower() in known for known in _NAMES))
    plain = {str(name).strip().lower(): str(name) for name in frame.columns}
    columns = next((names for names in _NAMES if set(names) <= set(plain)), None)
    if columns is None:
        raise ValueError(f"{path} has the columns {', '.join(plain)}; wanted anchor, near and far")
    cells = np.stack([frame[plain[name]].fillna("").astype(str).str.strip() for name in columns], 1)
    if (cells == "").any():
        raise ValueError(f"line {int(np.argmax((cells == '').any(1))) + 2} of {path} has an empty cell")
    names, codes = np.unique(cells, return_inverse=True)
    if all(name.isdecimal() for name in names):
        names = names[np.argsort([int(name) for name in names], kind="stable")]
        place = {name: code for code, name in enumerate(names)}
        codes = np.array([place[cell] for cell in cells.ravel()])
    rows, count = check_triplets(_told(path, codes.reshape(cells.shape)), len(names))
    return TripletTable(rows, count, tuple(str(name) for name in names))


def _told(path: Path, rows: Any) -> Any:
    """The rows that say something: of three different items."""
    void = (rows[:, 0] == rows[:, 1]) | (rows[:, 0] == rows[:, 2]) | (rows[:, 1] == rows[:, 2])
    if void.any():
        warn_once(
            f"{int(void.sum())} of {len(void)} rows of {path} compare an item with itself and are left out, the first "
            f"in line {int(np.argmax(void)) + 2}"
        )
    return rows[~void]


def _of_arrays(path: Path) -> TripletTable:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in ("triplets", "responses") if name in held.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as arrays: {str(error).splitlines()[0]}") from error
    if "triplets" not in arrays:
        raise ValueError(f"{path} has no array 'triplets'")
    rows = np.asarray(arrays["triplets"])
    if "responses" in arrays:
        answers = np.asarray(arrays["responses"])
        if (
            answers.shape != rows.shape[:1]
            or not np.isin(answers, (-1, 0, 1) if answers.dtype == bool else (-1, 1)).all()
        ):
            raise ValueError(f"responses of {path} must be one of 1 and -1, or of True and False, for each triplet")
        rows = np.where((answers == 1)[:, None], rows, rows[:, [0, 2, 1]])
    found, count = check_triplets(rows)
    return TripletTable(found, count, None)


def _checked_rows(name: str, given: Any, width: int, num_items: int | None) -> tuple[Tensor, int]:
    rows = np.asarray(given)
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise ValueError(f"{name} must have shape (n, {width}) with at least one row, got {rows.shape}")
    if rows.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold whole numbers, got {rows.dtype}")
    rows = rows.astype(np.int64)
    same = rows[:, 0] == rows[:, 1]
    if width == 3:
        same |= (rows[:, 0] == rows[:, 2]) | (rows[:, 1] == rows[:, 2])
    else:
        same |= rows[:, 2] == rows[:, 3]
        same |= (np.sort(rows[:, :2], 1) == np.sort(rows[:, 2:], 1)).all(1)
    if same.any():
        row = int(np.argmax(same))
        raise ValueError(f"row {row} of {name} is {rows[row].tolist()}, which compares something with itself")
    least, most = int(rows.min()), int(rows.max())
    if num_items is not None and least == 1 and most == num_items:
        raise ValueError(f"{name} seem to count items from 1; subtract 1")
    if least < 0 or (num_items is not None and most >= num_items):
        wanted = "at least 0" if num_items is None else f"0 to {num_items - 1}"
        row = int(np.argmax(((rows < 0) | (rows > (most if num_items is None else num_items - 1))).any(1)))
        raise ValueError(f"row {row} of {name} is {rows[row].tolist()}, wanted items of {wanted}")
    count = most + 1 if num_items is None else num_items
    if count < 3:
        raise ValueError(f"{name} are of {count} items; at least 3 are needed")
    return torch.from_numpy(rows), count
