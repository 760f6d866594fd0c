"""How a simulated user answers a page: rules of taste, vectors of texts, or a language model of the user's own.

The rules are reconstructed: m is how well an item fits the taste, from 0 to 1,

    P(click) = a m^s            follows the taste                negative: a = 0.4, s = 2; neutral: a = 0.6, s = 1
    P(click) = a (1 − x m^s)    explores what does not fit it    positive: a = 0.8, x = 0.7, s = 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Probability, Whole
from equipoise.recsys.bubbles.profiles import UserProfile

Items: TypeAlias = NDArray[np.int64]


class Memory(NamedTuple):
    """What a simulated user remembers.

    Attributes:
        taken: items of the log and clicks, in the order of time.
        shown: everything that was shown in the simulation, in its order.
    """

    taken: Items
    shown: Items


class Decision(NamedTuple):
    """The answer to a page.

    Attributes:
        clicked: items of the page that the user takes.
        stop: whether the user leaves for good.
    """

    clicked: Items
    stop: bool = False


@runtime_checkable
class UserAgent(Protocol):
    """Somebody who answers pages."""

    def decide(self, profile: UserProfile, page: Items, memory: Memory, generator: Generator) -> Decision:
        """Which items of the page are taken; randomness comes from `generator`, which is the user's own."""


@checked
@dataclass(frozen=True)
class RuleAgent:
    """Clicks by how well an item fits the taste, see the module.

    Attributes:
        activity: a, the chance to click what the user wants most.
        exploration: x, how much a fit puts the user off; None for users who follow their taste.
        sharpness: s, above 1 for users who only take clear matches.

    >>> RuleAgent.positive()
    RuleAgent(activity=0.8, exploration=0.7, sharpness=1.0)
    >>> RuleAgent.negative().chance(np.array([0.0, 0.5, 1.0]))
    array([0. , 0.1, 0.4])
    """

    activity: Probability
    exploration: Probability | None = None
    sharpness: Positive = 1.0

    @classmethod
    def positive(cls) -> RuleAgent:
        """A user who tries to broaden what is shown."""
        return cls(0.8, 0.7)

    @classmethod
    def negative(cls) -> RuleAgent:
        """A user who relies on what is shown and takes clear matches only."""
        return cls(0.4, sharpness=2.0)

    @classmethod
    def neutral(cls) -> RuleAgent:
        """A user who takes what fits."""
        return cls(0.6)

    def chance(self, match: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(click) of items that match to this degree, from 0 to 1."""
        fit = match**self.sharpness
        found: NDArray[np.float64] = self.activity * (fit if self.exploration is None else 1 - self.exploration * fit)
        return found

    def decide(self, profile: UserProfile, page: Items, memory: Memory, generator: Generator) -> Decision:
        """Every item by itself, with its chance."""
        return Decision(page[generator.random(len(page)) < self.chance(profile.match(page))])


class EmbeddingAgent:
    """Clicks by how near an item's vector is to what the user took: for vectors of titles and summaries, for instance.

    The match is the cosine with the mean direction of what the user has taken so far, 0 for the farthest and 1 for the
    nearest item of the catalogue; it takes the place of the taste in the rule.

    Args:
        item_vectors: (items, width) from any encoder of texts or images; rows of zeros match nothing.
        rule: how a match becomes a click.
        recent: how many of the latest items are remembered; all by default.

    >>> agent = EmbeddingAgent(torch.eye(3), RuleAgent(1.0))
    >>> agent.match(np.array([0, 1]), np.array([0, 2]))
    array([1., 0.])
    """

    @checked
    def __init__(
        self, item_vectors: Float[Tensor, "items width"], rule: RuleAgent, *, recent: Count | None = None
    ) -> None:
        vectors = item_vectors.detach().double().cpu().numpy()
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = vectors / np.where(lengths > 0, lengths, 1)
        self.rule, self.recent = rule, recent

    def match(self, taken: Items, items: Items) -> NDArray[np.float64]:
        """How well items fit what was taken, from 0 to 1; 0 for a user who took nothing."""
        remembered = taken if self.recent is None else taken[-self.recent :]
        cosines = self.vectors @ self.vectors[remembered].sum(0)
        low, high = cosines.min(), cosines.max()
        found: NDArray[np.float64] = (cosines[items] - low) / (high - low) if high > low else np.zeros(len(items))
        return found

    def decide(self, profile: UserProfile, page: Items, memory: Memory, generator: Generator) -> Decision:
        """Every item by itself, with its chance."""
        chance = self.rule.chance(self.match(memory.taken, page))
        return Decision(page[generator.random(len(page)) < chance])


class Situation(NamedTuple):
    """A page in words, for a policy that reads.

    Attributes:
        attitude: what the user is like in this simulation, such as an instruction to broaden their horizon.
        taste: the categories that the user took, the most frequent first, with their shares.
        traits: "activity", "conformity" and "diversity" → low, middle or high.
        remembered: the latest items that were taken, in words.
        page: the items to choose from, in words.
    """

    attitude: str
    taste: tuple[tuple[str, float], ...]
    traits: dict[str, str]
    remembered: tuple[str, ...]
    page: tuple[str, ...]


Policy: TypeAlias = Callable[[Situation], tuple[Sequence[int], bool]]
"""Situation → places on the page that are clicked (from 0), and whether the user leaves."""


class PolicyAgent:
    """Puts pages into words for a policy that reads, such as a language model, and checks its answer.

    No model comes with this library: `policy` calls yours.

    Args:
        policy: Situation → (places on the page that are clicked, whether the user leaves).
        items: a text for every item of the catalogue: title, genres, rating, summary.
        categories: the names of the categories.
        attitude: what the user is like, given to the policy with every page.
        remembered: how many of the latest items are recalled.
    """

    @checked
    def __init__(
        self,
        policy: Policy,
        items: Sequence[str],
        categories: Sequence[str],
        *,
        attitude: str = "",
        remembered: Whole = 20,
    ) -> None:
        self.policy, self.items, self.categories = policy, tuple(items), tuple(categories)
        self.attitude, self.remembered = attitude, remembered

    def situation(self, profile: UserProfile, page: Items, memory: Memory) -> Situation:
        """The page in words."""
        taste = sorted(zip(self.categories, profile.taste.tolist(), strict=True), key=lambda each: -each[1])
        words = {-1: "unknown", 0: "low", 1: "middle", 2: "high"}
        return Situation(
            self.attitude,
            tuple(each for each in taste if each[1] > 0),
            {name: words[getattr(profile, name)] for name in ("activity", "conformity", "diversity")},
            tuple(self.items[item] for item in memory.taken[max(len(memory.taken) - self.remembered, 0) :].tolist()),
            tuple(self.items[item] for item in page.tolist()),
        )

    def decide(self, profile: UserProfile, page: Items, memory: Memory, generator: Generator) -> Decision:
        """What the policy says.

        Raises:
            ValueError: if it names a place that is not on the page, or one twice.
        """
        places, stop = self.policy(self.situation(profile, page, memory))
        chosen = np.asarray(list(places), dtype=np.int64)
        if len(np.unique(chosen)) < len(chosen) or ((chosen < 0) | (chosen >= len(page))).any():
            raise ValueError(f"policy gave the places {chosen.tolist()} of a page of {len(page)} items")
        return Decision(page[chosen], bool(stop))
