"""The first items of each user's list."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from equipoise.core.curves.top_lists import top_candidates
from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.data.interactions.matrix import Interactions, check_indices

# Scores that are held at once, unless said otherwise: 32 MiB, above which the C library asks the system for every batch
# anew, a quarter slower at 50,000 items.
_CELLS = 1 << 23


@runtime_checkable
class Scorer(Protocol):
    """What gives the scores of all items for some users."""

    def predict(self, users: Int[Tensor, " n"]) -> Float[Tensor, "n items"]:
        """(n, items), the higher the better."""
        ...


def top_items(
    scores: Float[Tensor, "users items"], k: int, exclude: Interactions | None = None
) -> Int[Tensor, "users k"]:
    """The k items that score highest, without the excluded ones; of equal scores the smaller index comes first.

    Args:
        scores: (users, items).
        k: length of the list.
        exclude: items that may not stand in it, a row per user.

    Returns:
        (users, k) item indices; −1 behind the last candidate of a user who has fewer than k.

    >>> top_items(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), 3)
    tensor([[1, 0, 2]])
    """
    if exclude is None:
        return top_candidates(scores, k)
    own = exclude.to(scores.device)
    return top_candidates(scores, k, own.offsets, own.items)


@checked
def recommend(
    model: Scorer,
    users: Integer[Tensor, " n"],
    k: Count = 20,
    *,
    exclude: Interactions | None = None,
    batch_size: Count | None = None,
) -> Int[Tensor, "n k"]:
    """The lists of some users, in batches.

    Args:
        model: has `predict(users)`, scores of all items.
        users: (n,) user indices.
        k: length of the lists.
        exclude: items that a user has had, a row per user of the model.
        batch_size: users scored at once; by default as many as make about eight million scores.

    Returns:
        (n, k) item indices, −1 where a user has no candidate left.

    Raises:
        ValueError: on a bad argument, by name; if the model gives NaN, or `exclude` is of another number of items.
        IndexError: for a user that is not there.
    """
    if exclude is not None:
        check_indices("users", users, exclude.num_users)
    lists = []
    # One user says how many items there are.
    step = batch_size or rows_at_once(scores_of(model, users[:1].long()).shape[1])
    for part in users.long().split(step):
        scores = scores_of(model, part)
        if exclude is not None and exclude.num_items != scores.shape[1]:
            raise ValueError(f"exclude is of {exclude.num_items} items, the model scores {scores.shape[1]}")
        had = None if exclude is None else exclude.select(part.to(exclude.items.device))
        lists.append(top_items(scores, k, had))
    return torch.cat(lists)


def rows_at_once(items: int) -> int:
    """How many users' scores of so many items are held together.

    >>> rows_at_once(50_000)
    167
    """
    return max(1, _CELLS // items)


def scores_of(model: Scorer, users: Tensor) -> Tensor:
    """The scores of some users; `ValueError` unless they are floating point, a row per user, and none is NaN."""
    with torch.no_grad():
        scores = model.predict(users)
    if scores.ndim != 2 or len(scores) != len(users) or not scores.dtype.is_floating_point:
        raise ValueError(
            f"the model gives scores of shape {tuple(scores.shape)} and {scores.dtype} for {len(users)} users, wanted "
            "one row of floating-point numbers each"
        )
    # A sum is NaN if one of them is: one cheap pass clears the usual case. Both infinities together are looked at.
    if scores.sum().isnan() and scores.isnan().any():
        user = int(users[scores.isnan().any(1)][0])
        raise ValueError(f"the model gives NaN for user {user}")
    return scores
