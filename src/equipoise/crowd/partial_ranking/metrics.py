"""How well three-way answers are predicted: by plain counts of the classes −1, 0 and 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Scores
from equipoise.crowd.partial_ranking.tie_model import Answers, Threshold, tie_prediction


class TieMetrics(NamedTuple):
    """Predictions and how good they are.

    Attributes:
        pred: (n,) 1, 0 or −1.
        micro_f1: share of answers predicted right; with one class for each row, micro-F1 is accuracy.
        macro_f1: mean of the F1 of the classes that were said or predicted.
        macro_pr_f1: harmonic mean of mean precision and mean recall over these classes, as the authors report.
    """

    pred: Int[Tensor, " n"]
    micro_f1: float
    macro_f1: float
    macro_pr_f1: float


@checked
def tie_metrics(score_diff: Scores, threshold: Threshold, y: Answers) -> TieMetrics:
    """Accuracy and macro-F1 of the answers that scores and thresholds predict without noise.

    A class that was neither said nor predicted does not count; one that was said and never predicted has precision 0.

    Args:
        score_diff: (n,) the score of i less that of j.
        threshold: (n,) at least 0; |d| ≤ λ is a tie.
        y: (n,) 1, −1, or 0 for a tie.

    Raises:
        ValueError: on another shape, NaN, or a negative threshold.

    The plain definitions. The authors' code counts a tie with d + λ > 0 as a false 1, so that its figures differ.

    >>> found = tie_metrics(torch.tensor([2.0, 0.1, -2.0, 2.0]), torch.ones(4), torch.tensor([1, 0, -1, -1]))
    >>> found.micro_f1, round(found.macro_f1, 4), round(found.macro_pr_f1, 4)
    (0.75, 0.7778, 0.8333)
    """
    return answer_metrics(tie_prediction(score_diff, threshold), y)


def answer_metrics(pred: Int[Tensor, " n"], y: Int[Tensor, " n"]) -> TieMetrics:
    """`tie_metrics` of predictions by any rule."""
    table = torch.bincount((y.long() + 1) * 3 + pred + 1, minlength=9).reshape(3, 3).double()
    return TieMetrics(pred, *table_metrics(table))


def table_metrics(table: Tensor) -> tuple[float, float, float]:
    """Micro-F1, macro-F1 and macro-PR-F1 of a table of counts (said, predicted)."""
    right, said, predicted = table.diagonal(), table.sum(1), table.sum(0)
    there = said + predicted > 0
    f1 = (2 * right / (said + predicted))[there].mean()
    precision, recall = ((right / total).nan_to_num(0)[there].mean() for total in (predicted, said))
    both = precision + recall
    harmonic = 2 * precision * recall / both if both > 0 else both
    return float(right.sum() / table.sum()), float(f1), float(harmonic)
