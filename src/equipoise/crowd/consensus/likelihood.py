r"""Scores of items of greatest likelihood, from how often each of two won.

    min_s  − Σ_pairs [ a log F(s_i − s_j) + b log F(s_j − s_i) ] + ridge/2 ‖s‖²

a and b are wins of i and of j, a tie half a win of both; F is the link. Newton's method: each step solves an equation
over the graph of pairs, so that the cost follows pairs and items, not comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equipoise.crowd.consensus.separation import refuse_separation
from equipoise.crowd.laplacian import EdgeGraph, Evaluation, Vector, minimised
from equipoise.data.comparisons.pair_counts import PairCounts

LinkName: TypeAlias = Literal["logistic", "normal"]


class LikelihoodFit(NamedTuple):
    """Scores of greatest likelihood.

    Attributes:
        score: (items,) float64, of mean 0 in each component; 0 for an item that was not compared.
        objective: − log likelihood + ridge/2 ‖score‖².
        component: (items,) scores compare within a component, the largest is 0.
        steps: Newton steps taken.
    """

    score: Tensor
    objective: float
    component: Tensor
    steps: int


def greatest_likelihood(
    counts: PairCounts,
    link: LinkName,
    ridge: float = 0.0,
    *,
    names: Sequence[str] | None = None,
    start: Vector | None = None,
    replicate: bool = False,
) -> LikelihoodFit:
    """The scores.

    Args:
        counts: wins and ties of each pair.
        link: "logistic" (Bradley–Terry) or "normal" (Thurstone–Mosteller).
        ridge: price of scores, at least 0.
        names: of items, for the error.
        start: (items,) scores to begin at.
        replicate: whether it is known that there are finite scores, and six digits of them do.

    Raises:
        ValueError: without a ridge, if items of a component never lost or never won against its rest.
    """
    if not ridge and not replicate:
        refuse_separation(counts, names)
    graph = EdgeGraph(counts.first.numpy(), counts.second.numpy(), counts.num_items)
    half = counts.ties.numpy() / 2
    wins, losses = counts.first_wins.numpy() + half, counts.second_wins.numpy() + half
    tails = _LINKS[link]

    def evaluate(score: Vector) -> Evaluation:
        gap = graph.difference(score)
        won, lost = tails(gap)
        value = float(wins @ won.loss + losses @ lost.loss) + ridge / 2 * float(score @ score)
        flow = graph.gathered(losses * lost.slope - wins * won.slope)
        return Evaluation(value, flow + ridge * score, wins * won.curve + losses * lost.curve)

    def direction(curvature: Vector, gradient: Vector) -> Vector:
        return -graph.solve(curvature, gradient, ridge)

    found = minimised(
        evaluate,
        direction,
        np.zeros(graph.size) if start is None else start,
        tolerance=1e-6 if replicate else 1e-11,
    )
    # With a ridge the minimiser has mean 0 as well, but for rounding.
    return LikelihoodFit(
        torch.from_numpy(graph.centred(found.x)), found.value, torch.from_numpy(graph.component), found.steps
    )


class _Tail(NamedTuple):
    """− log F at some gaps, its slope without sign, and its curvature."""

    loss: Vector
    slope: Vector
    curve: Vector


def _logistic(gap: Vector) -> tuple[_Tail, _Tail]:
    small = np.exp(-np.abs(gap))
    common, share = np.log1p(small), 1 / (1 + small)
    ahead = gap >= 0
    other = small * share
    curve = share * other
    return (
        _Tail(np.maximum(-gap, 0.0) + common, np.where(ahead, other, share), curve),
        _Tail(np.maximum(gap, 0.0) + common, np.where(ahead, share, other), curve),
    )


def _normal(gap: Vector) -> tuple[_Tail, _Tail]:
    return _normal_tail(gap), _normal_tail(-gap)


def _normal_tail(gap: Vector) -> _Tail:
    from scipy.special import log_ndtr

    loss = -log_ndtr(gap)
    slope = np.exp(loss - gap**2 / 2 - 0.5 * np.log(2 * np.pi))
    # Far on the losing side slope and −gap cancel to almost nothing; the curvature there is just below 1.
    return _Tail(loss, slope, np.clip(slope * (slope + gap), 0.0, 1.0))


_LINKS: dict[str, Callable[[Vector], tuple[_Tail, _Tail]]] = {"logistic": _logistic, "normal": _normal}
