"""AUROC over the pixels of every pair of classes, exact or from histograms of a stream.

    one-vs-one    1/(K (K − 1))  Σ_c Σ_{c' ≠ c}  P( f_c(m) > f_c(n) ),  m of class c, n of class c', a tie ½
    one-vs-rest   1/K  Σ_c  P( f_c(m) > f_c(n) ),  m of class c, n of any other

K is the number of classes that have valid pixels. The exact way sorts every column of scores. Histograms need a fixed
amount of memory; two pixels of one bin count as a tie, so that the value is off by no more than half of their share.

Han et al., "AUCSeg", NeurIPS 2024.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.class_wins import pair_wins
from equipoise.core.metrics import SampleMetric, WholeMetric
from equipoise.core.pairs.class_pairs import Average
from equipoise.core.signature import checked
from equipoise.core.types import Count, NumClasses, Scalar
from equipoise.core.validate import warn_once
from equipoise.dense.segmentation.labels import LabelMaps, Maps, RowLabels, Rows, flat_labels


@checked
def pixel_auroc(
    scores: Maps | Rows, target: LabelMaps | RowLabels, *, average: Average = "ovo", ignore_index: int = 255
) -> Scalar:
    """AUROC over pixels, the mean over pairs of classes, or of one class against the rest.

    Args:
        scores: (B, C, H, W) or (N, C), higher for more of the class; only their order in a column matters. One column
            is a binary problem in which label 1 is positive.
        target: (B, H, W) or (N,) class indices.
        average: "ovo" or "ovr".
        ignore_index: label of pixels that do not count.

    Returns:
        float64; NaN, warned of once, with fewer than two classes.

    Raises:
        ValueError: if shapes do not go together or a label is no class.

    >>> pixel_auroc(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    tensor(1., dtype=torch.float64)
    """
    planes, labels, classes = flat_labels(scores, target, ignore_index)
    return _mean(_exact(*_valid(planes, labels, classes), classes), average)


class _Wins(NamedTuple):
    """Pairs of pixels that the columns rank right, a tie ½, and all pairs; (columns, classes) float64."""

    won: Tensor
    pairs: Tensor

    def rates(self) -> Tensor:
        return torch.where(self.pairs > 0, self.won / self.pairs, torch.nan)


def _own(columns: int) -> list[int]:
    return [1] if columns == 1 else list(range(columns))


def _valid(planes: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Columns as rows and labels, of the pixels that count."""
    flat = labels.reshape(-1)
    kept = (flat < classes).nonzero().squeeze(1)
    return planes.detach().transpose(0, 1).flatten(1).index_select(1, kept), flat[kept]


def _pairs(counts: Tensor, columns: int) -> Tensor:
    own = torch.tensor(_own(columns), device=counts.device)
    pairs = torch.outer(counts[own], counts)
    pairs[torch.arange(columns, device=counts.device), own] = 0
    return pairs


def _exact(rows: Tensor, labels: Tensor, classes: int) -> _Wins:
    won = pair_wins(rows, labels, own=_own(len(rows)), classes=classes)
    return _Wins(won, _pairs(torch.bincount(labels, minlength=classes).double(), len(rows)))


def _mean(wins: _Wins, average: Average) -> Tensor:
    rates, there = wins.rates(), wins.pairs > 0
    if not bool(there.any()):
        warn_once("the pixel AUROC is undefined: there are pixels of fewer than two classes; it is NaN")
        return torch.tensor(math.nan, dtype=torch.float64, device=rates.device)
    if average == "ovo":
        return rates[there].mean()
    held = there.any(1)
    return (wins.won.sum(1)[held] / wins.pairs.sum(1)[held]).mean()


class PixelAUROC(SampleMetric):
    """`pixel_auroc` over all pixels seen.

    Every valid pixel is kept, 4 (C + 2) bytes and more; `PixelAUROCHistogram` takes a fixed amount of memory.

    Args:
        average: "ovo" or "ovr".
        ignore_index: label of pixels that do not count.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = PixelAUROC()
    >>> metric.update(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    >>> metric.compute()
    tensor(1., dtype=torch.float64)
    """

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    kept = ("scores", "target")

    @checked
    def __init__(self, *, average: Average = "ovo", ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.average, self.ignore_index = average, ignore_index

    @checked
    def update(self, scores: Maps | Rows, target: LabelMaps | RowLabels) -> None:
        """Take scores (B, C, H, W) with label maps (B, H, W), or (N, C) with (N,)."""
        rows, labels = _valid(*flat_labels(scores, target, self.ignore_index))
        self.keep(rows.T, labels)

    def compute(self) -> Tensor:
        """The mean over pairs of classes, or over classes."""
        return _mean(self._wins(), self.average)

    def pair_matrix(self) -> Float[Tensor, "columns classes"]:
        """AUROC of every ordered pair of classes, NaN where there is none."""
        return self._wins().rates()

    def _wins(self) -> _Wins:
        rows, labels = self.samples()
        return _exact(rows.T, labels, 2 if rows.shape[1] == 1 else rows.shape[1])


class PixelAUROCHistogram(WholeMetric):
    """AUROC over pixels of scores in [0, 1], from counts of every column's scores by class.

    Args:
        num_classes: C; 2 for scores of one column or of two.
        bins: how many, of equal width. The state is 8 · C² · bins bytes: 12 MB for 19 classes and 4096 bins, 46 MB for
            150 classes and 256 bins.
        average: "ovo" or "ovr".
        ignore_index: label of pixels that do not count.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = PixelAUROCHistogram(2, bins=10)
    >>> metric.update(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    >>> metric.compute(), metric.bounds()
    (tensor(1., dtype=torch.float64), (1.0, 1.0))
    """

    is_differentiable = False
    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    @checked
    def __init__(
        self,
        num_classes: NumClasses,
        *,
        bins: Count = 4096,
        average: Average = "ovo",
        ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.bins, self.average, self.ignore_index = num_classes, bins, average, ignore_index
        self.counts: Tensor
        self.add_state("counts", torch.zeros(num_classes, num_classes, bins, dtype=torch.long), dist_reduce_fx="sum")

    @checked
    def update(self, scores: Maps | Rows, target: LabelMaps | RowLabels) -> None:
        """Take scores (B, C, H, W) with label maps (B, H, W), or (N, C) with (N,), in [0, 1]."""
        planes, labels, classes = flat_labels(scores, target, self.ignore_index)
        if classes != self.num_classes:
            raise ValueError(f"scores have {scores.shape[1]} columns, wanted num_classes={self.num_classes}")
        rows, labels = _valid(planes, labels, classes)
        if rows.numel():
            low, high = (float(end) for end in rows.aminmax())
            if low < 0 or high > 1:
                raise ValueError(
                    f"scores must lie in [0, 1], got values from {low:g} to {high:g}; pass their sigmoid or softmax"
                )
        if len(rows) == 1:
            rows = torch.cat([1 - rows, rows])
        for column, row in zip(self.counts, rows, strict=True):
            place = (row * self.bins).long().clamp_max_(self.bins - 1)
            found = torch.bincount(labels * self.bins + place, minlength=classes * self.bins)
            column += found.view(classes, self.bins)

    def compute(self) -> Tensor:
        """The mean over pairs of classes, or over classes; half of the pairs in one bin count as won."""
        return _mean(self._wins(0.5), self.average)

    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that the pixels seen can have, their ties aside."""
        low, high = (float(_mean(self._wins(share), self.average)) for share in (0.0, 1.0))
        return low, high

    def _wins(self, of_tie: float) -> _Wins:
        counts = self.counts.double()
        own = counts.diagonal(dim1=0, dim2=1).T
        below = counts.cumsum(2) - (1 - of_tie) * counts
        # Pairs of two classes on one column: of its class above, of the other at or below.
        won = torch.einsum("cb,cjb->cj", own, below).fill_diagonal_(0)
        return _Wins(won, _pairs(counts[0].sum(1), self.num_classes))
