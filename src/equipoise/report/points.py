"""Curves and histograms as few points: enough for the eye at any size of the sample.

The points are corners of the exact ROC polygon and exact points of the precision-recall curve; what is left out is what
lies between two neighbours on paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.curves.roc import RocCurve
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Scores

Points = NDArray[np.float64]

# About this many points are kept of a curve, and as many again inside the region that is shown enlarged.
_MOST = 400
_BINS = 48


@dataclass(frozen=True)
class Histogram:
    """How many scores of each class lie in each bin; the end bins also hold what lies beyond them.

    Attributes:
        edges: (bins + 1,) ascending.
        negatives: (bins,) counts.
        positives: (bins,) counts.
    """

    edges: Points
    negatives: NDArray[np.int64]
    positives: NDArray[np.int64]


@dataclass(frozen=True)
class Curves:
    """The curves of one model or score column.

    Attributes:
        name: as in `ModelMetrics` and `ThresholdTable`.
        roc: (points, 2) of (FPR, TPR), from (0, 0) to (1, 1).
        precision_recall: (points, 2) of (recall, precision) with rising recall; the precision holds from the recall
            before up to this one.
        histogram: of the scores, per class.
        n_pos: number of positives.
        n_neg: number of negatives.
    """

    name: str
    roc: Points
    precision_recall: Points
    histogram: Histogram
    n_pos: int
    n_neg: int

    @property
    def prevalence(self) -> float:
        """The share of positives: the precision of a random ranking."""
        return self.n_pos / (self.n_pos + self.n_neg)

    @classmethod
    @checked
    def from_scores(
        cls,
        name: str,
        scores: Scores,
        target: BinaryTarget,
        *,
        max_fpr: float | None = None,
        min_tpr: float | None = None,
    ) -> Curves:
        """Thin the curves of these scores out to what can be seen.

        Args:
            name: of the model or score column.
            scores: (n,) raw scores, higher means more positive.
            target: (n,) in {0, 1}, both present.
            max_fpr: right end of the region that will be shown enlarged, in (0, 1].
            min_tpr: its lower end, in [0, 1).

        Raises:
            ValueError: if a score is not finite, the target is not binary, or a class is absent.

        >>> curves = Curves.from_scores("s", torch.tensor([0.9, 0.1, 0.4]), torch.tensor([1, 0, 0]))
        >>> curves.roc.tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
        """
        curve = RocCurve.from_scores(scores.detach().cpu(), target.detach().cpu())
        if not curve.defined:
            raise ValueError(f"curves of {name!r} need both classes, got {curve.n_pos} positives of {len(target)} rows")
        fpr, tpr, _ = (part.numpy() for part in curve.roc())
        precision, recall, _ = (part.double().numpy() for part in curve.precision_recall())
        gains_recall = np.diff(recall, prepend=0.0) > 0
        values, positive = scores.detach().cpu().double().numpy(), (target == 1).cpu().numpy()
        return cls(
            name=name,
            roc=_thin_roc(fpr, tpr, max_fpr, min_tpr),
            precision_recall=_thin_steps(np.stack([recall[gains_recall], precision[gains_recall]], axis=1)),
            histogram=_histogram(values, positive),
            n_pos=int(curve.n_pos),
            n_neg=int(curve.n_neg),
        )


def curves_per_class(
    scores: Float[Tensor, "n classes"], target: Int[Tensor, " n"], labels: Mapping[int, str]
) -> tuple[Curves, ...]:
    """One-vs-rest curves of a multiclass model, one for each class that has both sides.

    Args:
        scores: (n, C) raw scores.
        target: (n,) class indices.
        labels: class index → its name.

    >>> curves_per_class(torch.eye(3), torch.tensor([0, 1, 2]), {0: "a", 1: "b"})[1].name
    'b against the rest'
    """
    found = []
    for index, label in labels.items():
        one = target == index
        if one.any() and not one.all():
            found.append(Curves.from_scores(f"{label} against the rest", scores[:, index], one))
    return tuple(found)


def _thin_roc(fpr: Points, tpr: Points, max_fpr: float | None, min_tpr: float | None) -> Points:
    corners = np.stack([fpr, tpr], axis=1)
    # A point on the straight line between its neighbours is no corner.
    first, second = np.diff(corners[:-1], axis=0), np.diff(corners[1:], axis=0)
    turns = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) > 0
    corners = corners[np.concatenate([[True], turns, [True]])]
    if len(corners) <= 2 * _MOST:
        return corners
    wanted_fpr, wanted_tpr = [np.linspace(0, 1, _MOST // 2)], [np.linspace(0, 1, _MOST // 2)]
    if max_fpr is not None:
        wanted_fpr.append(np.linspace(0, max_fpr, _MOST))
    if min_tpr is not None:
        wanted_tpr.append(np.linspace(min_tpr, 1, _MOST))
    keep = np.concatenate(
        [
            np.searchsorted(corners[:, 0], np.concatenate(wanted_fpr)),
            np.searchsorted(corners[:, 1], np.concatenate(wanted_tpr)),
            [0, len(corners) - 1],
        ]
    )
    return corners[np.unique(keep.clip(0, len(corners) - 1))]


def _thin_steps(points: Points) -> Points:
    if len(points) <= 2 * _MOST:
        return points
    # The precision jumps most where few samples are counted, at low recall.
    fine = np.geomspace(1, len(points), _MOST // 2) - 1
    even = np.linspace(0, len(points) - 1, _MOST)
    return points[np.unique(np.concatenate([fine, even]).round().astype(int))]


def _histogram(values: Points, positive: NDArray[np.bool_]) -> Histogram:
    classes = [values[~positive], values[positive]]
    low, high = float(values.min()), float(values.max())
    # A few far-out scores must not squeeze all others into one bin.
    near_low = min(float(np.quantile(scores, 0.002)) for scores in classes)
    near_high = max(float(np.quantile(scores, 0.998)) for scores in classes)
    if high - low > 1.5 * (near_high - near_low) > 0:
        low, high = near_low, near_high
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    if not (np.diff(edges) > 0).all():  # a range of a few units in the last place
        edges = np.array([low, high])
    negatives, positives = (np.histogram(scores.clip(low, high), edges)[0].astype(np.int64) for scores in classes)
    return Histogram(edges, negatives, positives)
