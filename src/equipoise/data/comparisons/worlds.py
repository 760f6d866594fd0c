"""A crowd with a known truth: who prefers what, where they cannot decide, and who is unlike the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Probability, Whole
from equipoise.data.comparisons.answers import Comparisons


@dataclass(frozen=True, eq=False)
class PartialRankingWorld:
    """What was said, and why.

    Attributes:
        comparisons: answers of all.
        common_score: (items,) of the consensus.
        common_threshold: how near two scores may be for a tie.
        personal_score: (users, items) deviations, 0 for who follows the consensus.
        personal_threshold: (users,) deviations, likewise.
        abnormal: (users,) who does not follow it.
    """

    comparisons: Comparisons
    common_score: Float[Tensor, " items"]
    common_threshold: float
    personal_score: Float[Tensor, "users items"]
    personal_threshold: Float[Tensor, " users"]
    abnormal: Bool[Tensor, " users"]


@checked
def simulate_partial_rankings(
    num_users: Count = 50,
    num_items: Count = 20,
    *,
    comparisons_per_user: Sequence[Count] = (200, 400),
    spread: NonNegative = 5.0,
    personal_spread: NonNegative = 5.0,
    threshold: Positive = 1.5,
    abnormal_share: Probability = 0.2,
    noise: Literal["logistic", "normal"] = "logistic",
    seed: Whole = 0,
) -> PartialRankingWorld:
    """People who compare pairs of items, most of them by common scores and some by their own.

    Common scores are N(0, spread²). Each user is abnormal with a chance of `abnormal_share`, and then has deviations
    N(0, personal_spread²) of the scores and of −1/2 to 1/2 of the threshold, uniformly. Pairs are uniform.

    Args:
        num_users: users.
        num_items: items, at least two.
        comparisons_per_user: the fewest and the most comparisons of a user, uniform between.
        spread: standard deviation of the common scores.
        personal_spread: of the deviations.
        threshold: common threshold; who sees a difference within it says a tie.
        abnormal_share: chance that a user is abnormal.
        noise: of each answer, of scale 1.
        seed: of the world.

    Raises:
        ValueError: on a bad setting, by name.

    Xu et al., "iSplit LBI", NeurIPS 2019, section 3.1.

    >>> world = simulate_partial_rankings(5, 4, comparisons_per_user=(10, 10))
    >>> len(world.comparisons), world.personal_score.shape
    (50, torch.Size([5, 4]))
    """
    if num_items < 2:
        raise ValueError(f"num_items={num_items} must be at least 2 for a comparison")
    fewest, most = comparisons_per_user[0], comparisons_per_user[-1]
    if len(comparisons_per_user) != 2 or fewest > most:
        raise ValueError(f"comparisons_per_user={comparisons_per_user!r} must be two numbers, 1 ≤ fewest ≤ most")
    generator = np.random.default_rng(seed)
    common = generator.normal(0, spread, num_items)
    abnormal = generator.random(num_users) < abnormal_share
    scores = np.where(abnormal[:, None], generator.normal(0, personal_spread, (num_users, num_items)), 0.0)
    widths = np.where(abnormal, threshold * generator.uniform(-0.5, 0.5, num_users), 0.0)
    user = np.repeat(np.arange(num_users), generator.integers(fewest, most + 1, num_users))
    left = generator.integers(num_items, size=len(user))
    right = (left + generator.integers(1, num_items, size=len(user))) % num_items
    drawn = generator.logistic if noise == "logistic" else generator.normal
    own = common + scores
    seen = own[user, left] - own[user, right] + drawn(size=len(user))
    width = threshold + widths[user]
    label = (seen > width).astype(np.int64) - (seen <= -width)
    return PartialRankingWorld(
        Comparisons.from_columns(user, left, right, label, num_annotators=num_users, num_items=num_items),
        torch.from_numpy(common),
        threshold,
        torch.from_numpy(scores),
        torch.from_numpy(widths),
        torch.from_numpy(abnormal),
    )
