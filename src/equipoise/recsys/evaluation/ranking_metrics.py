"""Full ranking: every item that a user has not had is a candidate, and none is sampled.

The metrics are those of `user_metrics`, averaged over users. They need only the places of the relevant items, which are
counted and not sorted for, so that the cost is a few passes over the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.curves.list_ranks import ListRanks, list_ranks
from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, MayBeInfinite, Values
from equipoise.core.validate import warn_once
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.evaluation.user_metrics import USUAL, Conventions, ListTies, user_metrics

ItemScores: TypeAlias = Annotated[Float[Tensor, "users items"], MayBeInfinite()]
AT_K = ("precision", "recall", "hit_rate", "ndcg", "map", "mrr")
WHOLE = ("map", "mrr", "auc")
_CELLS = Values(((0, "not"), (1, "of the set")))
ItemSet: TypeAlias = (
    Annotated[Integer[Tensor, "users items"] | Bool[Tensor, "users items"] | Float[Tensor, "users items"], _CELLS]
    | Interactions
)
MinTest: TypeAlias = Count | Literal["N"]


@checked
def ranking_metrics(
    scores: ItemScores,
    relevant: ItemSet,
    exclude: ItemSet | None = None,
    *,
    k: Count | Sequence[Count] = (5, 10, 20),
    min_test: MinTest = 1,
    max_fpr: Fraction | None = None,
    ties: ListTies = "index",
    conventions: Conventions = USUAL,
) -> dict[str, Float[Tensor, ""]]:
    """Means over users of the metrics of full ranking.

    Args:
        scores: (users, items), the higher the better.
        relevant: the test items of each user, (users, items) of 0 and 1 or `Interactions` with a row per user.
        exclude: items that are no candidates, such as those of the training part.
        k: lengths of the list.
        min_test: a user counts from this many test items on; "N" asks for k items in metrics at k and for the smallest
            k in the others, as the metric-learning papers do (their values at different k are of different users).
        max_fpr: also the one-way partial AUC per user at this false-positive rate, "opauc".
        ties: "index": items that score the same stand in the order of their index; "expected": the mean over all
            orders.
        conventions: what is divided by.

    Returns:
        "precision@k", "recall@k", "hit_rate@k", "ndcg@k", "map@k", "mrr@k" for every k, "map", "mrr", "auc" and perhaps
        "opauc", float64, and "num_users", the users with at least one test item that count somewhere.

    Raises:
        ValueError: on a bad argument, by name; if an item is both relevant and excluded, or no user counts.

    >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]])
    >>> relevant = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]])
    >>> found = ranking_metrics(scores, relevant, torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), k=2)
    >>> float(found["recall@2"]), float(found["mrr"])
    (0.75, 1.0)
    """
    metric = RankingMetrics(
        k, min_test=min_test, max_fpr=max_fpr, ties=ties, conventions=conventions, sync_on_compute=False
    )
    metric.update(scores, relevant, exclude)
    if not metric.counts.any():
        raise ValueError(f"no user has min_test={min_test!r} relevant items")
    return metric.compute()


class RankingMetrics(WholeMetric):
    """`ranking_metrics` over batches of users; the size of the batches does not change the result.

    Args:
        k: as in `ranking_metrics`.
        min_test: as in `ranking_metrics`.
        max_fpr: as in `ranking_metrics`.
        ties: as in `ranking_metrics`.
        conventions: as in `ranking_metrics`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = RankingMetrics(k=1)
    >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([[1, 0]]))
    >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([[0, 1]]))
    >>> float(metric.compute()["recall@1"])
    0.5
    """

    is_differentiable = False
    higher_is_better = True
    sums: Tensor
    counts: Tensor
    num_users: Tensor

    @checked
    def __init__(
        self,
        k: Count | Sequence[Count] = (5, 10, 20),
        *,
        min_test: MinTest = 1,
        max_fpr: Fraction | None = None,
        ties: ListTies = "index",
        conventions: Conventions = USUAL,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.k = list_lengths(k)
        self.min_test, self.max_fpr, self.ties, self.conventions = min_test, max_fpr, ties, conventions
        self.names = [f"{name}@{one}" for one in self.k for name in AT_K] + list(WHOLE)
        self.names += ["opauc"] if max_fpr is not None else []
        for state, dtype in (("sums", torch.float64), ("counts", torch.int64)):
            self.add_state(state, default=torch.zeros(len(self.names), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("num_users", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: ItemScores, relevant: ItemSet, exclude: ItemSet | None = None) -> None:
        """Take a batch of users.

        Raises:
            ValueError: as `ranking_metrics`, but for users that do not count.
        """
        values, tests = metrics_per_user(
            scores,
            relevant,
            exclude,
            k=self.k,
            max_fpr=self.max_fpr,
            ties=self.ties,
            conventions=self.conventions,
        )
        for place, name in enumerate(self.names):
            fewest = fewest_tests(name, self.min_test, self.k)
            counted = values[name][(tests >= fewest) & values[name].isfinite()]
            self.sums[place] += counted.sum()
            self.counts[place] += len(counted)
        self.num_users += (tests >= fewest_tests("map", self.min_test, self.k)).sum()

    def nothing(self) -> dict[str, Tensor]:
        """NaN by name."""
        return nan_by_name([*self.names, "num_users"], self.device)

    def compute(self) -> dict[str, Tensor]:
        """The means, float64 scalars; NaN, with a warning, of a metric for which no user counts."""
        if not self.counts.all():
            names = [name for name, count in zip(self.names, self.counts.tolist(), strict=True) if not count]
            warn_once(f"{', '.join(names)}: no user counts, the mean is NaN")
        means = dict(zip(self.names, self.sums / self.counts, strict=True))
        return {**means, "num_users": self.num_users.double()}


@checked
def metrics_per_user(
    scores: ItemScores,
    relevant: ItemSet,
    exclude: ItemSet | None = None,
    *,
    k: Count | Sequence[Count] = (5, 10, 20),
    max_fpr: Fraction | None = None,
    ties: ListTies = "index",
    conventions: Conventions = USUAL,
) -> tuple[dict[str, Float[Tensor, " users"]], Integer[Tensor, " users"]]:
    """The metrics of `ranking_metrics` user by user.

    Args:
        scores: as in `ranking_metrics`.
        relevant: as in `ranking_metrics`.
        exclude: as in `ranking_metrics`.
        k: as in `ranking_metrics`.
        max_fpr: as in `ranking_metrics`.
        ties: as in `ranking_metrics`.
        conventions: as in `ranking_metrics`.

    Returns:
        Name → (users,) float64, NaN where it is undefined for a user; and how many test items each user has.

    Raises:
        ValueError: as `ranking_metrics`, but for users that do not count.
    """
    lengths = list_lengths(k)
    wanted, barred = (rows_of(name, s, scores) for name, s in (("relevant", relevant), ("exclude", exclude)))
    refuse_both("row", wanted, barred)
    ranks = list_ranks(scores, wanted.offsets, wanted.items, barred.offsets, barred.items)
    values = metrics_of_ranks(
        ranks, wanted, barred.per_user, lengths, max_fpr=max_fpr, ties=ties, conventions=conventions
    )
    return values, wanted.per_user


def metrics_of_ranks(
    ranks: ListRanks, wanted: Interactions, excluded: Tensor, ks: Sequence[int], **options: Any
) -> dict[str, Tensor]:
    """`user_metrics` from how many items each user may not be shown; warns where a list ends early."""
    candidates = wanted.num_items - excluded
    if len(candidates) and max(ks) > int(candidates.min()):
        warn_once(f"k={max(ks)} is more than some users have candidates; their lists end early")
    return user_metrics(ranks, wanted.offsets, candidates, tuple(ks), **options)


def refuse_both(unit: str, wanted: Interactions, barred: Interactions) -> None:
    """Raise `ValueError` if an item is both relevant and excluded for the same row, which the unit names."""
    if len(barred):
        both = barred.contains(wanted.users, wanted.items)
        if both.any():
            row, item = (int(each[both][0]) for each in (wanted.users, wanted.items))
            raise ValueError(f"item {item} of {unit} {row} is both relevant and excluded")


def fewest_tests(name: str, min_test: int | str, ks: Sequence[int]) -> int:
    """How many test items a user needs to count in the mean of a metric."""
    if isinstance(min_test, int):
        return max(min_test, 1)
    return int(name.partition("@")[2] or min(ks))


def list_lengths(k: int | Sequence[int]) -> tuple[int, ...]:
    """Lengths of the list, each once."""
    several = (k,) if isinstance(k, int) else tuple(dict.fromkeys(k))
    if not several:
        raise ValueError("k holds no value; give at least one length of the list")
    return several


def rows_of(name: str, given: Any, scores: Tensor) -> Interactions:
    """A set of items per row as `Interactions`."""
    users, items = scores.shape
    if given is None:
        return Interactions(
            torch.zeros(users + 1, dtype=torch.int64, device=scores.device), torch.zeros(0).long(), items
        )
    if isinstance(given, Interactions):
        if (given.num_users, given.num_items) != (users, items):
            raise ValueError(f"{name} has {given.num_users} × {given.num_items} cells, scores have {users} × {items}")
        return given
    rows, columns = given.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=users)
    return Interactions(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), columns, items)
