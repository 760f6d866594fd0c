"""One ranking of items from the answers of everybody, with what can and cannot be said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from equipoise.core.settings import HasSettings
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, OpenFraction, Positive, Whole
from equipoise.core.validate import warn_once
from equipoise.crowd.columns import check_index
from equipoise.crowd.consensus.elo import elo_ratings
from equipoise.crowd.consensus.hodge import hodge_of_counts
from equipoise.crowd.consensus.likelihood import LinkName, greatest_likelihood
from equipoise.crowd.consensus.resampling import (
    ConsensusIntervals,
    Unit,
    count_replicates,
    fitted_replicates,
    intervals_of,
    ranks_within,
    row_replicates,
)
from equipoise.crowd.consensus.separation import separated_groups
from equipoise.crowd.laplacian import Vector
from equipoise.data.comparisons.answers import Comparisons
from equipoise.data.comparisons.pair_counts import PairCounts

Method: TypeAlias = Literal["bradley_terry", "thurstone", "hodge", "elo"]
_SAVED = ("scores_", "component_", "compared_")


class ConsensusRanker(HasSettings):
    """Scores of items that a crowd compared, as an estimator.

    Annotators are taken to be alike; of several components, each is ranked by itself, with a warning.

    Args:
        method: "bradley_terry", "thurstone", "hodge" (least squares) or "elo" (which depends on the order of the
            comparisons).
        ridge: price of scores of the two likelihoods; above 0, items that never lost have finite scores.
        elo_k: most that a comparison moves a rating of "elo".

    Attributes:
        scores_: (items,) float64 of mean 0 in each component, the higher the better.
        component_: (items,) items linked by comparisons, the largest component is 0.
        compared_: (items,) whether the item was compared at all; if not, its score is 0 and says nothing.
        never_lost_: groups of items, by index, that won every comparison with the rest of their component.
        never_won_: groups that lost every one.
        inconsistency_: of "hodge", the share of the answers that no scores explain; else None.
        item_names_: names of the items, or None.

    >>> said = Comparisons.from_columns(None, [0, 1, 2, 0], [1, 2, 0, 2], [1, 1, 1, 1], item_names=["a", "b", "c"])
    >>> ranker = ConsensusRanker().fit(said)
    >>> ranker.rank().tolist(), ranker.ordered()
    ([1, 2, 3], ['a', 'b', 'c'])
    """

    scores_: Float[Tensor, " items"]
    component_: Int[Tensor, " items"]
    compared_: Bool[Tensor, " items"]
    never_lost_: tuple[tuple[int, ...], ...]
    never_won_: tuple[tuple[int, ...], ...]
    inconsistency_: float | None
    item_names_: tuple[str, ...] | None

    @checked
    def __init__(self, method: Method = "bradley_terry", *, ridge: NonNegative = 0.0, elo_k: Positive = 32.0) -> None:
        self.method, self.ridge, self.elo_k = method, ridge, elo_k
        self._said: Comparisons | PairCounts | None = None

    @checked
    def fit(self, comparisons: Comparisons | PairCounts) -> ConsensusRanker:
        """Rank the items.

        Args:
            comparisons: the answers; or their counts, which may be merged of parts or of several processes.

        Raises:
            ValueError: without a ridge, if items never lost or never won against the rest of their component; if
                "elo" is given counts, which have no order.
        """
        names = comparisons.item_names if isinstance(comparisons, Comparisons) else None
        if self.method == "elo" and isinstance(comparisons, PairCounts):
            raise ValueError("method='elo' depends on the order of comparisons, which PairCounts do not have")
        counts = PairCounts.of(comparisons) if isinstance(comparisons, Comparisons) else comparisons
        if not len(counts):
            raise ValueError("comparisons are empty: no pair was counted")
        component = counts.components()
        self.inconsistency_ = None
        if self.method == "elo":
            assert isinstance(comparisons, Comparisons)
            scores = self._elo(comparisons, component)
        elif self.method == "hodge":
            found = hodge_of_counts(counts)
            scores, self.inconsistency_ = found.score, found.inconsistency
        else:
            scores = greatest_likelihood(counts, _LINK[self.method], self.ridge, names=names).score
        self.scores_, self.component_, self.item_names_, self._said = scores, component, names, comparisons
        self.compared_ = torch.zeros(counts.num_items, dtype=torch.bool)
        self.compared_[counts.first] = True
        self.compared_[counts.second] = True
        self.never_lost_, self.never_won_ = separated_groups(counts)
        parts = len(component[self.compared_].unique())
        if parts > 1:
            warn_once(f"the items fall into {parts} components without a comparison between them; see component_")
        return self

    def rank(self) -> Int[Tensor, " items"]:
        """Ranks (items,) within each component: 1 is the best, equal scores share one, 0 was not compared."""
        self._check_fitted()
        return torch.from_numpy(ranks_within(self.scores_.numpy(), self.component_.numpy(), self.compared_.numpy()))

    @checked
    def ordered(self, component: Whole = 0) -> list[str] | list[int]:
        """The items of a component, the best first, by name where they have names.

        Raises:
            ValueError: if there is no such component.
        """
        self._check_fitted()
        items = ((self.component_ == component) & self.compared_).nonzero().squeeze(1)
        if not len(items):
            raise ValueError(f"component={component} has no compared items, see component_")
        best = items[self.scores_[items].argsort(descending=True, stable=True)].tolist()
        return best if self.item_names_ is None else [self.item_names_[item] for item in best]

    @checked
    def probability(self, item_i: Integer[Tensor, " n"], item_j: Integer[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The chance (n,) that item_i is preferred to item_j; NaN between components.

        Raises:
            ValueError: on an index that is none, or of "hodge", which has no chances.
        """
        self._check_fitted()
        if self.method == "hodge":
            raise ValueError("method='hodge' has no probabilities; use 'bradley_terry' or 'thurstone'")
        check_index("item_i", item_i, len(self.scores_))
        check_index("item_j", item_j, len(self.scores_))
        one, other = item_i.long(), item_j.long()
        gap = self.scores_[one] - self.scores_[other]
        if self.method == "elo":
            gap = gap * np.log(10) / 400
        chance = torch.special.ndtr(gap) if self.method == "thurstone" else gap.sigmoid()
        return torch.where(self.component_[one] == self.component_[other], chance, torch.nan)

    @checked
    def intervals(
        self,
        *,
        resamples: Count = 200,
        confidence: OpenFraction = 0.95,
        over: Unit = "comparisons",
        seed: Whole = 0,
    ) -> ConsensusIntervals:
        """Intervals of scores and ranks, and groups of items that cannot be told apart.

        Args:
            resamples: replicates.
            confidence: of the two-sided intervals, in (0, 1).
            over: what is drawn anew: single "comparisons", or "annotators" with all their answers, for answers of one
                person go together.
            seed: of the draws.

        Raises:
            RuntimeError: before `fit`, or after `load`, which has no comparisons.
            ValueError: if annotators are asked for and not known, or too many replicates have no scores.
        """
        self._check_fitted()
        said = self._said
        if said is None:
            raise RuntimeError("the comparisons are not saved with a ranker; call fit(comparisons) again")
        generator = np.random.default_rng(seed)
        if self.method == "elo":
            assert isinstance(said, Comparisons)
            rows = row_replicates(said, over, generator)
            replicates = np.stack(
                [self._elo(said.take(torch.from_numpy(next(rows))), self.component_).numpy() for _ in range(resamples)]
            )
            redrawn = 0
        else:
            drawn = count_replicates(said, over, generator)
            replicates, redrawn = fitted_replicates(drawn, self._refitted, resamples)
        return intervals_of(
            self.scores_.numpy(), replicates, self.component_, self.compared_, confidence, redrawn, over
        )

    def save(self, path: str | Path) -> None:
        """Write settings and scores as JSON, without the comparisons."""
        self._check_fitted()
        about = {
            "kind": "ConsensusRanker",
            "settings": self.get_params(),
            "never_lost": self.never_lost_,
            "never_won": self.never_won_,
            "inconsistency": self.inconsistency_,
            "item_names": self.item_names_,
            **{name: getattr(self, name).tolist() for name in _SAVED},
        }
        Path(path).write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ConsensusRanker:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file does not hold a ranker.
        """
        try:
            about = json.loads(Path(path).read_text(encoding="utf-8"))
            found = cls(**about["settings"])
            found.scores_ = torch.tensor(about["scores_"], dtype=torch.float64)
            found.component_ = torch.tensor(about["component_"], dtype=torch.long)
            found.compared_ = torch.tensor(about["compared_"], dtype=torch.bool)
            found.never_lost_, found.never_won_ = (
                tuple(tuple(group) for group in about[name]) for name in ("never_lost", "never_won")
            )
            found.inconsistency_, names = about["inconsistency"], about["item_names"]
            found.item_names_ = None if names is None else tuple(names)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold a consensus ranker: {error}") from error
        return found

    def _elo(self, said: Comparisons, component: Tensor) -> Tensor:
        ratings = elo_ratings(
            said.left, said.right, said.label, said.weight, k=self.elo_k, initial=0.0, num_items=said.num_items
        )
        means = torch.bincount(component, ratings) / torch.bincount(component)
        return ratings - means[component]

    def _refitted(self, counts: PairCounts) -> Vector | None:
        """Scores of a replicate, begun at those of the whole."""
        linked = self.method != "hodge" and self.ridge > 0
        if not linked and not counts.components().equal(self.component_):
            return None
        if self.method == "hodge":
            return hodge_of_counts(counts).score.numpy()
        if not linked and any(separated_groups(counts)):
            return None
        start = self.scores_.numpy()
        return greatest_likelihood(counts, _LINK[self.method], self.ridge, start=start, replicate=True).score.numpy()

    def _check_fitted(self) -> None:
        if not hasattr(self, "scores_"):
            raise RuntimeError("the ranker is not fitted; call fit(comparisons) first")


_LINK: dict[str, LinkName] = {"bradley_terry": "logistic", "thurstone": "normal"}
