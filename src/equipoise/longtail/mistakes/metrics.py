"""How well mistakes are found: precision, recall and F1 of both classes, and their average.

With a few per cent of mistakes a detector that never speaks is 94 % accurate; macro-F1 is what the challenge of
egocentric mistake detection ranks by. A metric with nothing in its denominator is `zero_division`.

arXiv 2509.12990 and 2606.02120; the seven numbers are reconstructed from the challenge.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, OpenFraction, Probability, Range

Probabilities: TypeAlias = Annotated[Float[Tensor, " n"], Range(0, 1)]


@checked
def mistake_detection_metrics(
    prob_mistake: Probabilities, target: BinaryTarget, threshold: OpenFraction = 0.5, zero_division: Probability = 0.0
) -> dict[str, Tensor]:
    """Precision, recall and F1 of mistakes and of correct actions, and macro-F1, their average.

    Args:
        prob_mistake: (n,) probabilities of a mistake.
        target: (n,), 1 for a mistake, 0 for correct.
        threshold: called a mistake from this probability on, in (0, 1).
        zero_division: value of a ratio 0 / 0.

    Returns:
        precision_mistake, recall_mistake, f1_mistake, the same for correct, and macro_f1; float64 scalars.

    >>> found = mistake_detection_metrics(torch.tensor([0.9, 0.6, 0.1, 0.2]), torch.tensor([1, 0, 0, 0]))
    >>> round(float(found["macro_f1"]), 4)
    0.7333
    """
    return _report(_cells(prob_mistake, target, threshold), zero_division)


class MistakeDetectionMetrics(WholeMetric):
    """`mistake_detection_metrics` over all samples seen; it keeps four counts.

    Args:
        threshold: as in `mistake_detection_metrics`; choose it on validation data with `tune_threshold`.
        zero_division: likewise.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = MistakeDetectionMetrics()
    >>> metric.update(torch.tensor([0.9, 0.6]), torch.tensor([1, 0]))
    >>> metric.update(torch.tensor([0.1, 0.2]), torch.tensor([0, 0]))
    >>> round(float(metric.compute()["macro_f1"]), 4)
    0.7333
    """

    is_differentiable = False
    higher_is_better = True

    cells: Tensor

    @checked
    def __init__(self, threshold: OpenFraction = 0.5, zero_division: Probability = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold, self.zero_division = threshold, zero_division
        self.add_state("cells", default=torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name(_report(self.cells, self.zero_division), self.device)

    @checked
    def update(self, prob_mistake: Probabilities, target: BinaryTarget) -> None:
        """Take a batch."""
        self.cells += _cells(prob_mistake, target, self.threshold)

    def compute(self) -> dict[str, Tensor]:
        """The seven numbers."""
        return _report(self.cells, self.zero_division)


def _cells(prob: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Counts by 2 · truth + call."""
    called = prob.detach() >= threshold
    return torch.bincount(2 * target.long() + called.long(), minlength=4)


def _report(cells: Tensor, zero_division: float) -> dict[str, Tensor]:
    true_neg, false_pos, false_neg, true_pos = cells.double().unbind()

    def ratio(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(whole > 0, part / whole.clamp(min=1), torch.full_like(part, zero_division))

    found = {}
    for name, hit, spurious, missed in (
        ("mistake", true_pos, false_pos, false_neg),
        ("correct", true_neg, false_neg, false_pos),
    ):
        found[f"precision_{name}"] = ratio(hit, hit + spurious)
        found[f"recall_{name}"] = ratio(hit, hit + missed)
        found[f"f1_{name}"] = ratio(2 * hit, 2 * hit + spurious + missed)
    found["macro_f1"] = (found["f1_mistake"] + found["f1_correct"]) / 2
    return found
