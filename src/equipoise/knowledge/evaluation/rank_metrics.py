"""Metrics of ranks, and what a random order of the candidates would have given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.curves.intervals import Interval
from equipoise.core.signature import checked
from equipoise.core.types import Count, Range

Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Mean:
    """A metric that is a mean over queries.

    Attributes:
        values: of each query.
        expected: of each query, if its candidates were in a random order.
        variance: likewise.
    """

    values: Values
    expected: Values
    variance: Values


@checked
def rank_metrics(
    ranks: Annotated[Float[Tensor, " n"] | Integer[Tensor, " n"], Range(1)],
    candidates: Annotated[Integer[Tensor, " n"], Range(1)] | None = None,
    ks: Sequence[Count] = (1, 3, 10),
) -> dict[str, float]:
    """The metrics of some ranks.

    Args:
        ranks: (n,) from 1, halves where scores are equal.
        candidates: (n,) how many were ranked in each query; None leaves out the adjusted metrics.
        ks: of Hits@k.

    Returns:
        `mrr`, the mean of 1 / rank; `hits@k`, the share of ranks of at most k; `mean_rank`, `median_rank` and
        `geometric_mean_rank`. With candidates also, as PyKEEN defines them (Berrendorf et al., "On the Ambiguity of
        Rank-Based Evaluation of Entity Alignment or Link Prediction Methods", 2020; Hoyt et al., "A Unified Framework
        for Rank-based Evaluation Metrics for Link Prediction in Knowledge Graphs", 2022), E being the expectation and
        V the variance of a metric if every order of the candidates were as likely:

            adjusted_mean_rank          mean_rank / E                        1 at random, the smaller the better
            adjusted_mean_rank_index    1 − (mean_rank − 1) / (E − 1)        0 at random, 1 at best
            adjusted_mrr                (mrr − E) / (1 − E)                  0 at random, 1 at best
            adjusted_hits@k             (hits@k − E) / (1 − E)               0 at random, 1 at best
            z_mean_rank                 (E − mean_rank) / √V
            z_mrr, z_hits@k             (metric − E) / √V

        They compare graphs of different sizes; NaN where a random order cannot fail, as with one candidate.

    Raises:
        ValueError: on a bad argument, or if a rank is beyond its candidates.

    >>> found = rank_metrics(torch.tensor([1.0, 4.0]), torch.tensor([10, 10]), ks=[3])
    >>> found["mrr"], found["hits@3"], found["adjusted_mean_rank_index"]
    (0.625, 0.5, 0.6666666666666665)
    """
    found, counted = _numbers(ranks, candidates)
    result = {name: float(mean.values.mean()) for name, mean in _means(found, counted, ks).items()}
    result["median_rank"] = float(np.median(found))
    result["geometric_mean_rank"] = float(np.exp(np.log(found).mean()))
    if counted is None:
        return result
    for name, mean in _means(found, counted, ks).items():
        expected, deviation = float(mean.expected.mean()), math.sqrt(max(mean.variance.sum(), 0)) / len(found)
        if name == "mean_rank":
            result["adjusted_mean_rank"] = result[name] / expected
        scale, offset = _adjustment(name, expected)
        result[_adjusted(name)] = scale * result[name] + offset
        sign = -1 if name == "mean_rank" else 1
        result[f"z_{name}"] = sign * (result[name] - expected) / deviation if deviation else math.nan
    return result


def rank_intervals(ranks: Tensor, candidates: Tensor, ks: Sequence[int], level: float) -> Mapping[str, Interval]:
    """The metrics that are means, and their adjusted forms, with normal intervals over triples.

    A triple asks two queries, whose mean counts: that they hang together does not narrow the intervals.

    Args:
        ranks: (n, questions) of each triple.
        candidates: (n, questions).
        ks: as in `rank_metrics`.
        level: of the intervals.
    """
    found, counted = _numbers(ranks.flatten(), candidates.flatten())
    normal = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    result = {}
    for name, mean in _means(found, counted, ks).items():
        per_triple = mean.values.reshape(len(ranks), -1).mean(1)
        value = float(per_triple.mean())
        width = normal * float(per_triple.std(ddof=1)) / math.sqrt(len(ranks)) if len(ranks) > 1 else math.inf
        result[name] = Interval(value, value - width, value + width)
        scale, offset = _adjustment(name, float(mean.expected.mean()))
        ends = sorted(scale * end + offset for end in (value - width, value + width))
        result[_adjusted(name)] = Interval(scale * value + offset, *ends)
    return result


def _adjusted(name: str) -> str:
    return "adjusted_mean_rank_index" if name == "mean_rank" else f"adjusted_{name}"


def _adjustment(name: str, expected: float) -> tuple[float, float]:
    """Scale and offset that bring a metric to 0 at random and 1 at best, which is 1 of all of them."""
    scale = 1 / (1 - expected) if expected != 1 else math.nan
    return scale, -scale * expected


def _numbers(ranks: Tensor, candidates: Tensor | None) -> tuple[Values, Values | None]:
    found = ranks.detach().double().cpu().numpy()
    if candidates is None:
        return found, None
    counted = candidates.detach().double().cpu().numpy()
    beyond = found > counted
    if beyond.any():
        first = int(np.argmax(beyond))
        raise ValueError(
            f"ranks holds {found[first]:g} at index {first}, where there are {counted[first]:g} candidates"
        )
    return found, counted


def _means(ranks: Values, candidates: Values | None, ks: Sequence[int]) -> dict[str, _Mean]:
    n = np.ones_like(ranks) if candidates is None else candidates
    first, second = _harmonic(int(n.max()))
    reciprocal = first[n.astype(np.int64)] / n
    means = {"mrr": _Mean(1 / ranks, reciprocal, second[n.astype(np.int64)] / n - reciprocal**2)}
    for k in ks:
        share = np.minimum(k / n, 1)
        means[f"hits@{k}"] = _Mean((ranks <= k).astype(np.float64), share, share * (1 - share))
    means["mean_rank"] = _Mean(ranks, (n + 1) / 2, (n**2 - 1) / 12)
    return means


def _harmonic(most: int) -> tuple[Values, Values]:
    """Σ 1 / i and Σ 1 / i² up to each number from 0 to `most`."""
    numbers = np.arange(1, most + 1, dtype=np.float64)
    return (
        np.concatenate([[0.0], np.cumsum(1 / numbers)]),
        np.concatenate([[0.0], np.cumsum(1 / numbers**2)]),
    )
