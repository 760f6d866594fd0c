"""One ranking of the items by each method, and how sure the first one is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equipoise.crowd import ConsensusIntervals, ConsensusRanker
from equipoise.data import Comparisons, PairCounts, comparison_folds
from equipoise.workflows.rank.request import RankRequest

METHODS = ("bradley-terry", "thurstone", "hodge", "elo")
# Below so many annotators, draws of whole annotators say little.
_HANDFUL = 6


@dataclass(frozen=True)
class Consensus:
    """The rankings of everybody.

    Attributes:
        chosen: the method that is written first.
        rankers: each method, fitted.
        accuracy: method → share of held-out decided answers that go to the item with the higher score.
        agreement: method → Kendall's tau with the chosen one, over pairs of linked items.
        intervals: of the chosen one; None where they cannot be drawn.
        counts: answers by pair.
    """

    chosen: str
    rankers: dict[str, ConsensusRanker]
    accuracy: dict[str, float]
    agreement: dict[str, float]
    intervals: ConsensusIntervals | None
    counts: PairCounts

    @property
    def ranker(self) -> ConsensusRanker:
        """The chosen one."""
        return self.rankers[self.chosen]


def find_consensus(
    said: Comparisons, request: RankRequest, notice: Callable[[str], None], progress: Callable[[str], None]
) -> Consensus:
    """Every method on all answers and on folds, and intervals of the one that is asked for."""
    rankers, accuracy = {}, {}
    fold = comparison_folds(said, request.folds, seed=request.seed)
    for name in METHODS:
        progress(f"ranking by {name}")
        rankers[name] = _ranker(name, request).fit(said)
        accuracy[name] = _held_out(name, said, fold, request)
    chosen = rankers[request.method]
    agreement = {name: kendall(chosen.scores_, one.scores_, chosen.component_) for name, one in rankers.items()}
    progress(f"drawing {request.resamples:,} times")
    intervals = _intervals(chosen, said, request, notice)
    return Consensus(request.method, rankers, accuracy, agreement, intervals, PairCounts.of(said))


def _ranker(name: str, request: RankRequest) -> ConsensusRanker:
    return ConsensusRanker(name.replace("-", "_"), ridge=request.ridge)  # type: ignore[arg-type]


def _held_out(name: str, said: Comparisons, fold: Tensor, request: RankRequest) -> float:
    """The share of decided answers kept by scores that were found without them; equal scores keep half of them."""
    right = total = 0.0
    for number in range(request.folds):
        held = said.take(((fold == number) & (said.label != 0)).nonzero()[:, 0])
        rest = said.take((fold != number).nonzero()[:, 0])
        if not len(held) or not len(rest):
            continue
        scores = _ranker(name, request).fit(rest).scores_
        gap = (scores[held.left] - scores[held.right]) * held.label
        right += float(held.weight @ ((gap > 0).double() + (gap == 0).double() / 2))
        total += float(held.weight.sum())
    return right / total if total else math.nan


def _intervals(
    ranker: ConsensusRanker, said: Comparisons, request: RankRequest, notice: Callable[[str], None]
) -> ConsensusIntervals | None:
    people = int((said.per_annotator > 0).sum())
    several = people >= _HANDFUL
    if not several:
        who = "one annotator" if people == 1 else f"{people} annotators"
        notice(
            f"there {'is' if people == 1 else 'are'} {who}, too few to draw from, so that single answers are drawn; "
            "intervals say how sure their ranking is, not that of others"
        )
    try:
        return ranker.intervals(
            resamples=request.resamples,
            confidence=request.confidence,
            over="annotators" if several else "comparisons",
            seed=request.seed,
        )
    except ValueError as error:
        if "replicates" not in str(error):
            raise
        notice(f"there are no intervals: {str(error).split(';')[0]}; --method bradley-terry with --ridge has some")
        return None


def kendall(one: Tensor, other: Tensor, component: Tensor) -> float:
    """Kendall's tau-b of two scores over the largest component; NaN where one of them is the same for all."""
    from scipy.stats import kendalltau

    inside = component == 0
    first, second = (np.round(each[inside].numpy(), 9) for each in (one, other))
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(kendalltau(first, second).statistic)


def others_scores(said: Comparisons, ridge: float, groups: int, seed: int) -> tuple[Tensor, Tensor]:
    """For each answer, Bradley–Terry score of its left item less that of its right one, by the answers of others.

    Annotators are dealt to groups, and each group is judged by the answers of all other groups.

    Returns:
        (n,) gaps, 0 where there is none, and (n,) whether the others link the two items.
    """
    generator = np.random.default_rng(seed)
    people = torch.from_numpy(generator.permutation(said.num_annotators))
    part = (people % groups)[said.annotator]
    gap = torch.zeros(len(said), dtype=torch.float64)
    known = torch.zeros(len(said), dtype=torch.bool)
    for number in part.unique().tolist():
        inside = part == number
        if bool(inside.all()):
            continue
        found = ConsensusRanker("bradley_terry", ridge=ridge).fit(said.take((~inside).nonzero()[:, 0]))
        one, other = said.left[inside], said.right[inside]
        gap[inside] = found.scores_[one] - found.scores_[other]
        linked = found.component_[one] == found.component_[other]
        known[inside] = linked & found.compared_[one] & found.compared_[other]
    return gap, known
