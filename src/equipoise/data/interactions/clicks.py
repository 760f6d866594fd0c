"""Impressions: what was shown to whom, after which history, and whether it was clicked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count


class PaddedHistories(NamedTuple):
    """Histories of different lengths in one rectangle.

    Attributes:
        items: (n, t) item indices, 0 where a history has ended; t is at least 1.
        mask: (n, t) True where there is an item.
    """

    items: Int[Tensor, "n t"]
    mask: Bool[Tensor, "n t"]


@dataclass(frozen=True, eq=False)
class Clicks:
    """Impressions with their histories, which are packed: one after the other, without padding.

    Build it with `from_lists`.

    Attributes:
        item: (n,) int64, the item shown.
        label: (n,) int64, 1 if it was clicked, else 0.
        history: (m,) int64, the items of all histories, the oldest of each first.
        offsets: (n + 1,) int64; the history of row i is `history[offsets[i] : offsets[i + 1]]`, and may be empty.
        user: (n,) int64, any numbers that tell people apart; None if unknown.
        context: (n, c) features of the moment; None if there are none.

    >>> clicks = Clicks.from_lists([3, 0], [[1, 2], []], [1, 0])
    >>> clicks.padded()
    PaddedHistories(items=tensor([[1, 2],
            [0, 0]]), mask=tensor([[ True,  True],
            [False, False]]))
    """

    item: Int[Tensor, " n"]
    label: Int[Tensor, " n"]
    history: Int[Tensor, " m"]
    offsets: Int[Tensor, " n_and_one"]
    user: Int[Tensor, " n"] | None = None
    context: Float[Tensor, "n c"] | None = None

    @classmethod
    def from_lists(
        cls,
        item: Any,
        histories: Sequence[Sequence[int] | Tensor],
        label: Any,
        *,
        user: Any = None,
        context: Any = None,
    ) -> Clicks:
        """Impressions from lists, arrays or tensors.

        Args:
            item: (n,) item indices.
            histories: n sequences of item indices, the oldest first; empty ones are allowed.
            label: (n,) of 0 and 1.
            user: (n,) whole numbers.
            context: (n, c) numbers.

        Raises:
            ValueError: if the lengths differ, an index is negative or no whole number, a label is not 0 or 1, or a
                context is not finite.
        """
        items, labels = _whole("item", item), _whole("label", label)
        history, offsets = _packed(histories)
        users = None if user is None else _whole("user", user)
        given = None if context is None else torch.as_tensor(context, dtype=torch.float32)
        n = len(items)
        sizes = {"histories": len(offsets) - 1, "label": len(labels)}
        sizes |= {name: len(value) for name, value in (("user", users), ("context", given)) if value is not None}
        for name, size in sizes.items():
            if size != n:
                raise ValueError(f"{name} must have one entry for each of the {n} items shown, got {size}")
        for name, value in (("item", items), ("histories", history)):
            if len(value) and int(value.min()) < 0:
                raise ValueError(f"{name} holds the item index {int(value.min())}, wanted 0 or more")
        wrong = (labels != 0) & (labels != 1)
        if bool(wrong.any()):
            raise ValueError(f"label holds the value {int(labels[wrong][0])}, wanted 0 (passed over) or 1 (clicked)")
        if given is not None and (given.ndim != 2 or not bool(given.isfinite().all())):
            raise ValueError(f"context must be (n, c) finite numbers, got shape {tuple(given.shape)}")
        return cls(items, labels, history, offsets, users, given)

    def __len__(self) -> int:
        return len(self.item)

    @property
    def lengths(self) -> Int[Tensor, " n"]:
        """How many items each history has."""
        return self.offsets.diff()

    @property
    def num_items(self) -> int:
        """One more than the largest item index, shown or in a history."""
        return 1 + max(int(part.max()) if len(part) else -1 for part in (self.item, self.history))

    def rows(self, index: Int[Tensor, " k"] | Bool[Tensor, " n"]) -> Clicks:
        """Some of the impressions, in the order of their indices."""
        if index.dtype is torch.bool:
            index = index.nonzero().squeeze(1)
        counts = self.lengths[index]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shift = torch.repeat_interleave(self.offsets[:-1][index] - offsets[:-1], counts)
        history = self.history[torch.arange(len(shift), device=shift.device) + shift]
        user, context = (None if part is None else part[index] for part in (self.user, self.context))
        return Clicks(self.item[index], self.label[index], history, offsets, user, context)

    def recent(self, length: Count) -> Clicks:
        """The same impressions with the last `length` items of each history."""
        counts = self.lengths
        place = torch.arange(len(self.history), device=counts.device) - torch.repeat_interleave(
            self.offsets[:-1], counts
        )
        kept = self.history[place >= torch.repeat_interleave(counts - length, counts)]
        offsets = torch.cat([counts.new_zeros(1), counts.clamp_max(length).cumsum(0)])
        return replace(self, history=kept, offsets=offsets)

    def padded(self) -> PaddedHistories:
        """The histories as a rectangle."""
        counts = self.lengths
        width = max(int(counts.max()) if len(counts) else 0, 1)
        mask = torch.arange(width, device=counts.device) < counts[:, None]
        items = self.history.new_zeros(mask.shape)
        items[mask] = self.history
        return PaddedHistories(items, mask)

    def inputs(self) -> dict[str, Tensor]:
        """What a click model takes: "item", "history" and "mask", and "context" where there is one."""
        items, mask = self.padded()
        found = {"item": self.item, "history": items, "mask": mask}
        return found if self.context is None else {**found, "context": self.context}

    def to(self, device: torch.device | str) -> Clicks:
        """The same impressions on a device."""
        item, label, history, offsets = (t.to(device) for t in (self.item, self.label, self.history, self.offsets))
        user, context = (None if part is None else part.to(device) for part in (self.user, self.context))
        return Clicks(item, label, history, offsets, user, context)


@checked
def pad_histories(histories: Sequence[Any], length: Count | None = None) -> PaddedHistories:
    """Histories of different lengths in one rectangle of indices, and a mask.

    Args:
        histories: n sequences of item indices, the oldest first; empty ones are allowed.
        length: keep the last so many of each; all if None.

    Raises:
        ValueError: if an index is no whole number.

    >>> pad_histories([[4, 7, 9], [5], []], length=2).items
    tensor([[7, 9],
            [5, 0],
            [0, 0]])
    """
    history, offsets = _packed(histories)
    rows = torch.zeros(len(offsets) - 1, dtype=torch.int64)
    clicks = Clicks(rows, rows, history, offsets)
    return (clicks if length is None else clicks.recent(length)).padded()


def _packed(histories: Sequence[Any]) -> tuple[Tensor, Tensor]:
    parts = [_whole(f"histories[{row}]", history) for row, history in enumerate(histories)]
    counts = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    empty = torch.zeros(0, dtype=torch.int64)
    return torch.cat([empty, *parts]), torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _whole(name: str, values: Any) -> Tensor:
    found = torch.as_tensor(values)
    if found.ndim != 1 or (len(found) and (found.is_floating_point() or found.is_complex())):
        raise ValueError(f"{name} must be one row of whole numbers, got shape {tuple(found.shape)} of {found.dtype}")
    return found.long()
