"""Decision curves from counts: one step for every distinct score, so that ties are handled once and for all.

At the threshold t a sample is called positive when its score is at least t. Walking the distinct scores downwards, a
step adds the positives and the negatives that share its score; a step that holds both is a slanted piece of the ROC
polygon, which gives ties their half. Between steps the ROC curve is linear, and every area here is the exact integral
of that polygon. The precision-recall curve is a step function, and average precision its sum: interpolating between its
points would be too optimistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.ranks import sort_values
from equipoise.core.validate import check_choice, check_fraction

NORMALIZATIONS = ("normalized", "raw", "mcclish")


@dataclass(frozen=True)
class RocCurve:
    """Counts at every distinct score, from the highest down.

    Attributes:
        thresholds: (m,) the distinct scores, descending.
        tps: (m,) int64, positives scoring at least the threshold.
        fps: (m,) int64, negatives scoring at least the threshold.

    >>> curve = RocCurve.from_scores(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 1, 0, 0]))
    >>> curve.tps, curve.fps
    (tensor([1, 2, 2]), tensor([0, 1, 2]))
    >>> float(curve.auroc())
    0.875
    """

    thresholds: Float[Tensor, " m"]
    tps: Int[Tensor, " m"]
    fps: Int[Tensor, " m"]

    @classmethod
    def from_scores(cls, scores: Float[Tensor, " n"], target: Int[Tensor, " n"] | Bool[Tensor, " n"]) -> RocCurve:
        """Count positives and negatives above every distinct score, by value sorts only."""
        ordered = sort_values(scores)
        pos = sort_values(scores[target == 1])
        n = ordered.shape[0]
        first = torch.ones(n, dtype=torch.bool, device=ordered.device)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        start = first.nonzero().squeeze(1)
        thresholds = ordered[start]
        tps = pos.shape[0] - torch.searchsorted(pos, thresholds)
        return cls(thresholds.flip(0), tps.flip(0), (n - start - tps).flip(0))

    @property
    def n_pos(self) -> int:
        """How many positives there are."""
        return int(self.tps[-1]) if self.tps.shape[0] else 0

    @property
    def n_neg(self) -> int:
        """How many negatives there are."""
        return int(self.fps[-1]) if self.fps.shape[0] else 0

    @property
    def defined(self) -> bool:
        """Whether both classes are there, so that rates have a meaning."""
        return self.n_pos > 0 and self.n_neg > 0

    def roc(self) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"], Float[Tensor, " points"]]:
        """The polygon's corners (fpr, tpr, thresholds) in float64, from (0, 0) at threshold +inf to (1, 1)."""
        zero = self.tps.new_zeros(1)
        fpr = torch.cat([zero, self.fps]).double() / self.n_neg
        tpr = torch.cat([zero, self.tps]).double() / self.n_pos
        top = self.thresholds.new_full((1,), torch.inf)
        return fpr, tpr, torch.cat([top, self.thresholds])

    def precision_recall(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
        """(precision, recall, thresholds) in float64 at every threshold, from the highest down."""
        return self.tps.double() / (self.tps + self.fps), self.tps.double() / self.n_pos, self.thresholds

    def auroc(self) -> Float[Tensor, ""]:
        """Area under the whole ROC polygon, counted in whole pairs."""
        before = torch.cat([self.tps.new_zeros(1), self.tps[:-1]])
        steps = torch.diff(self.fps, prepend=self.fps.new_zeros(1))
        # Twice the number of pairs fits an int64 up to three billion samples a class.
        return (steps * (self.tps + before)).sum().double() / (2 * self.n_pos * self.n_neg)

    def average_precision(self) -> Float[Tensor, ""]:
        """Σ (recall step) · precision."""
        steps = torch.diff(self.tps, prepend=self.tps.new_zeros(1)).double()
        return (steps * self.tps / (self.tps + self.fps)).sum() / self.n_pos

    def partial_area(
        self, max_fpr: float = 1.0, min_tpr: float = 0.0, normalization: str = "normalized"
    ) -> Float[Tensor, ""]:
        """Area between the ROC polygon and the lines FPR = max_fpr and TPR = min_tpr.

            A = ∫₀^b max(TPR(u) − t, 0) du        b = max_fpr, t = min_tpr

        Args:
            max_fpr: right end b in (0, 1].
            min_tpr: lower end t in [0, 1).
            normalization: "raw" gives A. "normalized" gives A / ((1 − t) b), from 0 to 1. "mcclish" gives
                ½ (1 + (A − C) / ((1 − t) b − C)) with C the area of a random ranking, so that chance is ½ and perfect
                is 1 (McClish 1989; with t = 0 this is scikit-learn's `roc_auc_score(max_fpr=)`).

        Raises:
            ValueError: if a bound is out of range or the normalization unknown.
        """
        check_fraction("max_fpr", max_fpr)
        check_fraction("min_tpr", min_tpr, zero=True, one=False)
        check_choice("normalization", normalization, NORMALIZATIONS)
        fpr, tpr = self.region(max_fpr, min_tpr)
        area = torch.trapezoid(tpr - min_tpr, fpr)
        most = (1 - min_tpr) * max_fpr
        if normalization == "raw":
            return area
        if normalization == "normalized":
            return area / most
        chance = max(max_fpr - min_tpr, 0.0) ** 2 / 2
        return 0.5 * (1 + (area - chance) / (most - chance))

    def region(self, max_fpr: float = 1.0, min_tpr: float = 0.0) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """The part of the polygon with FPR ≤ max_fpr and TPR ≥ min_tpr as corners (fpr, tpr), cut exactly.

        Empty where the polygon does not enter the region.
        """
        fpr, tpr, _ = self.roc()
        right = int(torch.searchsorted(fpr, max_fpr, right=True))
        if right < fpr.shape[0]:
            share = (max_fpr - fpr[right - 1]) / (fpr[right] - fpr[right - 1])
            cut = tpr[right - 1] + share * (tpr[right] - tpr[right - 1])
            fpr = torch.cat([fpr[:right], fpr.new_tensor([max_fpr])])
            tpr = torch.cat([tpr[:right], cut[None]])
        left = int(torch.searchsorted(tpr, min_tpr))
        if left > 0:
            if left == tpr.shape[0]:
                return fpr[:0], tpr[:0]
            share = (min_tpr - tpr[left - 1]) / (tpr[left] - tpr[left - 1])
            cut = fpr[left - 1] + share * (fpr[left] - fpr[left - 1])
            fpr = torch.cat([cut[None], fpr[left:]])
            tpr = torch.cat([tpr.new_tensor([min_tpr]), tpr[left:]])
        return fpr, tpr

    def tpr_at_fpr(self, max_fpr: float) -> float:
        """The highest true-positive rate of a threshold with FPR ≤ max_fpr.

        Raises:
            ValueError: if max_fpr is not in [0, 1].
        """
        check_fraction("max_fpr", max_fpr, zero=True)
        allowed = int(torch.searchsorted(self.fps.double() / self.n_neg, max_fpr + 1e-12, right=True))
        return float(self.tps[allowed - 1]) / self.n_pos if allowed else 0.0

    def fpr_at_tpr(self, min_tpr: float) -> float:
        """The lowest false-positive rate of a threshold with TPR ≥ min_tpr.

        Raises:
            ValueError: if min_tpr is not in (0, 1].
        """
        check_fraction("min_tpr", min_tpr)
        needed = int(torch.searchsorted(self.tps.double() / self.n_pos, min_tpr - 1e-12))
        return float(self.fps[needed]) / self.n_neg
