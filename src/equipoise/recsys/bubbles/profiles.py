"""Users to simulate: their traits and their taste, from a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Range
from equipoise.core.validate import warn_once
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.bubbles.exposure import ItemCategory, category_weights

Ratings: TypeAlias = Annotated[Integer[Tensor, "users items"] | Float[Tensor, "users items"], Range(0)] | Interactions


class UserTraits(NamedTuple):
    """Three statistics of each user's log.

    Attributes:
        activity: (users,) int64, how many items the user rated.
        conformity: (users,) float64, mean squared distance of the user's ratings to the mean rating of the item: a
            small one conforms. NaN for users without ratings.
        diversity: (users,) int64, how many categories the rated items have.
    """

    activity: Integer[Tensor, " users"]
    conformity: Float[Tensor, " users"]
    diversity: Integer[Tensor, " users"]

    def terciles(self) -> UserTraits:
        """Each trait in thirds, int64: 0 for the lowest, 2 for the highest, −1 where it is undefined; ties together."""
        return UserTraits(*(_thirds(each.double()) for each in self))


@checked
def user_traits(
    ratings: Ratings,
    item_category: ItemCategory,
    values: Annotated[Integer[Tensor, " pairs"] | Float[Tensor, " pairs"], Range(0)] | None = None,
) -> UserTraits:
    """Activity, conformity and diversity of each user, after the traits of the agents in Agent4Rec; reconstructed.

    Args:
        ratings: (users, items), 0 where the user did not rate the item; or `Interactions`.
        item_category: (items, categories) of 0 and 1.
        values: the rating of each pair of `Interactions`, in the order of its `items`; all equal if absent.

    Raises:
        ValueError: on a bad argument, by name.

    >>> found = user_traits(torch.tensor([[5, 0], [3, 1]]), torch.tensor([[1, 0], [0, 1]]))
    >>> found.activity, found.conformity, found.diversity
    (tensor([1, 2]), tensor([1.0000, 0.5000], dtype=torch.float64), tensor([1, 2]))
    """
    if isinstance(ratings, Interactions):
        pairs = ratings
        given = torch.ones(len(pairs), dtype=torch.float64) if values is None else values.double()
    elif values is not None:
        raise ValueError("values go with Interactions; a matrix of ratings holds its own")
    else:
        rows, columns = ratings.nonzero(as_tuple=True)
        pairs = Interactions.from_pairs(rows, columns, num_users=len(ratings), num_items=ratings.shape[1])
        given = ratings[rows, columns].double()
    if len(given) != len(pairs):
        raise ValueError(f"values must have one number per interaction, {len(pairs)}, got {len(given)}")
    _check_items(pairs, item_category)
    users, items = pairs.users, pairs.items
    activity = pairs.per_user
    means = torch.zeros(pairs.num_items, dtype=torch.float64).index_add_(0, items, given) / pairs.per_item
    gaps = (given - means[items]) ** 2
    conformity = torch.zeros(pairs.num_users, dtype=torch.float64).index_add_(0, users, gaps) / activity
    touched = torch.zeros((pairs.num_users, item_category.shape[1]), dtype=torch.float64)
    touched.index_add_(0, users, item_category.double()[items])
    return UserTraits(activity, conformity, (touched > 0).sum(1))


@dataclass(frozen=True, eq=False)
class UserProfile:
    """One user, as an agent sees them.

    Attributes:
        user: the number of the user in the log.
        taste: (categories,) share of each category in what the user took.
        activity: third of the log's users by activity, 0 to 2.
        conformity: the same by conformity, 0 for those who rate as the others do.
        diversity: the same by diversity.
        weights: (items, categories) of the catalogue, rows that sum to 1 or are 0.
        scale: the best match of any item.
    """

    user: int
    taste: NDArray[np.float64]
    activity: int
    conformity: int
    diversity: int
    weights: NDArray[np.float64]
    scale: float

    def match(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """How well items fit the taste: the taste of their categories, from 0 to 1 for the best of the catalogue."""
        found: NDArray[np.float64] = self.weights[items] @ self.taste / self.scale
        return found


@dataclass(frozen=True, eq=False)
class Profiles:
    """Users to simulate, in a row each. Built by `build_profiles`.

    Attributes:
        users: (users,) their numbers in the log.
        taste: (users, categories) float64, rows that sum to 1.
        history: what they took before the simulation.
        traits: thirds of each trait among all users of the log.
        item_category: (items, categories) of 0 and 1.
        sequence: (n,) the items of `history` in the order of time, user by user: those of row u are
            `sequence[history.offsets[u] : history.offsets[u + 1]]`.
    """

    users: Integer[Tensor, " users"]
    taste: Float[Tensor, "users categories"]
    history: Interactions
    traits: UserTraits
    item_category: Tensor
    sequence: Integer[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.users)

    def all(self) -> list[UserProfile]:
        """Every user by themselves."""
        weights = category_weights(self.item_category, "fractional").numpy()
        taste = self.taste.numpy()
        best = (taste @ weights.T).max(1)
        thirds = torch.stack(list(self.traits), 1).tolist()
        return [
            UserProfile(user, taste[row], activity, conformity, diversity, weights, float(best[row]))
            for row, (user, (activity, conformity, diversity)) in enumerate(
                zip(self.users.tolist(), thirds, strict=True)
            )
        ]


@checked
def build_profiles(
    log: Interactions,
    item_category: ItemCategory,
    *,
    ratings: Annotated[Integer[Tensor, " pairs"] | Float[Tensor, " pairs"], Range(0)] | None = None,
    time: Integer[Tensor, " pairs"] | Float[Tensor, " pairs"] | None = None,
    users: Integer[Tensor, " chosen"] | None = None,
) -> Profiles:
    """Profiles from a log: the taste is how what the user took spreads over categories.

    Args:
        log: who took what; what is held out to judge the accuracy must not be in it.
        item_category: (items, categories) of 0 and 1.
        ratings: of each pair, in the order of `log.items`; for conformity only.
        time: when each pair happened, in that order; without it the items of a user stand in the order of their index.
        users: which users to simulate; all who took something that has a category by default.

    Raises:
        ValueError: on a bad argument, by name; if a chosen user took nothing that has a category, or nobody did.
        IndexError: if a chosen user is not in the log.

    >>> log = Interactions.from_pairs([0, 0, 1], [0, 1, 1])
    >>> build_profiles(log, torch.tensor([[1, 0], [1, 1]])).taste
    tensor([[0.7500, 0.2500],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    _check_items(log, item_category)
    thirds = user_traits(log, item_category, ratings).terciles()
    weights = category_weights(item_category, "fractional")
    mass = torch.zeros((log.num_users, weights.shape[1]), dtype=torch.float64)
    mass.index_add_(0, log.users, weights[log.items])
    known = mass.sum(1) > 0
    if not known.any():
        raise ValueError("nobody in the log took an item that has a category")
    if users is None:
        chosen = known.nonzero()[:, 0]
        if len(chosen) < len(known):
            left = f"{len(known) - len(chosen)} of {len(known)}"
            warn_once(f"{left} users took nothing that has a category and are not simulated")
    else:
        chosen = users.long()
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < log.num_users:
            raise IndexError(f"users must lie between 0 and {log.num_users - 1}")
        if not known[chosen].all():
            raise ValueError(f"users holds {int(chosen[~known[chosen]][0])}, who took nothing that has a category")
    if len(chosen.unique()) < len(chosen):
        raise ValueError("users names somebody twice")
    order = torch.arange(len(log))
    if time is not None:
        if time.shape != log.items.shape:
            raise ValueError(f"time must have one value per interaction, {len(log)}, got {len(time)}")
        order = torch.from_numpy(np.lexsort((time.numpy(), log.users.numpy())))
    ordered = Interactions(log.offsets, log.items[order], log.num_items)
    return Profiles(
        chosen,
        (mass / mass.sum(1, keepdim=True))[chosen],
        log.select(chosen),
        UserTraits(*(each[chosen] for each in thirds)),
        item_category,
        ordered.rows(chosen)[1],
    )


def _thirds(values: Tensor) -> Tensor:
    known = ~values.isnan()
    if not known.any():
        return torch.full_like(values, -1, dtype=torch.int64)
    bounds = torch.quantile(values[known], torch.tensor([1 / 3, 2 / 3], dtype=values.dtype))
    return torch.where(known, (values[:, None] > bounds).sum(1), -1)


def _check_items(log: Interactions, item_category: Any) -> None:
    if log.num_items != len(item_category):
        raise ValueError(f"item_category has {len(item_category)} items, the ratings or the log have {log.num_items}")
