"""How far a consensus would move with other answers or other annotators, by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.crowd.laplacian import Vector
from equipoise.data.comparisons.answers import Comparisons
from equipoise.data.comparisons.pair_counts import PairCounts

Unit: TypeAlias = Literal["comparisons", "annotators"]
Refit: TypeAlias = Callable[[PairCounts], Vector | None]
"""Counts of a replicate → its scores, None where it has none or is linked otherwise than the whole."""


@dataclass(frozen=True, eq=False)
class ConsensusIntervals:
    """Intervals of the scores and ranks of a consensus.

    Attributes:
        score: (items,) the consensus.
        standard_error: (items,) standard deviation of the replicates.
        low: (items,) lower ends, percentiles of the replicates.
        high: (items,) upper ends.
        rank: (items,) 1 is the best of a component, 0 an item that was not compared.
        rank_low: (items,) the best rank of the interval.
        rank_high: (items,) the worst.
        groups: items that cannot be told apart, the best first, by component: a group is begun by the best item left
            and takes the items below it up to the first one whose difference to that item has an interval without 0.
        component: (items,) scores compare within a component.
        confidence: of the two-sided intervals.
        resamples: replicates there are.
        redrawn: replicates without scores that were drawn again: the more, the narrower the intervals are made.
        over: "comparisons" or "annotators".
    """

    score: Float[Tensor, " items"]
    standard_error: Float[Tensor, " items"]
    low: Float[Tensor, " items"]
    high: Float[Tensor, " items"]
    rank: Int[Tensor, " items"]
    rank_low: Int[Tensor, " items"]
    rank_high: Int[Tensor, " items"]
    groups: tuple[tuple[int, ...], ...]
    component: Int[Tensor, " items"]
    confidence: float
    resamples: int
    redrawn: int
    over: Unit


def count_replicates(
    said: Comparisons | PairCounts, over: Unit, generator: np.random.Generator
) -> Iterator[PairCounts]:
    """Counts of endless replicates.

    Drawing n answers anew only changes how many of them fall into each cell of pair and outcome, so a replicate draws
    multinomial counts of the cells; drawing annotators anew adds up the cells of each as often as it was drawn.

    Raises:
        ValueError: if annotators are asked for and there is one or none, or the counts of a `PairCounts` are not whole.
    """
    if isinstance(said, PairCounts):
        if over == "annotators":
            raise ValueError("over='annotators' needs Comparisons; PairCounts do not say who answered")
        cells = torch.stack([said.first_wins, said.second_wins, said.ties]).reshape(-1).numpy()
        if not (cells == np.floor(cells)).all():
            raise ValueError("the counts are not whole, so that single answers cannot be drawn; give Comparisons")
        filled = np.flatnonzero(cells)
        return _of_cells(said, filled, np.ones(len(filled)), cells[filled], generator)
    counts, place = _placed(said)
    weight = said.weight.numpy()
    if over == "annotators":
        if int((said.per_annotator > 0).sum()) < 2:
            raise ValueError("over='annotators' needs at least 2 annotators with answers, got 1")
        return _of_annotators(counts, said, place, generator)
    if (weight == np.floor(weight)).all():
        # A whole weight is that many answers.
        return count_replicates(counts, over, generator)
    kinds, times = np.unique(np.stack([place, weight]), axis=1, return_counts=True)
    return _of_cells(counts, kinds[0].astype(np.int64), kinds[1], times.astype(np.float64), generator)


def row_replicates(said: Comparisons, over: Unit, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows of endless replicates, each in the order of the comparisons: for what depends on it."""
    if over == "comparisons":
        while True:
            yield np.sort(generator.integers(len(said), size=len(said)))
    who = said.annotator.numpy()
    present = np.unique(who)
    if len(present) < 2:
        raise ValueError("over='annotators' needs at least 2 annotators with answers, got 1")
    while True:
        drawn = np.bincount(generator.choice(present, len(present)), minlength=said.num_annotators)
        yield np.repeat(np.arange(len(said)), drawn[who])


def fitted_replicates(drawn: Iterator[PairCounts], refit: Refit, resamples: int) -> tuple[NDArray[np.float64], int]:
    """Scores (resamples, items) of replicates, and how many had none and were drawn again.

    Raises:
        ValueError: if a fifth of the draws have none.
    """
    scores: list[Vector] = []
    redrawn = 0
    while len(scores) < resamples:
        found = refit(next(drawn))
        if found is not None:
            scores.append(found)
            continue
        redrawn += 1
        if redrawn > 10 + len(scores) // 4:
            raise ValueError(
                f"{redrawn} of {redrawn + len(scores)} replicates have no finite scores, or fall apart into other "
                "components; set ridge, such as ridge=0.1, or collect more answers"
            )
    return np.stack(scores), redrawn


