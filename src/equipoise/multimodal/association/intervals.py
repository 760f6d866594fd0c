"""How sure the metrics of association are: a bootstrap of identities, who are drawn with all their samples.

A replicate draws as many identities as there are, with replacement, on both sides at once. One that is drawn w times
counts w times as a query and w times among the candidates of others, so that chance in who is asked and chance in who
is compared with are both in the interval; its copies are not compared with each other, since that would be asking for
something twice in a list that has it once. Estimates are exact, and so are the replicates of matching and retrieval:
the counts of negatives above a positive, in all replicates, are one product of a table of comparisons with the counts
of identities. Those of the verification area take a random part of the negative pairs, half a million at most, and the
interval is moved by what that changed of the estimate.

Few identities make intervals too narrow: below about ten, do not rely on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.intervals import UNDEFINED, Interval
from equipoise.core.signature import checked
from equipoise.core.types import OpenFraction, Whole
from equipoise.multimodal.association.matching import ListLength, Ties, accuracy_of_pairs, chance_on_top
from equipoise.multimodal.association.metric import GalleryIndex, QueryIndex
from equipoise.multimodal.association.pairs import PositivePairs, Sides, positive_pairs, sides
from equipoise.multimodal.association.retrieval import precision_of_pairs
from equipoise.multimodal.association.verification import area_of_pairs

# Comparisons that are held at once, and negative pairs that the area is drawn from.
_TABLE = 1 << 22
_PAIRS = 1 << 19


@dataclass(frozen=True)
class AssociationScores:
    """Metrics of one direction, each with its interval.

    Attributes:
        matching: N → 1:N matching accuracy; NaN where no query has N − 1 negatives.
        auc: verification area.
        retrieval: mean average precision.
        queries: that have something to find.
        identities: of these queries.
        pairs: positive pairs.
        prevalence: share of positive pairs among all pairs, which is what a random ranking gets for a mean average
            precision with one item to find in a long list.
    """

    matching: dict[int, Interval]
    auc: Interval
    retrieval: Interval
    queries: int
    identities: int
    pairs: int
    prevalence: float


@checked
def association_scores(
    query: Float[Tensor, "q d"],
    gallery: Float[Tensor, "g d"],
    query_identity: QueryIndex,
    gallery_identity: GalleryIndex,
    query_group: QueryIndex | None = None,
    gallery_group: GalleryIndex | None = None,
    *,
    n_way: Sequence[ListLength] = (2,),
    ties: Ties = "fractional",
    resamples: Whole = 200,
    confidence: OpenFraction = 0.95,
    seed: Whole = 0,
) -> AssociationScores:
    """Matching, verification and retrieval of one direction, with intervals by a bootstrap of identities.

    Args:
        query: (q, d) embeddings of one modality; scores are cosines.
        gallery: (g, d) of the other.
        query_identity: (q,) whole numbers.
        gallery_identity: (g,).
        query_group: (q,) whose negatives are those of the same group; a group belongs to an identity.
        gallery_group: (g,).
        n_way: list lengths N of matching.
        ties: as in `matching_accuracy`.
        resamples: how many replicates; 0 for estimates without intervals, whose ends are NaN.
        confidence: of the two-sided intervals, in (0, 1).
        seed: of the replicates.

    Raises:
        ValueError: if no query has a positive or none a negative, or an identity has two groups.

    >>> generator = torch.Generator().manual_seed(0)
    >>> face, identity = torch.randn(40, 6, generator=generator), torch.arange(40) // 2
    >>> voice = face + torch.randn(40, 6, generator=generator)
    >>> print(association_scores(face, voice, identity, identity).matching[2])
    0.690 [0.628, 0.757]
    """
    both = sides(query, gallery, query_identity, gallery_identity, query_group, gallery_group)
    pairs = positive_pairs(both)
    area = area_of_pairs(both, pairs)
    possible = [n for n in n_way if bool((pairs.negatives >= n - 1).any())]
    matching = {n: float(accuracy_of_pairs(pairs, n, ties)) for n in possible}
    retrieval = float(precision_of_pairs(pairs))
    draws: dict[str | int, Float[Tensor, " r"]] = {}
    shift = 0.0
    if resamples:
        generator = np.random.default_rng(seed)
        drawn = _drawn(both, resamples, generator)
        draws.update(_of_counts(both, drawn, possible, ties))
        draws["auc"], sampled = _of_areas(both, pairs, drawn, generator)
        shift = float(area) - sampled

    def interval(name: str | int, estimate: float, moved: float = 0.0) -> Interval:
        if name not in draws:
            return Interval(estimate, math.nan, math.nan)
        held = draws[name][draws[name].isfinite()].numpy()
        if not len(held):
            return Interval(estimate, math.nan, math.nan)
        low, high = np.quantile(held, [0.5 - confidence / 2, 0.5 + confidence / 2]) + moved
        return Interval(estimate, float(min(low, estimate)), float(max(high, estimate)))

    asked = pairs.query.unique()
    total = sum(block.scores.numel() for block in both.blocks())
    return AssociationScores(
        matching={n: interval(n, matching[n]) if n in matching else UNDEFINED for n in n_way},
        auc=interval("auc", float(area), shift),
        retrieval=interval("retrieval", retrieval),
        queries=len(asked),
        identities=len(both.query_identity[asked].unique()),
        pairs=len(pairs.query),
        prevalence=len(pairs.query) / total,
    )


def _drawn(both: Sides, resamples: int, generator: np.random.Generator) -> Float[Tensor, "identities r"]:
    """How often each identity of either side is drawn."""
    n = both.num_identities
    counts = [np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(resamples)]
    return torch.from_numpy(np.stack(counts, 1)).double()


def _of_counts(both: Sides, drawn: Tensor, n_way: Sequence[int], ties: Ties) -> dict[str | int, Float[Tensor, " r"]]:
    """Matching accuracies and mean average precision of every replicate."""
    names: list[str | int] = [*n_way, "retrieval"]
    sums = {name: torch.zeros(2, drawn.shape[1], dtype=torch.float64) for name in names}
    for block in both.blocks():
        among = drawn[both.gallery_identity[block.columns]].float()
        row, wanted = block.same.nonzero(as_tuple=True)
        positives = block.same.sum(1)
        step = max(1, _TABLE // max(1, block.scores.shape[1]))
        for part in torch.arange(len(row)).split(step):
            at = row[part]
            times = drawn[both.query_identity[block.rows[at]]]
            scores, others = block.scores[at], ~block.same[at]
            value = block.scores[at, wanted[part]][:, None]
            above, tied, negatives = (
                (table.float() @ among).double()
                for table in ((scores > value) & others, (scores == value) & others, others)
            )
            reached = ((scores >= value) & ~others).sum(1, keepdim=True)
            share = times / positives[at][:, None]
            for n in n_way:
                kept = share * (negatives >= n - 1)
                sums[n] += torch.stack([(kept * chance_on_top(above, tied, negatives, n, ties)).sum(0), kept.sum(0)])
            found = reached / (reached + above + tied)
            sums["retrieval"] += torch.stack([(share * found).sum(0), share.sum(0)])
    return {name: total / of for name, (total, of) in sums.items()}


def _of_areas(
    both: Sides, pairs: PositivePairs, drawn: Tensor, generator: np.random.Generator
) -> tuple[Float[Tensor, " r"], float]:
    """Verification areas of every replicate, and that of the sample on the negative pairs they are drawn from."""
    total = sum(int((~block.same).sum()) for block in both.blocks())
    share = min(1.0, _PAIRS / total)
    scores, one, two = [], [], []
    for block in both.blocks():
        row, column = (~block.same).nonzero(as_tuple=True)
        if share < 1:
            kept = torch.from_numpy(generator.random(len(row)) < share)
            row, column = row[kept], column[kept]
        scores.append(block.scores[row, column])
        one.append(both.query_identity[block.rows[row]])
        two.append(both.gallery_identity[block.columns[column]])
    score, one_side, other_side = torch.cat(scores), torch.cat(one), torch.cat(two)
    positive, order = pairs.score.sort()
    identity = both.query_identity[pairs.query[order]]
    places = [torch.searchsorted(positive, score, right=right) for right in (False, True)]
    size = len(positive) + 1

    def area(times: Tensor) -> float:
        own, pair = times[identity], times[one_side] * times[other_side]
        below = torch.cat([own.new_zeros(1), own.cumsum(0)])
        # Positives that a negative is above, ties one half: summed over negatives by where they stand.
        lost = sum(float(torch.bincount(place, pair, minlength=size) @ below) for place in places) / 2
        whole = float(own.sum() * pair.sum())
        return 1 - lost / whole if whole else math.nan

    areas = torch.tensor([area(times) for times in drawn.T.contiguous()], dtype=torch.float64)
    return areas, area(torch.ones(len(drawn), dtype=torch.float64))
