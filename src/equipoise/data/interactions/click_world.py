"""A small world of clicks in which the reason of every click is known: past items of the category that is shown.

Items have a category; their features are its centroid with noise, and further dimensions that are noise alone. A person
clicks with probability sigmoid(slope · k + intercept), k being how many items of their history are of the category
shown. Who counts those and nothing else predicts as well as can be done.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Real, Whole
from equipoise.data.interactions.clicks import Clicks

_DIMS, _SPREAD = 8, 0.8


@dataclass(frozen=True, eq=False)
class ClickWorld:
    """Impressions and the truth behind them.

    Attributes:
        clicks: n impressions, with users.
        item_features: (items, 16), the last 8 of them noise.
        category: (items,) of each item.
        matches: (n,) k, items of the history that are of the shown item's category.
        probability: (n,) of a click.
    """

    clicks: Clicks
    item_features: Float[Tensor, "items features"]
    category: Int[Tensor, " items"]
    matches: Int[Tensor, " n"]
    probability: Float[Tensor, " n"]


@checked
def click_world(
    rows: Count = 1000,
    *,
    length: Count = 12,
    shortest: Whole | None = None,
    categories: Count = 8,
    num_items: Count | None = None,
    rows_per_user: Count = 1,
    noise: NonNegative = 0.4,
    slope: Real = 1.5,
    intercept: Real = -2.0,
    seed: Whole = 0,
) -> ClickWorld:
    """Draw impressions.

    Args:
        rows: how many.
        length: items of a history, at most.
        shortest: at least; every length between is as likely. None for `length`.
        categories: of items, all as frequent.
        num_items: items of the catalogue, which are drawn again and again. None for a new item in every place, as of
            news: nothing can be learned of an item but by its features.
        rows_per_user: impressions that share a user, and a history.
        noise: standard deviation of the features around the centroid of their category.
        slope: of the log-odds, per matching item.
        intercept: log-odds without one.
        seed: the world is a function of it and the other arguments.

    Raises:
        ValueError: on an argument out of range.

    >>> world = click_world(200, seed=1)
    >>> len(world.clicks), tuple(world.item_features.shape)
    (200, (2600, 16))
    """
    least = length if shortest is None else shortest
    if least > length:
        raise ValueError(f"shortest={shortest} must be at most length={length}")
    generator = torch.Generator().manual_seed(seed)
    users = -(-rows // rows_per_user)
    lengths = torch.randint(least, length + 1, (users,), generator=generator)
    held = int(lengths.sum())
    total = num_items or rows + held
    category = torch.randint(categories, (total,), generator=generator)
    centroids = _SPREAD * torch.randn(categories, _DIMS, generator=generator)
    signal = centroids[category] + noise * torch.randn(total, _DIMS, generator=generator)
    features = torch.cat([signal, torch.randn(total, _DIMS, generator=generator)], 1)
    if num_items is None:
        item, past = torch.arange(rows), rows + torch.arange(held)
    else:
        item, past = (torch.randint(total, (count,), generator=generator) for count in (rows, held))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    user = torch.arange(rows) // rows_per_user
    people = torch.arange(users)
    whole = Clicks(people, torch.zeros_like(people), past, offsets).rows(user)
    same = category[whole.history] == category[torch.repeat_interleave(item, whole.lengths)]
    matches = torch.zeros(rows, dtype=torch.int64).index_add(
        0, torch.repeat_interleave(torch.arange(rows), whole.lengths), same.long()
    )
    probability = torch.sigmoid(slope * matches + intercept)
    label = (torch.rand(rows, generator=generator) < probability).long()
    return ClickWorld(Clicks(item, label, whole.history, whole.offsets, user), features, category, matches, probability)
