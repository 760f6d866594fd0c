"""Pairwise comparisons of items by annotators, in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Who preferred what to what. Equal rows are kept: a pair may be asked often.

    Build it with `from_columns` or `equipoise.data.read_comparisons`.

    Attributes:
        annotator: (n,) int64.
        left: (n,) int64, the item that label 1 prefers.
        right: (n,) int64.
        label: (n,) int64: 1 for left, −1 for right, 0 for a tie.
        weight: (n,) float64, how often the answer was given.
        num_annotators: annotators there are.
        num_items: items there are, whether they were compared or not.
        annotator_names: their names, or None.
        item_names: likewise.

    >>> said = Comparisons.from_columns([0, 0, 1], [0, 1, 0], [1, 2, 1], [1, 0, -1])
    >>> said.num_annotators, said.num_items, said.components().tolist()
    (2, 3, [0, 0, 0])
    """

    annotator: Int[Tensor, " n"]
    left: Int[Tensor, " n"]
    right: Int[Tensor, " n"]
    label: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]
    num_annotators: int
    num_items: int
    annotator_names: tuple[str, ...] | None = None
    item_names: tuple[str, ...] | None = None

    @classmethod
    def from_columns(
        cls,
        annotator: Any,
        left: Any,
        right: Any,
        label: Any,
        weight: Any = None,
        *,
        num_annotators: int | None = None,
        num_items: int | None = None,
        annotator_names: Sequence[str] | None = None,
        item_names: Sequence[str] | None = None,
    ) -> Comparisons:
        """Comparisons from columns of equal length.

        Args:
            annotator: (n,) indices, a tensor, array or list; None where nobody is named, which is one annotator.
            left: (n,) item indices.
            right: (n,) item indices.
            label: (n,) of 1, −1 and 0.
            weight: (n,) greater than 0; 1 by default.
            num_annotators: one more than the largest index by default.
            num_items: likewise.
            annotator_names: one for each annotator.
            item_names: one for each item.

        Raises:
            ValueError: naming the first bad row (from 0): lengths that differ, no rows, an item beside itself, a label
                that is none, a weight that is not finite and positive.
            IndexError: if an index is negative or not below the size.
        """
        sides = {"left": _whole("left", left), "right": _whole("right", right)}
        count = len(sides["left"])
        who = np.zeros(count, dtype=np.int64) if annotator is None else _whole("annotator", annotator)
        answers = _whole("label", label)
        strengths = np.ones(count) if weight is None else np.asarray(weight, dtype=np.float64)
        for name, column in {"right": sides["right"], "annotator": who, "label": answers, "weight": strengths}.items():
            if column.shape != (count,):
                raise ValueError(f"{name} has shape {column.shape}, left has {count} rows")
        if not count:
            raise ValueError("there are no comparisons")
        _refuse("label", answers, ~np.isin(answers, (-1, 0, 1)), "wanted 1 (left), -1 (right) or 0 (tie)")
        _refuse("left", sides["left"], sides["left"] == sides["right"], "the same item as right; leave the row out")
        _refuse("weight", strengths, ~(np.isfinite(strengths) & (strengths > 0)), "wanted a number greater than 0")
        annotators = _size("annotator", who, num_annotators, annotator_names)
        items = max(_size(name, column, num_items, item_names) for name, column in sides.items())
        return cls(
            torch.from_numpy(np.ascontiguousarray(who)),
            torch.from_numpy(np.ascontiguousarray(sides["left"])),
            torch.from_numpy(np.ascontiguousarray(sides["right"])),
            torch.from_numpy(np.ascontiguousarray(answers)),
            torch.from_numpy(np.ascontiguousarray(strengths)),
            annotators,
            items,
            None if annotator_names is None else tuple(annotator_names),
            None if item_names is None else tuple(item_names),
        )

    def __len__(self) -> int:
        return len(self.label)

    @property
    def per_annotator(self) -> Int[Tensor, " annotators"]:
        """How many comparisons each annotator made."""
        return torch.bincount(self.annotator, minlength=self.num_annotators)

    @property
    def ties(self) -> int:
        """How many of them are ties."""
        return int((self.label == 0).sum())

    def take(self, rows: Int[Tensor, " chosen"]) -> Comparisons:
        """Some rows, of the same annotators and items."""
        columns = ("annotator", "left", "right", "label", "weight")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def components(self) -> Int[Tensor, " items"]:
        """Which items are linked by comparisons: the number of its component for each item, the largest one first.

        Scores of items in different components cannot be compared.
        """
        return graph_components(self.left.numpy(), self.right.numpy(), self.num_items)


def graph_components(one: NDArray[np.int64], other: NDArray[np.int64], size: int) -> Int[Tensor, " size"]:
    """The component of every vertex of an undirected graph with edges one-other, the largest one first."""
    parent = np.arange(size)
    # Every vertex takes the least number among its neighbours and then that number's own, until nothing changes.
    while True:
        least = np.minimum(parent[one], parent[other])
        found = parent.copy()
        np.minimum.at(found, parent[one], least)
        np.minimum.at(found, parent[other], least)
        found = found[found]
        if (found == parent).all():
            break
        parent = found
    roots, codes, sizes = np.unique(parent, return_inverse=True, return_counts=True)
    rank = np.empty(len(roots), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(roots))
    return torch.from_numpy(rank[codes])


def _whole(name: str, column: Any) -> NDArray[np.int64]:
    found = np.asarray(column)
    if found.ndim != 1:
        raise ValueError(f"{name} must be one column, got shape {found.shape}")
    whole = found.dtype.kind in "iu" or (
        found.dtype.kind == "f" and bool((np.isfinite(found) & (found == np.floor(found))).all())
    )
    if not whole:
        raise ValueError(f"{name} must hold whole numbers, got {found[:3].tolist()}")
    return found.astype(np.int64)


def _refuse(name: str, column: NDArray[Any], bad: NDArray[np.bool_], wanted: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name} of row {row} is {column[row]}, {wanted}")


def _size(name: str, column: NDArray[np.int64], size: int | None, names: Sequence[str] | None) -> int:
    if names is not None:
        if size is not None and size != len(names):
            raise ValueError(f"there are {len(names)} names for {size} indices of {name}")
        size = len(names)
    if int(column.min()) < 0:
        raise IndexError(f"{name} holds {int(column.min())}; indices count from 0")
    if size is None:
        return int(column.max()) + 1
    if int(column.max()) >= size:
        raise IndexError(f"{name} holds {int(column.max())}, wanted 0 to {size - 1}")
    return size
