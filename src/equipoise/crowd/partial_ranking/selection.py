"""Which time of a path predicts best: by answers that were held out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.crowd.partial_ranking.metrics import table_metrics
from equipoise.crowd.partial_ranking.path import Estimate, SplitPath
from equipoise.crowd.partial_ranking.path_run import Watch
from equipoise.crowd.partial_ranking.split_lbi import SplitState
from equipoise.data.comparisons.answers import Comparisons
from equipoise.data.comparisons.folds import comparison_folds

F1: TypeAlias = Literal["micro", "macro"]
_ESTIMATES: tuple[Estimate, ...] = ("dense", "sparse")


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """How well held-out answers were predicted at each time.

    Attributes:
        times: (times,) the recorded times.
        metric: "micro" or "macro".
        values: estimate → (folds, times) that F1.
    """

    times: Float[Tensor, " times"]
    metric: F1
    values: dict[Estimate, Float[Tensor, "folds times"]]

    def best(self) -> dict[Estimate, int]:
        """The time of the highest mean over folds of each estimate, the first of several."""
        return {name: int(found.mean(0).argmax()) for name, found in self.values.items()}


def cross_validate(
    comparisons: Comparisons,
    times: Float[Tensor, " times"],
    run: Callable[[Comparisons, Watch], SplitPath],
    *,
    folds: int,
    metric: F1,
    seed: int,
    tolerance: float,
) -> CrossValidation:
    """Run a path without each fold, and judge it on that fold at every time.

    Args:
        comparisons: all answers.
        times: when paths are recorded.
        run: runs the path of some comparisons, and calls a watch at each time.
        folds: how many.
        metric: what to judge by.
        seed: of the folds.
        tolerance: of the support.
    """
    fold = comparison_folds(comparisons, folds, seed=seed)
    values = {name: torch.zeros(folds, len(times), dtype=torch.float64) for name in _ESTIMATES}
    for number in range(folds):
        held = comparisons.take((fold == number).nonzero()[:, 0])
        said = held.label + 1

        def watch(
            index: int, state: SplitState, held: Comparisons = held, said: Tensor = said, number: int = number
        ) -> None:
            inside = (state.gamma.norm(dim=1) > tolerance)[:, None]
            for name in _ESTIMATES:
                scores = state.common + (state.personal if name == "dense" else state.personal * inside)
                diff = scores[held.annotator, held.left] - scores[held.annotator, held.right]
                width = scores[held.annotator, -1]
                pred = 1 + (diff > width).long() - (diff < -width).long()
                table = torch.bincount(3 * said + pred, held.weight, minlength=9).reshape(3, 3)
                values[name][number, index] = table_metrics(table)[0 if metric == "micro" else 1]

        run(comparisons.take((fold != number).nonzero()[:, 0]), watch)
    return CrossValidation(times, metric, values)
