"""Judge a recommender by full ranking, user by user, so that one can ask who is served badly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from equipoise.core.curves.list_ranks import ListRanks, list_ranks
from equipoise.core.distributed import gather_rows, world_size
from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, MayBeEmpty, OpenFraction
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.evaluation.ranking_metrics import (
    MinTest,
    fewest_tests,
    list_lengths,
    metrics_of_ranks,
    refuse_both,
    rows_of,
)
from equipoise.recsys.evaluation.top_lists import Scorer, rows_at_once, scores_of, top_items
from equipoise.recsys.evaluation.user_metrics import USUAL, Conventions, ListTies


@dataclass(frozen=True)
class Mean:
    """A mean over users.

    Attributes:
        value: the mean.
        low: lower end of its interval, value ∓ z · deviation / √users.
        high: upper end.
        users: how many users count.
    """

    value: float
    low: float
    high: float
    users: int


@dataclass(frozen=True, eq=False)
class RankingReport:
    """The metrics of full ranking of every user.

    Attributes:
        users: (n,) which users these are.
        values: name, as in `ranking_metrics` → (n,) float64; NaN where it is undefined for a user.
        tests: (n,) test items of each user.
        ks: lengths of the list.
        lists: (n, longest k) what each user is shown, −1 behind the last candidate; None if it was not asked for.
    """

    users: Int[Tensor, " n"]
    values: Mapping[str, Float[Tensor, " n"]]
    tests: Int[Tensor, " n"]
    ks: tuple[int, ...]
    lists: Int[Tensor, "n k"] | None = None

    def means(self, *, level: OpenFraction = 0.95, min_test: MinTest = 1) -> dict[str, Mean]:
        """Means over users with intervals; of a metric for which no user counts, NaN.

        Args:
            level: of the normal intervals. A user is the unit: that items of one user hang together does not narrow
                them.
            min_test: as in `ranking_metrics`.
        """
        return {name: self._mean(values, name, level, min_test, None) for name, values in self.values.items()}

    def by_group(
        self, group: Integer[Tensor, " n"], *, level: OpenFraction = 0.95, min_test: MinTest = 1
    ) -> dict[int, dict[str, Mean]]:
        """`means` of each group of users.

        Args:
            group: (n,) the group of each of `users`.
            level: as in `means`.
            min_test: as in `means`.

        Raises:
            ValueError: if there is not one group per user.
        """
        if group.shape != self.users.shape:
            raise ValueError(f"group must have one value per user, {len(self.users)}, got shape {tuple(group.shape)}")
        return {
            int(one): {
                name: self._mean(values, name, level, min_test, group == one) for name, values in self.values.items()
            }
            for one in group.unique()
        }

    def joined(self, *others: RankingReport) -> RankingReport:
        """The report of all users of several reports, such as those of shards of the users.

        Raises:
            ValueError: if they do not hold the same metrics.
        """
        reports = (self, *others)
        if any(report.values.keys() != self.values.keys() for report in others):
            raise ValueError("the reports do not hold the same metrics")
        lists = [report.lists for report in reports if report.lists is not None]
        return RankingReport(
            torch.cat([report.users for report in reports]),
            {name: torch.cat([report.values[name] for report in reports]) for name in self.values},
            torch.cat([report.tests for report in reports]),
            self.ks,
            torch.cat(lists) if len(lists) == len(reports) else None,
        )

    def gathered(self) -> RankingReport:
        """The report of the users of all processes of torch.distributed, on every process."""
        if world_size() == 1:
            return self
        return RankingReport(
            gather_rows(self.users),
            {name: gather_rows(values) for name, values in self.values.items()},
            gather_rows(self.tests),
            self.ks,
            None if self.lists is None else gather_rows(self.lists),
        )

    def _mean(self, values: Tensor, name: str, level: float, min_test: int | str, chosen: Tensor | None) -> Mean:
        counted = (self.tests >= fewest_tests(name, min_test, self.ks)) & values.isfinite()
        kept = values[counted if chosen is None else counted & chosen]
        if not len(kept):
            return Mean(math.nan, math.nan, math.nan, 0)
        value = float(kept.mean())
        width = math.inf
        if len(kept) > 1:
            normal = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))
            width = float(normal * kept.std() / len(kept) ** 0.5)
        return Mean(value, value - width, value + width, len(kept))


@checked
def evaluate_recommender(
    model: Scorer,
    test: Interactions,
    exclude: Interactions | None = None,
    *,
    k: Count | Sequence[Count] = (5, 10, 20),
    users: Annotated[Integer[Tensor, " n"], MayBeEmpty()] | None = None,
    max_fpr: Fraction | None = None,
    ties: ListTies = "index",
    conventions: Conventions = USUAL,
    lists: bool = False,
    batch_size: Count | None = None,
) -> RankingReport:
    """Rank all items for every user with a test item, the excluded left out.

    Args:
        model: has `predict(users)`, scores of all items, the higher the better.
        test: what is to be found.
        exclude: items that are no candidates: what was in training, and in validation if that was used.
        k: lengths of the list.
        users: (n,) which users; all who have a test item by default. Shards of users can be judged apart, and their
            reports joined; a shard may be empty.
        max_fpr: as in `ranking_metrics`.
        ties: as in `ranking_metrics`.
        conventions: as in `ranking_metrics`.
        lists: keep what each user is shown.
        batch_size: users scored at once; by default as many as make about eight million scores. It does not change the
            result.

    Raises:
        ValueError: on a bad argument, by name; if the model gives NaN; if an item is both in the test and excluded.

    >>> from equipoise.data import Interactions
    >>> class Constant:
    ...     def predict(self, users):
    ...         return torch.arange(4.0).expand(len(users), 4)
    >>> found = evaluate_recommender(Constant(), Interactions.from_pairs([0, 1], [3, 0]), k=2)
    >>> found.means()["recall@2"].value
    0.5
    """
    ks = list_lengths(k)
    chosen = (test.per_user > 0).nonzero().squeeze(1) if users is None else users.long()
    if users is None and not len(chosen):
        raise ValueError("no user has a test item")
    if exclude is not None:
        refuse_both("user", test, exclude)
    parts = [
        _part(model, part, test, exclude, max(ks) if lists else None)
        for part in chosen.split(batch_size or rows_at_once(test.num_items))
    ]
    whole = test.select(chosen)
    values = metrics_of_ranks(
        ListRanks(*(torch.cat(counts) for counts in zip(*(part.ranks for part in parts), strict=True))),
        whole,
        torch.cat([part.excluded for part in parts]).to(whole.items.device),
        ks,
        max_fpr=max_fpr,
        ties=ties,
        conventions=conventions,
    )
    shown = [part.shown for part in parts if part.shown is not None]
    return RankingReport(chosen, values, whole.per_user, ks, torch.cat(shown) if shown else None)


class _Part(NamedTuple):
    """What is kept of the scores of some users: places of the test items, how many are excluded, the lists."""

    ranks: ListRanks
    excluded: Tensor
    shown: Tensor | None


def _part(model: Scorer, users: Tensor, test: Interactions, exclude: Interactions | None, shown: int | None) -> _Part:
    if not len(users):  # a process that has none, and waits for the others
        return _Part(ListRanks(users, users, users), users, None if shown is None else users.new_zeros((0, shown)))
    scores = scores_of(model, users)
    wanted = rows_of("test", test.select(users), scores)
    barred = rows_of("exclude", None if exclude is None else exclude.select(users), scores)
    ranks = list_ranks(scores, wanted.offsets, wanted.items, barred.offsets, barred.items)
    return _Part(ranks, barred.per_user, None if shown is None else top_items(scores, shown, barred))
