"""Tables of impressions as `Clicks`: items by name become indices, contexts are standardised, all as in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch

from equipoise.data import Clicks
from equipoise.data.tables.cells import as_numbers, as_text


@dataclass(frozen=True)
class Impressions:
    """A table of impressions, its items still by name.

    Attributes:
        item: name of the item shown, per row.
        histories: names of the items before, per row.
        label: (n,) 0 or 1; None where the table has none.
        user: (n,) number of the person; None where the table has none.
        context: (n, c) numbers.
    """

    item: list[str]
    histories: list[list[str]]
    label: Any
    user: Any
    context: Any

    @classmethod
    def read(
        cls, frame: Any, *, item: str, history: str, label: str | None, user: str | None, context: Sequence[str]
    ) -> Impressions:
        """Take the columns of a table.

        Raises:
            ValueError: if a column is missing or holds what it must not, by its name and a row.
        """
        for name in (item, history, label, user, *context):
            if name is not None and name not in frame.columns:
                close = get_close_matches(name, map(str, frame.columns), n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(str, frame.columns))}"
                raise ValueError(f"the table has no column {name!r}; {hint}")
        shown = _names(frame[item])
        if shown.isna().any():
            raise ValueError(f"column {item!r} names no item in row {int(np.flatnonzero(shown.isna())[0])}")
        people = None
        if user is not None:
            names = _names(frame[user])
            if names.isna().any():
                raise ValueError(f"column {user!r} names nobody in row {int(np.flatnonzero(names.isna())[0])}")
            people = names.factorize()[0]
        return cls(
            shown.tolist(),
            [[] if text is None else text.split() for text in _names(frame[history])],
            None if label is None else _labels(label, as_numbers(frame[label])),
            people,
            np.stack([_numbers(name, as_numbers(frame[name])) for name in context], 1)
            if context
            else np.zeros((len(frame), 0)),
        )

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class ClickEncoder:
    """How impressions become `Clicks`: index 0 is every item that is not known.

    Attributes:
        items: names of the known items, whose indices are 1, 2, ...
        mean: of each context feature in training.
        scale: deviation of each; 1 for a constant.
        max_history: last items of a history that are used.
    """

    items: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    max_history: int

    @classmethod
    def fit(cls, table: Impressions, rows: Any, *, min_count: int, max_history: int) -> ClickEncoder:
        """Take items and statistics of the training rows."""
        counts = Counter(name for row in rows for name in (table.item[row], *table.histories[row]))
        held = table.context[rows]
        deviation = held.std(0)
        return cls(
            tuple(sorted(name for name, count in counts.items() if count >= min_count)),
            tuple(held.mean(0).tolist()),
            tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
            max_history,
        )

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> ClickEncoder:
        """The encoder that `dataclasses.asdict` was written of."""
        items, mean, scale = (tuple(held[name]) for name in ("items", "mean", "scale"))
        return cls(items, mean, scale, int(held["max_history"]))

    def encode(self, table: Impressions) -> Clicks:
        """The impressions by index; those of a table without labels are marked 0."""
        index = {name: place for place, name in enumerate(self.items, start=1)}
        context = (table.context - np.array(self.mean)) / np.array(self.scale) if self.mean else None
        return Clicks.from_lists(
            [index.get(name, 0) for name in table.item],
            [[index.get(name, 0) for name in names[-self.max_history :]] for names in table.histories],
            np.zeros(len(table), dtype=np.int64) if table.label is None else table.label,
            user=table.user,
            context=None if context is None else torch.as_tensor(context, dtype=torch.float32),
        )


def _names(column: Any) -> Any:
    """The cells as text; where all are like 7.0, as a column with empty cells is written, it is 7."""
    texts = as_text(column)
    whole = texts.dropna().str.fullmatch(r"-?\d+\.0").all()
    return texts.str.removesuffix(".0") if whole else texts


def _labels(name: str, values: Any) -> Any:
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        raise ValueError(f"column {name!r} must hold 0 and 1, but row {int(wrong[0])} holds neither")
    if len(np.unique(values)) < 2:
        raise ValueError(f"column {name!r} holds {int(values[0])} in every row, so there is nothing to learn")
    return values.astype(np.int64)


def _numbers(name: str, values: Any) -> Any:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ValueError(f"column {name!r} must hold numbers, but row {int(wrong[0])} holds none; fill or encode it")
    return values
