"""A world of people with several interests: small, seeded, and with the truth known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, ProperFraction, Whole
from equipoise.data.interactions.matrix import Interactions

_SHARES = (0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True, eq=False)
class InterestWorld:
    """Who took what, and why.

    Attributes:
        interactions: users by items.
        item_group: (items,) the kind of each item.
        interests: (users, interests) the kinds that each user likes, the main one first.
    """

    interactions: Interactions
    item_group: Int[Tensor, " items"]
    interests: Int[Tensor, "users interests"]


@checked
def make_interest_world(
    num_users: Count = 300,
    num_groups: Count = 15,
    items_per_group: Count = 40,
    interactions_per_user: Count = 60,
    *,
    noise: ProperFraction = 0.05,
    seed: Whole = 0,
) -> InterestWorld:
    """People who each like four kinds of items, in shares of .4, .3, .2 and .1.

    An item has a popularity of 1 + Pareto(3). A user takes items of the kinds liked, by popularity without repetition,
    and a few of any kind.

    Args:
        num_users: users.
        num_groups: kinds of items, at least four.
        items_per_group: items of each kind.
        interactions_per_user: items that a user takes for liking their kind; a kind gives no more than it has.
        noise: further items of any kind, as a share of these.
        seed: of the world.

    Raises:
        ValueError: on a bad setting, by name.

    >>> world = make_interest_world(num_users=5)
    >>> world.interactions.num_items, world.interests.shape
    (600, torch.Size([5, 4]))
    """
    if num_groups < len(_SHARES):
        raise ValueError(f"num_groups={num_groups} must be at least {len(_SHARES)}, the kinds that a user likes")
    generator = np.random.default_rng(seed)
    num_items = num_groups * items_per_group
    group = np.repeat(np.arange(num_groups), items_per_group)
    popularity = generator.pareto(3, num_items) + 1
    users, items, interests = [], [], []
    for user in range(num_users):
        liked = generator.choice(num_groups, len(_SHARES), replace=False)
        taken = []
        for kind, share in zip(liked, _SHARES, strict=True):
            members = np.flatnonzero(group == kind)
            chance = popularity[members] / popularity[members].sum()
            count = min(round(share * interactions_per_user), items_per_group)
            taken.append(generator.choice(members, count, replace=False, p=chance))
        taken.append(generator.choice(num_items, round(noise * interactions_per_user), replace=False))
        found = np.unique(np.concatenate(taken))
        users.append(np.full(len(found), user))
        items.append(found)
        interests.append(liked)
    matrix = Interactions.from_pairs(
        np.concatenate(users), np.concatenate(items), num_users=num_users, num_items=num_items
    )
    return InterestWorld(matrix, torch.from_numpy(group), torch.from_numpy(np.stack(interests)))
