"""Which items the answers about are at odds, with an embedding and with each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Conflicts(NamedTuple):
    """What answers say of each item.

    Attributes:
        answers: (n,) answers that an item is in.
        violated: (n,) of these, the ones that the embedding does not keep.
        share: (n,) violated / answers; 0 for an item in none.
        contradicted: (n,) answers of which the opposite was given as well.
    """

    answers: Int[Tensor, " n"]
    violated: Int[Tensor, " n"]
    share: Tensor
    contradicted: Int[Tensor, " n"]

    def worst(self, k: int = 10) -> Int[Tensor, " k"]:
        """The k items with the largest share of violated answers, first the worst; of equals the more often asked."""
        order = torch.argsort(self.answers, descending=True, stable=True)
        return order[torch.argsort(self.share[order], descending=True, stable=True)][:k]


def conflicts_of(quads: Tensor, margin: Tensor, num_items: int) -> Conflicts:
    """The report of checked quadruples (t, 4) with margins (t,)."""
    asked = _per_item(quads, num_items)
    violated = _per_item(quads[margin <= 0], num_items)
    share = violated.double() / asked.clamp_min(1)
    pairs = quads.view(-1, 2).sort(1).values
    codes = (pairs[:, 0] * num_items + pairs[:, 1]).view(-1, 2)
    places = torch.unique(codes, return_inverse=True)[1]
    size = int(places.max()) + 1
    forward, backward = places[:, 0] * size + places[:, 1], places[:, 1] * size + places[:, 0]
    return Conflicts(asked, violated, share, _per_item(quads[torch.isin(forward, backward)], num_items))


def _per_item(quads: Tensor, num_items: int) -> Tensor:
    """(n,) quadruples that each item is in, once where it is in both pairs."""
    ends = quads.sort(1).values
    new = torch.ones_like(ends, dtype=torch.bool)
    new[:, 1:] = ends[:, 1:] != ends[:, :-1]
    return torch.bincount(ends[new], minlength=num_items)
