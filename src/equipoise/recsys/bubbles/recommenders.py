"""Recommenders that learn from implicit feedback: most popular, nearest items, matrix factorisation.

All are fitted on a log of users by items; what they know of the items then stays. `update` takes in what the users of a
simulation have taken so far ("fold-in"), `recommend` ranks by that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.bubbles.recommender import Histories, best_unseen
from equipoise.recsys.evaluation.top_lists import rows_at_once

# Items, or users, that are worked on together.
_AT_ONCE = 1024


class _Ranker(ABC):
    """Ranks items by scores of what a user is known to have taken; ties by popularity."""

    order: Tensor

    def __init__(self) -> None:
        self.known: Interactions | None = None

    @abstractmethod
    def scores(self, known: Interactions) -> Float[Tensor, "users items"]:
        """Scores of all items for users who took these."""

    def update(self, histories: Histories) -> None:
        """Take in what users have taken so far."""
        self.known = histories.taken

    def recommend(self, histories: Histories, n: int) -> Int[Tensor, "users n"]:
        """The unseen items with the highest scores, by what was known at the last `update`."""
        known = histories.taken if self.known is None else self.known
        pages = []
        for rows in torch.arange(known.num_users).split(rows_at_once(known.num_items)):
            pages.append(best_unseen(self.scores(known.select(rows)), histories.seen.select(rows), n, self.order))
        return torch.cat(pages)


class MostPopular(_Ranker):
    """The same list for everybody, by how many users took an item. It does not listen: its escape potential is 0.

    >>> log = Interactions.from_pairs([0, 1, 1], [2, 2, 0], num_items=3)
    >>> MostPopular().fit(log).recommend(Histories.of_log(log), 2)
    tensor([[ 0,  1],
            [ 1, -1]])
    """

    def fit(self, log: Interactions) -> MostPopular:
        """Count."""
        self.popularity = log.per_item.double()
        self.order = _by_popularity(log)
        return self

    def scores(self, known: Interactions) -> Float[Tensor, "users items"]:
        """The counts."""
        return self.popularity.repeat(known.num_users, 1)


class ItemKNN(_Ranker):
    """Items that are near to what the user took, by the cosine of who took them.

    Args:
        neighbours: how many nearest items of each item count.
        shrink: added to the product of lengths, so that a few common users are not enough.
        recent: rank by the latest items only; by all of them by default.

    >>> log = Interactions.from_pairs([0, 0, 1, 1, 2], [0, 1, 0, 1, 0], num_items=3)
    >>> ItemKNN().fit(log).recommend(Histories.of_log(log), 1)[2]
    tensor([1])
    """

    @checked
    def __init__(self, neighbours: Count = 50, *, shrink: NonNegative = 0.0, recent: Count | None = None) -> None:
        super().__init__()
        self.neighbours, self.shrink, self.recent = neighbours, shrink, recent

    def fit(self, log: Interactions) -> ItemKNN:
        """Find the neighbours; needs SciPy."""
        from scipy.sparse import csr_array, vstack

        taken = log.to_scipy().astype(np.float64)
        lengths = np.sqrt(log.per_item.numpy().astype(np.float64))
        columns, rows = csr_array(taken.T), []
        for start in range(0, log.num_items, _AT_ONCE):
            part = (columns[start : start + _AT_ONCE] @ taken).toarray()
            items = np.arange(start, start + len(part))
            part[np.arange(len(part)), items] = 0
            part /= np.maximum(lengths[items][:, None] * lengths + self.shrink, 1e-12)
            rows.append(csr_array(_largest(part, self.neighbours)))
        # Row i of the transpose: which items have i among their neighbours.
        self.similarity = csr_array(vstack(rows).T)
        self.order = _by_popularity(log)
        return self

    def update(self, histories: Histories) -> None:
        """Take in what users have taken so far, or the latest of it."""
        self.known = histories.taken if self.recent is None else histories.recent(self.recent)

    def scores(self, known: Interactions) -> Float[Tensor, "users items"]:
        """Sums of the similarity to what was taken."""
        return torch.from_numpy((known.to_scipy().astype(np.float64) @ self.similarity).toarray())


class ImplicitALS(_Ranker):
    """Matrix factorisation of implicit feedback by alternating least squares (Hu, Koren and Volinsky 2008).

        min Σ_ui c_ui (p_ui − x_u·y_i)² + λ (Σ_u |x_u|² + Σ_i |y_i|²)

    with p = 1 and c = 1 + α where user u took item i, p = 0 and c = 1 elsewhere.

    A user's factors are the exact minimum for what they took, so that new clicks are folded in without training.

    Args:
        factors: width of the factors.
        alpha: α.
        penalty: λ.
        sweeps: how often users and items are solved for in `fit`.
        seed: of the first factors.
    """

    @checked
    def __init__(
        self,
        factors: Count = 32,
        *,
        alpha: Positive = 10.0,
        penalty: Positive = 1.0,
        sweeps: Count = 10,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        self.factors, self.alpha, self.penalty, self.sweeps, self.seed = factors, alpha, penalty, sweeps, seed

    def fit(self, log: Interactions) -> ImplicitALS:
        """Alternate between the factors of users and of items."""
        generator = np.random.default_rng(self.seed)
        self.item_factors = 0.1 * generator.standard_normal((log.num_items, self.factors))
        by_item = log.transposed()
        for _ in range(self.sweeps):
            users = self._solve(log, self.item_factors)
            self.item_factors = self._solve(by_item, users)
        self.order = _by_popularity(log)
        return self

    def user_factors(self, known: Interactions) -> NDArray[np.float64]:
        """(users, factors), the exact minimum for what each user took."""
        return self._solve(known, self.item_factors)

    def loss(self, log: Interactions) -> float:
        """The objective at the item factors and the best factors of the users of a log."""
        users = self.user_factors(log)
        taken = log.dense(torch.arange(log.num_users)).numpy()
        errors = (1 + self.alpha * taken) * (taken - users @ self.item_factors.T) ** 2
        return float(errors.sum() + self.penalty * ((users**2).sum() + (self.item_factors**2).sum()))

    def scores(self, known: Interactions) -> Float[Tensor, "users items"]:
        """The products of factors."""
        return torch.from_numpy(self.user_factors(known) @ self.item_factors.T)

    def _solve(self, rows: Interactions, others: NDArray[np.float64]) -> NDArray[np.float64]:
        base = others.T @ others + self.penalty * np.eye(self.factors)
        found = np.zeros((rows.num_users, self.factors))
        for part in np.array_split(np.arange(rows.num_users), -(-rows.num_users // _AT_ONCE)):
            left, right = np.empty((len(part), self.factors, self.factors)), np.empty((len(part), self.factors))
            for place, row in enumerate(part.tolist()):
                of_row = others[rows.of(row).numpy()]
                left[place] = base + self.alpha * of_row.T @ of_row
                right[place] = (1 + self.alpha) * of_row.sum(0)
            found[part] = np.linalg.solve(left, right[..., None])[..., 0]
        return found


def _by_popularity(log: Interactions) -> Tensor:
    return torch.argsort(log.per_item, descending=True, stable=True)


def _largest(values: NDArray[np.float64], count: int) -> Any:
    """The `count` largest cells of every row, the others 0."""
    if values.shape[1] <= count:
        return values
    least = np.partition(values, -count, axis=1)[:, -count:].min(1, keepdims=True)
    above = values > least
    tied = values == least
    kept = above | (tied & (tied.cumsum(1) <= count - above.sum(1, keepdims=True)))
    return np.where(kept, values, 0)
