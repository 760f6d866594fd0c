"""A world of categories without items: fast, without a catalogue that runs out, for studies of the measure itself.

A recommender shows N items a page, each of category k with a probability

    p_uk = (1 − ε) q_uk^τ / Σ_l q_ul^τ + ε / K        q = logged + clicked + ½

so that τ = 1 shows what was taken in proportion and a larger τ exploits the favourite. Reconstructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Probability, Range, Whole
from equipoise.recsys.bubbles.agents import RuleAgent
from equipoise.recsys.bubbles.exposure import Distributions
from equipoise.recsys.bubbles.potential import BEPResult, bubble_escape_potential


class CategorySimulation(NamedTuple):
    """What happened in a world of categories.

    Attributes:
        positive: (users, shown) categories shown after the burn-in to the copies that broaden their behaviour.
        negative: (users, shown) the same for those that narrow it.
        accuracy: (users,) chance that an item of the first page is of the user's taste, Σ_k taste_uk p_uk.
        categories: how many there are.
    """

    positive: Int[Tensor, "users shown"]
    negative: Int[Tensor, "users shown"]
    accuracy: Float[Tensor, " users"]
    categories: int

    def escape_potential(self, **settings: object) -> BEPResult:
        """`bubble_escape_potential` with its settings."""
        return bubble_escape_potential(
            self.positive,
            self.negative,
            torch.eye(self.categories, dtype=torch.int64),
            **settings,  # type: ignore[arg-type]
        )


@checked
def simulate_categories(
    taste: Distributions,
    logged: Annotated[Integer[Tensor, "users categories"], Range(0)],
    *,
    exploitation: Positive = 1.0,
    eps: Probability = 0.0,
    frozen: bool = False,
    behaviors: Sequence[RuleAgent] = (RuleAgent.positive(), RuleAgent.negative()),
    rounds: Count = 30,
    page_size: Count = 10,
    burn_in: Whole | None = None,
    seed: Whole = 0,
) -> CategorySimulation:
    """Simulate two copies of every user in a world of categories, see the module.

    Pages are drawn from the same random numbers for both copies.

    Args:
        taste: (users, categories), rows that sum to 1.
        logged: (users, categories), how many items of each category the user took before.
        exploitation: τ, above 1 for a recommender that exploits the favourite.
        eps: ε, share of random exposure.
        frozen: whether the recommender never learns from clicks.
        behaviors: (positive, negative).
        rounds: pages that each user gets.
        page_size: N.
        burn_in: first rounds that do not count; a third of them by default.
        seed: of pages and decisions.

    Raises:
        ValueError: on a bad argument, by name; if a row of `taste` does not sum to 1, or no round is left to count.

    >>> taste = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> found = simulate_categories(taste, torch.tensor([[9, 1], [2, 8]]), frozen=True, rounds=300)
    >>> abs(float(found.escape_potential().value)) < 0.02
    True
    """
    if len(behaviors) != 2:
        raise ValueError(f"behaviors must be two, (positive, negative), got {len(behaviors)}")
    first = rounds // 3 if burn_in is None else burn_in
    if first >= rounds:
        raise ValueError(f"burn_in={burn_in} must be below rounds={rounds}")
    likes = taste.double().numpy()
    wrong = np.abs(likes.sum(1) - 1) > 1e-4
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"row {row} of taste sums to {likes[row].sum():g}, wanted 1")
    match = likes / likes.max(1, keepdims=True)
    start = logged.numpy() + 0.5
    people, categories = likes.shape
    draws = np.random.default_rng([seed, 2]).random((rounds, people, page_size))
    exposures = []
    for agent, sign in zip(behaviors, (1, 0), strict=True):
        decisions = np.random.default_rng([seed, sign])
        chance = agent.chance(match)
        known, shown = start.copy(), np.empty((people, rounds, page_size), dtype=np.int64)
        for turn in range(rounds):
            ends = _page_chances(known, exploitation, eps).cumsum(1)
            ends[:, -1] = 1
            page = (draws[turn][:, :, None] >= ends[:, None, :]).sum(2)
            shown[:, turn] = page
            if not frozen:
                taken = decisions.random(page.shape) < np.take_along_axis(chance, page, 1)
                np.add.at(known, (np.nonzero(taken)[0], page[taken]), 1)
        exposures.append(torch.from_numpy(shown[:, first:].reshape(people, -1)))
    accuracy = (likes * _page_chances(start, exploitation, eps)).sum(1)
    return CategorySimulation(exposures[0], exposures[1], torch.from_numpy(accuracy), categories)


def _page_chances(known: NDArray[np.float64], exploitation: float, eps: float) -> NDArray[np.float64]:
    # Divided by the largest first, so that no power overflows.
    powers = (known / known.max(1, keepdims=True)) ** exploitation
    found: NDArray[np.float64] = (1 - eps) * powers / powers.sum(1, keepdims=True) + eps / known.shape[1]
    return found