def intervals_of(
    score: Vector,
    replicates: NDArray[np.float64],
    component: Tensor,
    compared: Tensor,
    confidence: float,
    redrawn: int,
    over: Unit,
) -> ConsensusIntervals:
    """Percentile intervals of scores and ranks, and the groups of items that cannot be told apart."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(replicates, tails, axis=0)
    place, known = component.numpy(), compared.numpy()
    rank = ranks_within(score, place, known)
    ranks = np.stack([ranks_within(each, place, known) for each in replicates])
    rank_low, rank_high = np.quantile(ranks, tails, axis=0, method="inverted_cdf").astype(np.int64)
    groups: list[tuple[int, ...]] = []
    for number in range(int(place.max()) + 1):
        left = np.flatnonzero((place == number) & known)
        left = left[np.argsort(-score[left], kind="stable")]
        while len(left):
            gaps = replicates[:, left[:1]] - replicates[:, left]
            apart = np.quantile(gaps, tails[0], axis=0) > 0
            size = int(np.argmax(apart)) if apart.any() else len(left)
            groups.append(tuple(left[:size].tolist()))
            left = left[size:]
    return ConsensusIntervals(
        torch.from_numpy(score),
        torch.from_numpy(replicates.std(0, ddof=1) if len(replicates) > 1 else np.full_like(score, np.nan)),
        torch.from_numpy(low),
        torch.from_numpy(high),
        torch.from_numpy(rank),
        torch.from_numpy(rank_low),
        torch.from_numpy(rank_high),
        tuple(groups),
        component,
        confidence,
        len(replicates),
        redrawn,
        over,
    )


def ranks_within(score: Vector, component: NDArray[np.int64], compared: NDArray[np.bool_]) -> NDArray[np.int64]:
    """1 + how many items of the component score higher, by more than rounding; 0 for items that were not compared."""
    close = 1e-9 * (1 + float(np.abs(score).max(initial=0.0)))
    order = np.lexsort((-score, component))
    first = np.empty(len(order), dtype=bool)
    first[:1] = True
    new = component[order][1:] != component[order][:-1]
    first[1:] = new | (score[order][:-1] - score[order][1:] > close)
    begin = np.concatenate([[True], new])
    places = np.arange(len(order))
    within = places - np.maximum.accumulate(np.where(begin, places, 0))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = 1 + within[np.maximum.accumulate(np.where(first, places, 0))]
    ranks[~compared] = 0
    return ranks


def _placed(said: Comparisons) -> tuple[PairCounts, NDArray[np.int64]]:
    """The counts, and the cell of every comparison: pairs of first wins, then of second wins, then of ties."""
    counts = PairCounts.of(said)
    low, high = torch.minimum(said.left, said.right), torch.maximum(said.left, said.right)
    pair = torch.searchsorted(counts.first * said.num_items + counts.second, low * said.num_items + high)
    turned = torch.where(said.left < said.right, said.label, -said.label)
    outcome = torch.where(turned == 1, 0, torch.where(turned == -1, 1, 2))
    return counts, (outcome * len(counts) + pair).numpy()


def _of_cells(
    counts: PairCounts, cell: NDArray[np.int64], weight: Vector, times: Vector, generator: np.random.Generator
) -> Iterator[PairCounts]:
    total, chance = int(times.sum()), times / times.sum()
    while True:
        drawn = generator.multinomial(total, chance)
        yield _counted(counts, np.bincount(cell, drawn * weight, 3 * len(counts)).astype(np.float64, copy=False))


def _of_annotators(
    counts: PairCounts, said: Comparisons, place: NDArray[np.int64], generator: np.random.Generator
) -> Iterator[PairCounts]:
    from scipy.sparse import coo_array

    shape = (3 * len(counts), said.num_annotators)
    by_annotator = coo_array((said.weight.numpy(), (place, said.annotator.numpy())), shape=shape).tocsr()
    present = np.unique(said.annotator.numpy())
    while True:
        drawn = np.bincount(generator.choice(present, len(present)), minlength=said.num_annotators)
        yield _counted(counts, by_annotator @ drawn.astype(np.float64))


def _counted(counts: PairCounts, cells: Vector) -> PairCounts:
    won, lost, tied = torch.from_numpy(np.ascontiguousarray(cells)).reshape(3, -1)
    kept = won + lost + tied > 0
    return PairCounts(counts.first[kept], counts.second[kept], won[kept], lost[kept], tied[kept], counts.num_items)
