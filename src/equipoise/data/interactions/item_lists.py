"""The text format of the metric-learning repositories: a line per user, "count item item ..."."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.data.interactions.matrix import Interactions


@checked
def read_item_lists(path: str | Path, *, num_items: Count | None = None) -> Interactions:
    """Interactions from a text file with a line per user: how many items, then their indices from 0.

    Args:
        path: the file, such as "2 5 7\\n0\\n1 5" for three users.
        num_items: items in the catalogue; one more than the largest index by default, which misses items that nobody
            in this file took.

    Raises:
        ValueError: naming the line that does not hold what its count says.
        IndexError: if an index is negative or not below `num_items`.
    """
    users: list[int] = []
    items: list[int] = []
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for user, line in enumerate(lines):
        try:
            count, *taken = map(int, line.split())
        except ValueError:
            raise ValueError(
                f"line {user + 1} of {path} must hold a count and item indices, got {line[:40]!r}"
            ) from None
        if count != len(taken):
            raise ValueError(f"line {user + 1} of {path} has {len(taken)} items where its count is {count}")
        users += [user] * count
        items += taken
    return Interactions.from_pairs(
        np.array(users, dtype=np.int64), np.array(items, dtype=np.int64), num_users=len(lines), num_items=num_items
    )
