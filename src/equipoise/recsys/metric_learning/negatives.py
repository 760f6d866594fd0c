"""Samplers of items that a user has not observed.

    UniformNegatives      every unobserved item with the same chance
    PopularityNegatives   in proportion to popularity^α
    TwoStageNegatives     candidates by popularity, of which those like the observed item are kept more often

Hard negatives are the nearest of uniform candidates: `topk_negative_loss` with k below their number.

An item that was observed is never drawn: wrong draws are found by binary search and drawn again, and a user for whom
that fails several times (who has almost everything) is drawn from the list of what is left, so that nothing loops.

Uniform, popularity and hard sampling: Bao et al., "The Minority Matters", NeurIPS 2022, and its code. Two-stage: Tran
et al., "Improving Collaborative Metric Learning with Efficient Negative Sampling", 2019, reconstructed, with a softmax
of inner products in the second stage.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Integer
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative
from equipoise.data.interactions.matrix import Interactions, check_indices

_ROUNDS = 8


class UniformNegatives:
    """Unobserved items, each with the same chance, with replacement.

    Args:
        interactions: what was observed.
        num_negatives: S, drawn per user asked for.
        generator: of the draws; one seeded with 0 by default.

    Raises:
        ValueError: on a bad setting, by name; when called, if a user has no unobserved item.
        IndexError: when called with a user that is not there.

    >>> likes = Interactions.from_pairs([0, 0, 1], [0, 1, 2], num_items=4)
    >>> drawn = UniformNegatives(likes, 100)(torch.tensor([0, 1]))
    >>> [sorted(set(row.tolist())) for row in drawn]
    [[2, 3], [0, 1, 3]]
    """

    @checked
    def __init__(
        self, interactions: Interactions, num_negatives: Count = 10, *, generator: Generator | None = None
    ) -> None:
        self.interactions, self.num_negatives = interactions, num_negatives
        self.generator = generator if generator is not None else Generator().manual_seed(0)

    @checked
    def __call__(self, users: Integer[Tensor, " n"]) -> Int[Tensor, "n negatives"]:
        """(n, S) items that each of n users has not observed."""
        return self._sample(users, self.num_negatives)

    def _sample(self, users: Tensor, count: int) -> Tensor:
        check_indices("users", users, self.interactions.num_users)
        users = users.long()
        full = self.interactions.per_user[users] >= self.interactions.num_items
        if full.any():
            raise ValueError(f"user {int(users[full][0])} has no negative item")
        drawn = self._draw(len(users) * count).view(len(users), count)
        wrong = self.interactions.contains(users[:, None].expand_as(drawn), drawn)
        for _ in range(_ROUNDS):
            row, _ = places = wrong.nonzero(as_tuple=True)
            if not len(row):
                return drawn
            drawn[places] = self._draw(len(row))
            wrong[places] = self.interactions.contains(users[row], drawn[places])
        for row in wrong.any(1).nonzero().squeeze(1).tolist():
            drawn[row, wrong[row]] = self._of_the_rest(int(users[row]), int(wrong[row].sum()))
        return drawn

    def _draw(self, count: int) -> Tensor:
        """Items, whether observed or not."""
        return torch.randint(self.interactions.num_items, (count,), generator=self.generator)

    def _of_the_rest(self, user: int, count: int) -> Tensor:
        """Of the list of what a user has not observed."""
        rest = torch.ones(self.interactions.num_items, dtype=torch.bool)
        rest[self.interactions.of(user)] = False
        items = rest.nonzero().squeeze(1)
        return items[torch.multinomial(self._weights(items), count, replacement=True, generator=self.generator)]

    def _weights(self, items: Tensor) -> Tensor:
        return torch.ones(len(items), dtype=torch.float64)


class PopularityNegatives(UniformNegatives):
    """Unobserved items in proportion to popularity^α, with replacement.

    A user who has observed every item that anybody took gets the others with the same chance.

    Args:
        interactions: as in `UniformNegatives`.
        num_negatives: as in `UniformNegatives`.
        alpha: α; 0 is uniform over the items that somebody took.
        generator: as in `UniformNegatives`.

    Raises:
        ValueError: as `UniformNegatives`, or if there are no interactions.

    >>> likes = Interactions.from_pairs([0, 1, 2, 2], [0, 1, 1, 2])
    >>> drawn = PopularityNegatives(likes, 3000)(torch.tensor([0]))
    >>> [round(int((drawn == item).sum()) / 3000, 1) for item in range(3)]
    [0.0, 0.7, 0.3]
    """

    @checked
    def __init__(
        self,
        interactions: Interactions,
        num_negatives: Count = 10,
        alpha: NonNegative = 1.0,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(interactions, num_negatives, generator=generator)
        if not len(interactions):
            raise ValueError("interactions are empty: no item has a popularity")
        popularity = interactions.per_item.double()
        self.alpha = alpha
        self._mass = torch.where(popularity > 0, popularity**alpha, 0.0)
        self._ends = self._mass.cumsum(0)

    def _draw(self, count: int) -> Tensor:
        points = torch.rand(count, dtype=torch.float64, generator=self.generator) * self._ends[-1]
        return torch.searchsorted(self._ends, points, right=True).clamp_max(len(self._ends) - 1)

    def _weights(self, items: Tensor) -> Tensor:
        mass = self._mass[items]
        return mass if mass.sum() > 0 else torch.ones_like(mass)


class TwoStageNegatives(PopularityNegatives):
    """Candidates by popularity, of which those that resemble the observed item are kept more often.

    Args:
        interactions: as in `UniformNegatives`.
        num_negatives: as in `UniformNegatives`; kept of the candidates, without replacement.
        num_candidates: candidates per observed item, at least `num_negatives`.
        alpha: as in `PopularityNegatives`.
        generator: as in `UniformNegatives`.

    Raises:
        ValueError: as `PopularityNegatives`.

    >>> likes = Interactions.from_pairs([0, 1, 1], [0, 1, 2])
    >>> vectors = torch.tensor([[1.0, 0.0], [9.0, 0.0], [-9.0, 0.0]])
    >>> TwoStageNegatives(likes, 1, num_candidates=50)(torch.tensor([0]), torch.tensor([0]), vectors)
    tensor([[1]])
    """

    @checked
    def __init__(
        self,
        interactions: Interactions,
        num_negatives: Count = 10,
        num_candidates: Count = 100,
        alpha: NonNegative = 1.0,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(interactions, num_negatives, alpha, generator=generator)
        if num_candidates < num_negatives:
            raise ValueError(f"num_candidates={num_candidates} must be at least num_negatives={num_negatives}")
        self.num_candidates = num_candidates

    @checked
    def __call__(  # type: ignore[override]
        self,
        users: Integer[Tensor, " n"],
        positives: Integer[Tensor, " n"],
        item_vectors: Float[Tensor, "items dim"],
    ) -> Int[Tensor, "n negatives"]:
        """(n, S) items that each of n users has not observed, by the observed item (n,) and vectors of all items."""
        if len(item_vectors) != self.interactions.num_items:
            raise ValueError(
                f"item_vectors must have a row for each of {self.interactions.num_items} items, got {len(item_vectors)}"
            )
        candidates = self._sample(users, self.num_candidates)
        check_indices("positives", positives, len(item_vectors))
        vectors = item_vectors.detach()
        likeness = (vectors[candidates] @ vectors[positives.long()][:, :, None]).squeeze(2).cpu()
        weights = likeness.double().softmax(1) + 1e-300
        chosen = torch.multinomial(weights, self.num_negatives, generator=self.generator)
        return candidates.gather(1, chosen)
