"""Items that no likelihood can place: those that never lost to the rest of their component, or never won."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.data.comparisons.pair_counts import PairCounts

_SHOWN = 5


class Separation(NamedTuple):
    """Groups of items on one side of all others that they were compared with; a tie is half a win of both.

    Attributes:
        never_lost: each a group of item indices that won every comparison with the rest of its component.
        never_won: each a group that lost every one.
    """

    never_lost: tuple[tuple[int, ...], ...]
    never_won: tuple[tuple[int, ...], ...]


def separated_groups(counts: PairCounts) -> Separation:
    """Groups that never lost, or never won, against the rest of their component; none where scores are finite.

    >>> from equipoise.data import Comparisons
    >>> separated_groups(PairCounts.of(Comparisons.from_columns(None, [0, 1, 2], [1, 2, 1], [1, 1, 1])))
    Separation(never_lost=((0,),), never_won=((1, 2),))
    """
    group = counts.strong_components()
    groups = int(group.max()) + 1
    beaten, beating = (torch.zeros(groups, dtype=torch.bool) for _ in range(2))
    for winner, loser, wins in (
        (counts.first, counts.second, counts.first_wins + counts.ties),
        (counts.second, counts.first, counts.second_wins + counts.ties),
    ):
        across = (wins > 0) & (group[winner] != group[loser])
        beating[group[winner[across]]] = True
        beaten[group[loser[across]]] = True
    top, bottom = beating & ~beaten, beaten & ~beating
    return Separation(_members(group, top), _members(group, bottom))


def refuse_separation(counts: PairCounts, names: Sequence[str] | None = None) -> None:
    """Raise `ValueError` naming the items, if without a ridge their scores would be infinite."""
    found = separated_groups(counts)
    if found.never_lost or found.never_won:
        raise ValueError(
            f"ridge=0 gives no finite scores: {_told(found.never_lost, names)} never lost to the rest, "
            f"{_told(found.never_won, names)} never won; give a ridge such as 0.1, or leave these items out"
        )


def _members(group: Tensor, chosen: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple((group == number).nonzero().squeeze(1).tolist()) for number in chosen.nonzero().squeeze(1))


def _told(groups: Sequence[Sequence[int]], names: Sequence[str] | None) -> str:
    items = [item for group in groups for item in group]
    shown = ", ".join(str(item) if names is None else repr(names[item]) for item in items[:_SHOWN])
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"item{'s' if len(items) > 1 else ''} {shown}{more}"
