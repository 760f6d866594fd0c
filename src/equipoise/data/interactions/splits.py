"""Splits of interactions: at random per user, the last or a random one out, and at one moment for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Whole
from equipoise.data.interactions.matrix import Interactions

Moments: TypeAlias = Integer[Tensor, " n"] | Float[Tensor, " n"]


class InteractionSplit(NamedTuple):
    """Three disjoint parts of the same users and items.

    Attributes:
        train: to learn from.
        validation: to choose settings and epochs by.
        test: to judge by.
    """

    train: Interactions
    validation: Interactions
    test: Interactions


@checked
def split_interactions(
    interactions: Interactions,
    ratios: Sequence[NonNegative] = (0.6, 0.2, 0.2),
    *,
    min_count: Count = 5,
    seed: Whole = 0,
) -> InteractionSplit:
    """Split the items of each user at random.

    Of n items, ⌊r₁ n⌋ go to the training part, ⌊r₂ n⌋ to validation and the rest to the test, the protocol of the
    metric-learning papers (read in their code).

    Args:
        interactions: what is split.
        ratios: of training, validation and test; scaled to sum to 1.
        min_count: users with fewer items are in no part.
        seed: of the shuffle.

    Raises:
        ValueError: if there are not three ratios, they are all zero, or nobody has `min_count` items.

    >>> likes = Interactions.from_pairs([0] * 10, range(10))
    >>> [len(part) for part in split_interactions(likes)]
    [6, 2, 2]
    """
    if len(ratios) != 3 or not sum(ratios) > 0:
        raise ValueError(f"ratios={tuple(ratios)} must be three shares (training, validation, test) with a sum above 0")
    counts = _counts(interactions, min_count)
    place = _shuffled_places(interactions, seed)
    total = sum(ratios)
    # 0.6 · 5 must be 3 and not 2.9999.
    train = np.floor(ratios[0] / total * counts + 1e-9).astype(np.int64)
    validation = np.floor(ratios[1] / total * counts + 1e-9).astype(np.int64)
    return _parts(interactions, place, counts, train, train + validation, min_count)


@checked
def leave_one_out(
    interactions: Interactions, time: Moments | None = None, *, min_count: Count = 3, seed: Whole = 0
) -> InteractionSplit:
    """One item of each user to the test, one to validation, and the rest to learn from.

    Args:
        interactions: what is split.
        time: when each pair happened, in the order of `interactions.items`: the last goes to the test, the one before
            to validation. Without it both are chosen at random. Pairs of the same time stand in the order of the items.
        min_count: users with fewer items are in no part.
        seed: of the choice.

    Raises:
        ValueError: if nobody has `min_count` items or `time` is of another length.
    """
    counts = _counts(interactions, min_count)
    place = _shuffled_places(interactions, seed) if time is None else _places(interactions, _times(interactions, time))
    return _parts(interactions, place, counts, counts - 2, counts - 1, min_count)


@checked
def split_by_time(
    interactions: Interactions, time: Moments, ratios: Sequence[NonNegative] = (0.6, 0.2, 0.2)
) -> InteractionSplit:
    """Split all pairs at two moments, the same for everyone.

    The only one of the three splits that a system meets in use: no model sees what happened after the moment at which
    it is judged. Users and items that appear later are new to it.

    Args:
        interactions: what is split.
        time: when each pair happened, in the order of `interactions.items`.
        ratios: of training, validation and test; scaled to sum to 1. Pairs of one time stay together, in the earlier
            part.

    Raises:
        ValueError: as `split_interactions`, or if `time` is of another length.
    """
    if len(ratios) != 3 or not sum(ratios) > 0:
        raise ValueError(f"ratios={tuple(ratios)} must be three shares (training, validation, test) with a sum above 0")
    times = _times(interactions, time)
    ordered, n, total = np.sort(times), len(times), sum(ratios)
    ends = [int(np.ceil(share / total * n - 1e-9)) for share in (ratios[0], ratios[0] + ratios[1])]
    part = np.zeros(n, dtype=np.int64)
    for end in ends:
        part += times > ordered[end - 1] if end else 1
    return InteractionSplit(*(_subset(interactions, part == k) for k in range(3)))


def _counts(interactions: Interactions, min_count: int) -> Any:
    counts = interactions.per_user.numpy()
    if not (counts >= min_count).any():
        most = int(counts.max()) if len(counts) else 0
        raise ValueError(f"no user has {min_count} items, the most is {most}; lower min_count")
    return counts


def _shuffled_places(interactions: Interactions, seed: int) -> Any:
    return _places(interactions, np.random.default_rng(seed).random(len(interactions)))


def _places(interactions: Interactions, keys: Any) -> Any:
    """The place of each pair among those of its user, by ascending key."""
    users = interactions.users.numpy()
    order = np.lexsort((keys, users))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - interactions.offsets.numpy()[users[order]]
    return place


def _parts(
    interactions: Interactions, place: Any, counts: Any, train: Any, validation: Any, min_count: int
) -> InteractionSplit:
    users = interactions.users.numpy()
    part = (place >= train[users]).astype(np.int64) + (place >= validation[users])
    part[counts[users] < min_count] = -1
    return InteractionSplit(*(_subset(interactions, part == k) for k in range(3)))


def _subset(interactions: Interactions, kept: Any) -> Interactions:
    mask = torch.from_numpy(kept)
    offsets = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.cumsum(0)])[interactions.offsets]
    return Interactions(offsets, interactions.items[mask], interactions.num_items)


def _times(interactions: Interactions, time: Tensor) -> Any:
    if time.shape != interactions.items.shape:
        raise ValueError(
            f"time must have one value per interaction, {len(interactions)}, got shape {tuple(time.shape)}"
        )
    return time.numpy()
