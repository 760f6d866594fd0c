"""Decision curves from counts: one step for every distinct score, so that ties are handled once and for all.

At the threshold t a sample is called positive when its score is at least t. Walking the distinct scores downwards, a
step adds the positives and the negatives that share its score; a step that holds both is a slanted piece of the ROC
polygon, which gives ties their half. Between steps the ROC curve is linear, and every area here is the exact integral
of that polygon. The precision-recall curve is a step function, and average precision its sum: interpolating between its
points would be too optimistic.

The sort runs where the scores are. The counts, which are little work beside it, are kept and worked on by NumPy on the
CPU: PyTorch would split passes as short as these among threads, which costs more than it saves on a busy machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.curves.ranks import PairCounts, block_ends, sort_labelled
from equipoise.core.signature import checked
from equipoise.core.types import (
    BinaryTarget,
    Fraction,
    MayBeEmpty,
    Probability,
    ProperFraction,
    RankedScores,
    SampleWeight,
)

# Products of a fraction and a count this close below a whole number mean that number.
_GUARD = 1e-9
Normalization: TypeAlias = Literal["normalized", "raw", "mcclish"]


@dataclass(frozen=True)
class RocCurve:
    """Counts at every distinct score, from the highest down, on the CPU.

    Rates and areas have a meaning only where both classes are there, which `defined` says.

    Attributes:
        thresholds: (m,) the distinct scores, descending.
        tps: (m,) positives scoring at least the threshold: their number, int64, or their weight, float64.
        fps: (m,) negatives scoring at least the threshold, likewise.

    >>> curve = RocCurve.from_scores(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 1, 0, 0]))
    >>> curve.tps, curve.fps
    (tensor([1, 2, 2]), tensor([0, 1, 2]))
    >>> float(curve.auroc())
    0.875
    """

    thresholds: Float[Tensor, " m"]
    tps: Int[Tensor, " m"] | Float[Tensor, " m"]
    fps: Int[Tensor, " m"] | Float[Tensor, " m"]

    @classmethod
    @checked
    def from_scores(
        cls,
        scores: Annotated[RankedScores, MayBeEmpty()],
        target: Annotated[BinaryTarget, MayBeEmpty()],
        sample_weight: Annotated[SampleWeight, MayBeEmpty()] | None = None,
    ) -> RocCurve:
        """Count positives and negatives above every distinct score, from one sort.

        Args:
            scores: (n,) scores, of which some may be infinite.
            target: (n,) in {0, 1}.
            sample_weight: (n,) how often each sample counts; one without weight is left out.
        """
        if sample_weight is not None:
            held = sample_weight.nonzero().squeeze(1)
            ordered, order = sort_labelled(scores[held], torch.arange(len(held), device=held.device))
            last, order = block_ends(ordered), held[order]
            sums = [(sample_weight.double() * (target == kind))[order].cumsum(0)[last].cpu() for kind in (1, 0)]
            return cls(ordered[last].cpu(), *sums)
        ordered, positive = (x.cpu() for x in sort_labelled(scores, target))
        ends, tps = block_ends(ordered).numpy(), np.cumsum(positive.numpy())
        if len(ends) < len(tps):
            # A tie block is judged where it ends.
            ordered, tps = torch.from_numpy(ordered.numpy()[ends]), tps[ends]
        fps = np.subtract(ends, tps, out=ends)
        fps += 1
        return cls(ordered, torch.from_numpy(tps), torch.from_numpy(fps))

    @property
    def n_pos(self) -> float:
        """How many positives there are, a whole number, or their weight."""
        return self.tps[-1].item() if self.tps.shape[0] else 0

    @property
    def n_neg(self) -> float:
        """How many negatives there are, a whole number, or their weight."""
        return self.fps[-1].item() if self.fps.shape[0] else 0

    @property
    def defined(self) -> bool:
        """Whether both classes are there, so that rates have a meaning."""
        return self.n_pos > 0 and self.n_neg > 0

    def roc(self) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"], Float[Tensor, " points"]]:
        """The polygon's corners (fpr, tpr, thresholds) in float64, from (0, 0) at threshold +inf to (1, 1)."""
        top = self.thresholds.new_full((1,), torch.inf)
        tps, fps = self._corners(len(self.tps))
        return _tensor(fps / self.n_neg), _tensor(tps / self.n_pos), torch.cat([top, self.thresholds])

    def precision_recall(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
        """(precision, recall, thresholds) in float64 at every threshold, from the highest down."""
        tps, fps = self.tps.numpy(), self.fps.numpy()
        return _tensor(tps / (tps + fps)), _tensor(tps / self.n_pos), self.thresholds

    def auroc(self) -> Float[Tensor, ""]:
        """Area under the whole ROC polygon, counted in whole pairs."""
        tps, fps = self.tps.numpy(), self.fps.numpy()
        # Trapezoids, doubled; twice the number of pairs fits an int64 up to two billion samples per class.
        twice = fps[0] * tps[0] + (np.diff(fps) * (tps[1:] + tps[:-1])).sum()
        return _tensor(twice / (2 * self.n_pos * self.n_neg))

    def pairs(self) -> PairCounts:
        """The pairs of a positive and a negative, by who scores higher."""
        tps, fps = self.tps.numpy(), self.fps.numpy()
        pos, neg = (np.diff(sums, prepend=0) for sums in (tps, fps))
        wins, ties, losses = (pairs.sum().item() for pairs in (neg * (tps - pos), neg * pos, pos * (fps - neg)))
        return PairCounts(wins, ties, losses)

    def average_precision(self) -> Float[Tensor, ""]:
        """Σ (recall step) · precision."""
        gained = np.diff(self.tps.numpy(), prepend=0)
        held = np.flatnonzero(gained)
        tps, fps = self.tps.numpy()[held], self.fps.numpy()[held]
        return _tensor((gained[held] * (tps / (tps + fps))).sum() / self.n_pos)

    @checked
    def partial_area(
        self, max_fpr: Fraction = 1.0, min_tpr: ProperFraction = 0.0, normalization: Normalization = "normalized"
    ) -> Float[Tensor, ""]:
        """Area between the ROC polygon and the lines FPR = max_fpr and TPR = min_tpr.

            A = ∫₀^b max(TPR(u) − t, 0) du        b = max_fpr, t = min_tpr

        Args:
            max_fpr: right end b in (0, 1].
            min_tpr: lower end t in [0, 1).
            normalization: "raw" gives A. "normalized" gives A / ((1 − t) b), from 0 to 1. "mcclish" gives
                ½ (1 + (A − C) / ((1 − t) b − C)) with C the area of a random ranking, so that chance is ½ and perfect
                is 1 (McClish 1989; with t = 0 this is scikit-learn's `roc_auc_score(max_fpr=)`).
        """
        fpr, tpr = (x.numpy() for x in self.region(max_fpr, min_tpr))
        area = _tensor((np.diff(fpr) * (tpr[1:] + tpr[:-1] - 2 * min_tpr)).sum() / 2)
        most = (1 - min_tpr) * max_fpr
        if normalization == "raw":
            return area
        if normalization == "normalized":
            return area / most
        chance = max(max_fpr - min_tpr, 0.0) ** 2 / 2
        return 0.5 * (1 + (area - chance) / (most - chance))

    @checked
    def region(
        self, max_fpr: Fraction = 1.0, min_tpr: ProperFraction = 0.0
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """The part of the polygon with FPR ≤ max_fpr and TPR ≥ min_tpr as corners (fpr, tpr), cut exactly.

        Empty where the polygon does not enter the region.
        """
        # Cut in counts, so that only the part inside is turned into rates: a small budget costs little on a long curve.
        budget = max_fpr * self.n_neg
        inside = int(np.searchsorted(self.fps.numpy(), budget if self._weighted else math.floor(budget), side="right"))
        beyond = inside < len(self.fps)
        tps, fps = self._corners(inside + beyond)
        if beyond:
            share = (budget - fps[-2]) / (fps[-1] - fps[-2])
            tps[-1] = tps[-2] + share * (tps[-1] - tps[-2])
            fps[-1] = budget
        fpr, tpr = np.minimum(fps / self.n_neg, max_fpr), tps / self.n_pos
        left = int(np.searchsorted(tpr, min_tpr))
        if left == len(tpr):
            return _tensor(fpr[:0]), _tensor(tpr[:0])
        if left > 0:
            share = (min_tpr - tpr[left - 1]) / (tpr[left] - tpr[left - 1])
            fpr[left - 1] += share * (fpr[left] - fpr[left - 1])
            tpr[left - 1] = min_tpr
            fpr, tpr = fpr[left - 1 :], tpr[left - 1 :]
        return _tensor(fpr), _tensor(tpr)

    @checked
    def tpr_at_fpr(self, max_fpr: Probability) -> float:
        """The highest true-positive rate of a threshold with FPR ≤ max_fpr."""
        budget = max_fpr * self.n_neg
        budget = budget * (1 + _GUARD) if self._weighted else math.floor(budget + _GUARD)
        allowed = int(np.searchsorted(self.fps.numpy(), budget, side="right"))
        return float(self.tps[allowed - 1]) / self.n_pos if allowed else 0.0

    @checked
    def fpr_at_tpr(self, min_tpr: Fraction) -> float:
        """The lowest false-positive rate of a threshold with TPR ≥ min_tpr."""
        wanted = min_tpr * self.n_pos
        wanted = wanted * (1 - _GUARD) if self._weighted else math.ceil(wanted - _GUARD)
        needed = int(np.searchsorted(self.tps.numpy(), wanted))
        return float(self.fps[needed]) / self.n_neg

    @property
    def _weighted(self) -> bool:
        return self.tps.is_floating_point()

    def _corners(self, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(0, 0) and the counts (tps, fps) after each of the first steps."""
        tps, fps = np.zeros(steps + 1), np.zeros(steps + 1)
        tps[1:], fps[1:] = self.tps.numpy()[:steps], self.fps.numpy()[:steps]
        return tps, fps


def _tensor(values: NDArray[np.float64] | np.float64) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
