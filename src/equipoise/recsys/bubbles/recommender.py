"""What a recommender must do to be simulated, and random exposure put on top of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Probability, Whole
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.evaluation.top_lists import top_items


@dataclass(frozen=True, eq=False)
class Histories:
    """What every user of a simulation has taken and been shown so far, in a row each.

    Attributes:
        taken: items of the log and clicks: what may be learned from.
        sequence: (n,) the same in the order of time, user by user, with the offsets of `taken`.
        seen: items that are not to be shown any more.

    >>> log = Interactions.from_pairs([0, 0, 1], [2, 0, 1])
    >>> Histories.of_log(log).sequence
    tensor([0, 2, 1])
    """

    taken: Interactions
    sequence: Int[Tensor, " n"]
    seen: Interactions

    @classmethod
    def of_log(cls, log: Interactions) -> Histories:
        """Before anything was shown, items in the order of their index."""
        return cls(log, log.items, log)

    def recent(self, count: int) -> Interactions:
        """The latest `count` items of every user."""
        place = torch.arange(len(self.sequence)) - self.taken.offsets[:-1][self.taken.users]
        kept = place >= self.taken.per_user[self.taken.users] - count
        return Interactions.from_pairs(
            self.taken.users[kept],
            self.sequence[kept],
            num_users=self.taken.num_users,
            num_items=self.taken.num_items,
        )


@runtime_checkable
class Recommender(Protocol):
    """What can be simulated. A deep copy of it must be independent of the original."""

    def recommend(self, histories: Histories, n: int) -> Int[Tensor, "users n"]:
        """A page of up to n items that the user has not seen, the best first; −1 where there are none left."""

    def update(self, histories: Histories) -> None:
        """Learn from what users have taken so far."""


def best_unseen(
    scores: Float[Tensor, "users items"], seen: Interactions, n: int, order: Int[Tensor, " items"] | None = None
) -> Int[Tensor, "users n"]:
    """The n items of each user with the highest scores that are not seen, the best first, −1 where there are fewer.

    Args:
        scores: (users, items).
        seen: a row per user.
        n: length of the page.
        order: items that score the same stand in this order; in that of their index by default.

    >>> best_unseen(torch.tensor([[0.1, 0.5, 0.5, 0.2]]), Interactions.from_pairs([0], [0], num_items=4), 2)
    tensor([[1, 2]])
    """
    if order is None:
        return top_items(scores, n, seen)
    moved = Interactions.from_pairs(
        seen.users, order.argsort()[seen.items], num_users=seen.num_users, num_items=seen.num_items
    )
    page = top_items(scores[:, order], n, moved)
    return torch.where(page < 0, page, order[page.clamp_min(0)])


class RandomMix:
    """A recommender that shows a random unseen item in place of each of its own with some probability.

    The draws are of the user's row and the number of the page, so that two copies meet the same chance.

    Args:
        recommender: what is mixed.
        eps: share of random items, in [0, 1].
        seed: of the draws.
    """

    @checked
    def __init__(self, recommender: Recommender, eps: Probability, seed: Whole = 0) -> None:
        self.recommender, self.eps, self.seed = recommender, eps, seed
        self.pages = 0

    def recommend(self, histories: Histories, n: int) -> Int[Tensor, "users n"]:
        """The page of the recommender, cells of it replaced."""
        own = self.recommender.recommend(histories, n)
        page = own.numpy().copy()
        replaced = np.random.default_rng([self.seed, self.pages]).random(page.shape) < self.eps
        replaced &= page >= 0
        for user in np.flatnonzero(replaced.any(1)).tolist():
            allowed = np.ones(histories.seen.num_items, dtype=bool)
            allowed[histories.seen.of(user).numpy()] = False
            allowed[page[user][(page[user] >= 0) & ~replaced[user]]] = False
            cells = np.flatnonzero(replaced[user])
            # One draw per item, whatever was seen: the other copy of the user meets the same.
            draw = np.random.default_rng([self.seed, self.pages, user]).random(len(allowed))
            draw[~allowed] = np.inf
            page[user, cells] = np.argsort(draw)[: len(cells)]
        self.pages += 1
        return torch.from_numpy(page)

    def update(self, histories: Histories) -> None:
        """Of the recommender."""
        self.recommender.update(histories)
