"""Columns of pairwise answers as tensors, checked and told of by the names they have in this room."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.types import Range, Values
from equipoise.data.comparisons.answers import Comparisons

Item: TypeAlias = Integer[Tensor, " n"]
Answer: TypeAlias = Annotated[Integer[Tensor, " n"], Values(((1, "left"), (0, "a tie"), (-1, "right")))]
PositiveWeight: TypeAlias = Annotated[Float[Tensor, " n"], Range(0, low_open=True)]


def as_comparisons(
    item_i: Tensor, item_j: Tensor, label: Tensor, weight: Tensor | None, num_items: int | None
) -> Comparisons:
    """The columns as `Comparisons` of one annotator.

    Raises:
        ValueError: naming the argument, if an index is out of range or an item stands beside itself.
    """
    check_items(item_i, item_j, num_items)
    return Comparisons.from_columns(None, item_i, item_j, label, weight, num_items=num_items)


def check_items(item_i: Tensor, item_j: Tensor, num_items: int | None) -> None:
    """Raise `ValueError` if an index is out of range or an item stands beside itself."""
    check_index("item_i", item_i, num_items)
    check_index("item_j", item_j, num_items)
    same = item_i == item_j
    if bool(same.any()):
        raise ValueError(f"item_i and item_j are both {int(item_i[same][0])} in row {int(same.nonzero()[0])}")


def check_index(name: str, index: Tensor, size: int | None = None) -> None:
    """Raise `ValueError` unless all indices lie in 0 to size − 1; without a size, unless none is negative."""
    low, high = int(index.min()), int(index.max())
    if low < 0 or (size is not None and high >= size):
        upto = "indices that count from 0" if size is None else f"0 to {size - 1}"
        raise ValueError(f"{name} holds {low if low < 0 else high}, wanted {upto}")
