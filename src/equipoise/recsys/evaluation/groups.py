"""Means over users with intervals, of everybody and of each group."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.curves.intervals import UNDEFINED, Interval
from equipoise.core.signature import checked
from equipoise.core.types import Count, MayBeNaN, OpenFraction, Whole

PerUser: TypeAlias = Annotated[Float[Tensor, " users"], MayBeNaN()]
# Indices that are drawn at a time.
_DRAWN = 4_000_000


class GroupMean(NamedTuple):
    """The mean of a group of users.

    Attributes:
        group: its number.
        users: how many count.
        mean: of the metric; NaN where no user counts.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    group: int
    users: int
    mean: float
    low: float
    high: float


@checked
def bootstrap_mean(
    values: PerUser, *, resamples: Count = 1000, confidence: OpenFraction = 0.95, seed: Whole = 0
) -> Interval:
    """The mean over users, with a percentile interval by the bootstrap over users.

    Args:
        values: (users,); those that are NaN do not count.
        resamples: how many replicates.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the replicates.

    Returns:
        `Interval`; NaN throughout where no user counts.

    >>> print(bootstrap_mean(torch.tensor([0.0, 1.0, 2.0, float("nan")])))
    1.000 [0.000, 2.000]
    """
    found = values.detach().double().cpu().numpy()
    found = found[~np.isnan(found)]
    if not len(found):
        return UNDEFINED
    generator, means = np.random.default_rng(seed), []
    at_once = max(_DRAWN // len(found), 1)
    for start in range(0, resamples, at_once):
        drawn = generator.integers(len(found), size=(min(at_once, resamples - start), len(found)))
        means.append(found[drawn].mean(1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(found.mean()), float(low), float(high))


@checked
def group_means(
    values: PerUser,
    groups: Integer[Tensor, " users"],
    *,
    resamples: Count = 1000,
    confidence: OpenFraction = 0.95,
    seed: Whole = 0,
) -> tuple[GroupMean, ...]:
    """The mean of every group of users, with its interval.

    Args:
        values: (users,) of a metric; those that are NaN do not count.
        groups: (users,) the group of each user, such as a tercile of `UserTraits`.
        resamples: as in `bootstrap_mean`.
        confidence: as in `bootstrap_mean`.
        seed: as in `bootstrap_mean`.

    Returns:
        One `GroupMean` per group, by ascending number.

    >>> for each in group_means(torch.tensor([0.1, 0.3, 0.9, 0.9]), torch.tensor([0, 0, 1, 1])):
    ...     print(each.group, each.users, round(each.mean, 3), round(each.low, 3), round(each.high, 3))
    0 2 0.2 0.1 0.3
    1 2 0.9 0.9 0.9
    """
    found = []
    for group in groups.unique().tolist():
        inside = values[groups == group]
        mean = bootstrap_mean(inside, resamples=resamples, confidence=confidence, seed=seed)
        users = int((~torch.isnan(inside)).sum())
        found.append(GroupMean(int(group), users, mean.estimate, mean.low, mean.high))
    return tuple(found)
