"""Two worlds of the same users and the same recommender, which differ in how the users behave.

The copies that broaden their behaviour form one population and those that narrow it another: mixed in one, a
recommender would carry what the one group clicks over to the other. Both worlds meet the same chance, so that the
difference is paired; how users decide is random by user and copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.bubbles.agents import Memory, RuleAgent, UserAgent
from equipoise.recsys.bubbles.potential import BEPResult, bubble_escape_potential
from equipoise.recsys.bubbles.profiles import Profiles
from equipoise.recsys.bubbles.recommender import Histories, Recommender


@dataclass(frozen=True, eq=False)
class World:
    """What happened to one copy of every user.

    Attributes:
        shown: (users, rounds, page) items, −1 where nothing was.
        clicked: (users, rounds, page) which of them were taken.
    """

    shown: Int[Tensor, "users rounds page"]
    clicked: Bool[Tensor, "users rounds page"]

    def exposure(self, burn_in: int) -> Int[Tensor, "users shown"]:
        """What was shown after the first rounds."""
        return self.shown[:, burn_in:].flatten(1)


@dataclass(frozen=True, eq=False)
class SimulationLog:
    """What happened in both worlds.

    Attributes:
        users: (users,) their numbers in the log.
        positive: the copies that broaden their behaviour.
        negative: the copies that narrow it.
        burn_in: first rounds that do not count.
        item_category: (items, categories) of 0 and 1.
    """

    users: Int[Tensor, " users"]
    positive: World
    negative: World
    burn_in: int
    item_category: Tensor

    @property
    def first_page(self) -> Int[Tensor, "users page"]:
        """What the users were shown before they did anything: the page to judge accuracy by."""
        return self.positive.shown[:, 0]

    def escape_potential(self, **settings: Any) -> BEPResult:
        """`bubble_escape_potential` of what was shown after the burn-in, with its settings."""
        positive, negative = (world.exposure(self.burn_in) for world in (self.positive, self.negative))
        return bubble_escape_potential(positive, negative, self.item_category, **settings)


class ContrastiveSimulation:
    """Simulate two copies of every user with copies of a recommender; reconstructed from the paper's figure.

    In every round each user gets a page of items that were neither in the log nor shown before, and takes some. With a
    small catalogue a user who likes one category runs out of it and is then shown others, which looks like an escape:
    have many more items in each category than rounds · page_size, or allow repeats.

    Args:
        recommender: anything with `recommend` and `update`, see `Recommender`; it is copied and stays as it is.
        behaviors: (positive, negative): who broadens and who narrows their behaviour.
        rounds: pages that each user gets.
        page_size: items on a page.
        burn_in: first rounds that do not count; a third of them by default.
        update_every: rounds between calls of `update`; None for a recommender that is frozen after the log.
        repeats: whether what was shown may be shown again, but for what the log holds.
        strict: whether a page with an item twice, or with one that was to be shown no more, is an error; else such
            cells are left empty.
        seed: of the users' decisions.

    Raises:
        ValueError: on a bad argument, by name, or if no round is left to count.

    >>> from equipoise.recsys import MostPopular, build_profiles
    >>> log = Interactions.from_pairs([0, 0, 1], [0, 1, 2], num_items=40)
    >>> profiles = build_profiles(log, torch.eye(2).long().repeat(20, 1))
    >>> simulation = ContrastiveSimulation(MostPopular().fit(log), rounds=3, page_size=5)
    >>> float(simulation.run(profiles).escape_potential().value)
    0.0
    """

    @checked
    def __init__(
        self,
        recommender: Recommender,
        behaviors: Sequence[UserAgent] = (RuleAgent.positive(), RuleAgent.negative()),
        rounds: Count = 30,
        page_size: Count = 10,
        burn_in: Whole | None = None,
        *,
        update_every: Count | None = 1,
        repeats: bool = False,
        strict: bool = True,
        seed: Whole = 0,
    ) -> None:
        if len(behaviors) != 2:
            raise ValueError(f"behaviors must be two, (positive, negative), got {len(behaviors)}")
        self.burn_in = rounds // 3 if burn_in is None else burn_in
        if self.burn_in >= rounds:
            raise ValueError(f"burn_in={burn_in} must be below rounds={rounds}")
        self.recommender, self.behaviors = recommender, behaviors
        self.rounds, self.page_size, self.update_every = rounds, page_size, update_every
        self.repeats, self.strict, self.seed = repeats, strict, seed

    def run(self, profiles: Profiles) -> SimulationLog:
        """Simulate.

        Raises:
            ValueError: if the recommender gives a page of another shape, or in strict mode one with an item twice or
                that was to be shown no more; if an agent takes what is not on the page.
            IndexError: if a page holds an item that is not in the catalogue.
        """
        positive, negative = (self._world(profiles, agent, 1 - place) for place, agent in enumerate(self.behaviors))
        return SimulationLog(profiles.users, positive, negative, self.burn_in, profiles.item_category)

    def _world(self, profiles: Profiles, agent: UserAgent, sign: int) -> World:
        recommender = deepcopy(self.recommender)
        people = profiles.all()
        streams = [np.random.default_rng([self.seed, person.user, sign]) for person in people]
        state = _State(profiles, self.repeats)
        shape = (len(people), self.rounds, self.page_size)
        shown, clicked = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=bool)
        active = np.ones(len(people), dtype=bool)
        histories = state.histories()
        recommender.update(histories)
        for turn in range(self.rounds):
            pages = self._checked(recommender.recommend(histories, self.page_size), histories)
            pages[~active] = -1
            shown[:, turn] = pages
            active &= (pages >= 0).all(1)
            for row in np.flatnonzero((pages >= 0).any(1)).tolist():
                page = pages[row][pages[row] >= 0]
                earlier = shown[row, :turn]
                memory = Memory(state.taken[row], earlier[earlier >= 0])
                decision = agent.decide(people[row], page, memory, streams[row])
                taken = np.isin(pages[row], decision.clicked) & (pages[row] >= 0)
                if taken.sum() != len(decision.clicked):
                    raise ValueError(
                        f"the agent took {np.asarray(decision.clicked).tolist()} from the page {page.tolist()}"
                    )
                clicked[row, turn] = taken
                active[row] &= not decision.stop
            state.add(pages, clicked[:, turn])
            histories = state.histories()
            if self.update_every is not None and (turn + 1) % self.update_every == 0:
                recommender.update(histories)
        return World(torch.from_numpy(shown), torch.from_numpy(clicked))

    def _checked(self, given: Any, histories: Histories) -> NDArray[np.int64]:
        pages = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        users, items = histories.seen.num_users, histories.seen.num_items
        if pages.shape != (users, self.page_size) or pages.dtype.kind not in "iu":
            raise ValueError(
                f"the recommender's pages must be whole numbers of shape {(users, self.page_size)}, got {pages.shape} "
                f"of {pages.dtype}"
            )
        pages = pages.astype(np.int64)
        if len(pages) and (pages.max() >= items or pages.min() < -1):
            wrong = pages[(pages >= items) | (pages < -1)][0]
            raise IndexError(f"the recommender shows the item {wrong}, wanted 0 to {items - 1}, or -1 for nothing")
        ordered = np.argsort(pages, axis=1, kind="stable")
        along = np.take_along_axis(pages, ordered, 1)
        twice = np.zeros_like(pages, dtype=bool)
        np.put_along_axis(twice, ordered[:, 1:], along[:, 1:] == along[:, :-1], 1)
        rows = torch.arange(users)[:, None].expand(pages.shape)
        seen = histories.seen.contains(rows, torch.from_numpy(np.maximum(pages, 0))).numpy()
        for wrong, words in ((twice & (pages >= 0), "twice on a page"), (seen & (pages >= 0), "again")):
            if wrong.any() and self.strict:
                row, cell = np.argwhere(wrong)[0]
                raise ValueError(f"the recommender shows item {pages[row, cell]} {words} to the user in row {row}")
            pages[wrong] = -1
        return pages


class _State:
    """What the users of a world have taken and been shown, in the order of time."""

    def __init__(self, profiles: Profiles, repeats: bool) -> None:
        history = profiles.history
        self.log, self.repeats = history, repeats
        bounds = history.offsets.tolist()
        sequence = profiles.sequence.numpy()
        self.taken = [sequence[low:high] for low, high in pairwise(bounds)]
        self.seen = history

    def add(self, pages: NDArray[np.int64], clicked: NDArray[np.bool_]) -> None:
        for row in np.flatnonzero(clicked.any(1)).tolist():
            items = pages[row][clicked[row]]
            new = items[~np.isin(items, self.taken[row])] if self.repeats else items
            self.taken[row] = np.concatenate([self.taken[row], new])
        if not self.repeats:
            rows, cells = np.nonzero(pages >= 0)
            shown = Interactions.from_pairs(
                rows, pages[rows, cells], num_users=self.log.num_users, num_items=self.log.num_items
            )
            self.seen = self.seen.union(shown)

    def histories(self) -> Histories:
        sequence = np.concatenate(self.taken)
        users = np.repeat(np.arange(len(self.taken)), [len(each) for each in self.taken])
        taken = Interactions.from_pairs(users, sequence, num_users=self.log.num_users, num_items=self.log.num_items)
        return Histories(taken, torch.from_numpy(sequence), self.seen)
