"""What the ranking metrics share: the dtype of their values, what is undefined, and the samples that are kept."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from equipoise.core.metrics import SampleMetric
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, LabelScores, MultilabelTarget, SampleWeight, Scalar, Scores
from equipoise.core.validate import warn_once

OnUndefined: TypeAlias = Literal["nan", "raise"]
Average: TypeAlias = Literal["macro", "none"]


def value_of(value: float | Tensor, scores: Tensor) -> Scalar:
    """A number as float64 for float64 scores and as float32 otherwise, where the scores are."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=scores.device)


def undefined_value(scores: Tensor, name: str, on_undefined: OnUndefined) -> Scalar:
    """NaN, warned of once.

    Raises:
        ValueError: for "raise".
    """
    message = f"{name} is undefined: the target holds fewer classes than it compares"
    if on_undefined == "raise":
        raise ValueError(f"{message}; give samples of both, or pass on_undefined='nan'")
    warn_once(f"{message}; it is NaN")
    return value_of(float("nan"), scores)


class RankingMetric(SampleMetric):
    """Keeps scores and targets of all batches; a subclass judges them.

    Args:
        on_undefined: where only one class was seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.
    """

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    kept: ClassVar[tuple[str, ...]] = ("scores", "target")

    @checked
    def __init__(self, *, on_undefined: OnUndefined = "nan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_undefined = on_undefined

    def nothing(self) -> Any:
        """NaN, in the dtype of the value for most scores."""
        return super().nothing().float()


class WeightedMetric(RankingMetric):
    """Keeps weights, too. Where no batch had any, a byte per sample says so.

    Args:
        on_undefined: where only one class was seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.
    """

    kept = ("scores", "target", "sample_weight")

    def keep_weighted(self, scores: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """Add a batch that has been checked; True for every sample stands for no weights, and becomes 1 beside those
        of another batch.
        """
        none = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        self.keep(scores, target, none if weight is None else weight)

    def samples(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scores, targets and weights; None for weights if no batch had any."""
        scores, target, weight = super().samples()
        return scores, target, None if weight.dtype is torch.bool else weight


class BinaryMetric(WeightedMetric):
    """Of two classes.

    Args:
        on_undefined: where only one class was seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.
    """

    @checked
    def update(self, scores: Scores, target: BinaryTarget, sample_weight: SampleWeight | None = None) -> None:
        """Take a batch of scores (n,), targets (n,) and, where samples count unequally, weights (n,)."""
        self.keep_weighted(scores, target == 1, sample_weight)


class LabelMetric(BinaryMetric):
    """Of scores (n,), or of scores (n, labels) averaged over labels.

    Args:
        average: for multi-label input, "macro" or "none".
        on_undefined: where only one class was seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.
    """

    @checked
    def __init__(self, *, average: Average = "macro", on_undefined: OnUndefined = "nan", **kwargs: Any) -> None:
        super().__init__(on_undefined=on_undefined, **kwargs)
        self.average = average

    @checked
    def update(
        self,
        scores: Scores | LabelScores,
        target: BinaryTarget | MultilabelTarget,
        sample_weight: SampleWeight | None = None,
    ) -> None:
        """Take a batch of scores and targets, both (n,) or both (n, labels), and weights (n,) as in `auroc`."""
        check_shapes(scores, target)
        self.keep_weighted(scores, target == 1, sample_weight)


def check_shapes(scores: Tensor, target: Tensor) -> None:
    """Raise `ValueError` unless both are (n,) or both (n, labels)."""
    if scores.shape != target.shape:
        raise ValueError(
            f"scores and target must both have shape (n,) or (n, labels), got {tuple(scores.shape)} and "
            f"{tuple(target.shape)}"
        )
