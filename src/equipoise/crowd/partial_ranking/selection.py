"""Which time of a path predicts best: by answers that were held out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.crowd.partial_ranking.metrics import table_metrics
from equipoise.crowd.partial_ranking.path import Estimate
from equipoise.crowd.partial_ranking.path_run import Watch
from equipoise.crowd.partial_ranking.split_lbi import SplitState
from equipoise.crowd.partial_ranking.tie_model import Link, log_probabilities
from equipoise.data.comparisons.answers import Comparisons
from equipoise.data.comparisons.folds import comparison_folds

Judge: TypeAlias = Literal["micro", "macro", "likelihood"]
FoldValues: TypeAlias = dict[Estimate, tuple[list[float], list[float]]]
"""Estimate → what it is judged by, and its mean loss, at each time."""
_ESTIMATES: tuple[Estimate, ...] = ("dense", "sparse")


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """How well held-out answers were predicted at each time.

    Attributes:
        times: (times,) the recorded times.
        metric: "micro", "macro" or "likelihood".
        values: estimate → (folds, times) that F1, or the mean log likelihood of an answer.
        losses: estimate → (folds, times) mean of − log likelihood of an answer.
    """

    times: Float[Tensor, " times"]
    metric: Judge
    values: dict[Estimate, Float[Tensor, "folds times"]]
    losses: dict[Estimate, Float[Tensor, "folds times"]]

    def best(self) -> dict[Estimate, int]:
        """The time of the highest mean of `values` over folds of each estimate, the first of several."""
        return {name: int(found.mean(0).argmax()) for name, found in self.values.items()}


def cross_validate(
    comparisons: Comparisons,
    times: Float[Tensor, " times"],
    run: Callable[[int, Comparisons, Watch], object],
    *,
    folds: int,
    metric: Judge,
    seed: int,
    tolerance: float,
    link: Link,
    known: Callable[[int], FoldValues | None] = lambda number: None,
    found: Callable[[int, FoldValues], None] = lambda number, values: None,
) -> CrossValidation:
    """Run a path without each fold, and judge it on that fold at every time.

    Args:
        comparisons: all answers.
        times: when paths are recorded.
        run: runs the path without a fold, given its number and the other answers, and calls a watch at each time.
        folds: how many.
        metric: what to judge by.
        seed: of the folds.
        tolerance: of the support.
        link: noise of the answers.
        known: what an earlier run found on a fold, or None.
        found: told what was found on a fold.
    """
    fold = comparison_folds(comparisons, folds, seed=seed)
    every: list[FoldValues] = []
    for number in range(folds):
        values = known(number)
        if values is None:
            held = comparisons.take((fold == number).nonzero()[:, 0])
            values = {name: ([], []) for name in _ESTIMATES}
            watch = _watch(held, values, metric, tolerance, link)
            run(number, comparisons.take((fold != number).nonzero()[:, 0]), watch)
            found(number, values)
        every.append(values)
    judged, losses = (
        {name: torch.tensor([values[name][part] for values in every], dtype=torch.float64) for name in _ESTIMATES}
        for part in range(2)
    )
    return CrossValidation(times, metric, judged, losses)


def _watch(held: Comparisons, values: FoldValues, metric: Judge, tolerance: float, link: Link) -> Watch:
    """Writes down at each time what held-out answers say."""
    said, total = held.label + 1, float(held.weight.sum())

    def watch(index: int, state: SplitState) -> None:
        inside = (state.gamma.norm(dim=1) > tolerance)[:, None]
        for name in _ESTIMATES:
            scores = state.common + (state.personal if name == "dense" else state.personal * inside)
            diff = scores[held.annotator, held.left] - scores[held.annotator, held.right]
            width = scores[held.annotator, -1]
            chances = log_probabilities(diff, width, link)[torch.arange(len(said)), said]
            loss = -float(chances @ held.weight) / total
            if metric == "likelihood":
                value = -loss
            else:
                pred = 1 + (diff > width).long() - (diff < -width).long()
                table = torch.bincount(3 * said + pred, held.weight, minlength=9).reshape(3, 3)
                value = table_metrics(table)[0 if metric == "micro" else 1]
            values[name][0].append(value)
            values[name][1].append(loss)

    return watch
