"""Is it known? The measures of a score that should be higher for known samples than for unknown ones.

Everything follows from one sort. The false-positive rate at 95 % recall has two readings in the literature, so it has
two names here:

    fpr95_id_positive     keep at least 95 % of the known: the share of unknown that is let in      (most CLIP papers)
    fpr95_ood_positive    flag at least 95 % of the unknown: the share of known that is flagged     (OpenOOD)

Either is the smallest rate of a threshold whose recall reaches 95 %. The area under the precision-recall curve has two
readings too: average precision, a sum of steps, and the trapezoid that several papers use, which is optimistic.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equipoise.core.curves.roc import RocCurve
from equipoise.core.scores import as_spec
from equipoise.core.signature import checked
from equipoise.core.types import Fraction, Scalar
from equipoise.openworld.types import Direction, KnownScores, UnknownScores

OOD_MEASURES = (
    "auroc",
    "aupr_in",
    "aupr_out",
    "aupr_in_trapezoid",
    "aupr_out_trapezoid",
    "fpr95_id_positive",
    "fpr95_ood_positive",
    "detection_error",
)


@checked
def ood_metrics(
    id_scores: KnownScores,
    ood_scores: UnknownScores,
    *,
    recall: Fraction = 0.95,
    higher_is: Direction = "in",
) -> dict[str, Scalar]:
    """How well a score tells in-distribution from out-of-distribution samples.

    Args:
        id_scores: (n_in,) scores of known samples; infinities allowed.
        ood_scores: (n_out,) scores of unknown samples.
        recall: the recall, in (0, 1], at which false positives are counted.
        higher_is: which samples score higher, "in" or "out", or a detector's `ScoreSpec`.

    Returns:
        float64 scalars: `auroc` (a tie counts one half), `aupr_in` and `aupr_out` (average precision with the known,
        with the unknown as positives), `aupr_in_trapezoid` and `aupr_out_trapezoid`, `fpr95_id_positive` and
        `fpr95_ood_positive` (named after the default recall), and `detection_error`, the least mean of the share of
        known rejected and the share of unknown accepted over all thresholds.

    Raises:
        ValueError: on a bad argument, by name.

    >>> found = ood_metrics(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.5, 0.1]))
    >>> float(found["fpr95_id_positive"]), float(found["fpr95_ood_positive"])
    (0.5, 0.3333333333333333)
    """
    known = detection_curve(id_scores, ood_scores, higher_is=higher_is)
    unknown = reversed_curve(known)
    tpr, fpr = known.tps.numpy() / known.n_pos, known.fps.numpy() / known.n_neg
    return {
        "auroc": known.auroc(),
        "aupr_in": known.average_precision(),
        "aupr_out": unknown.average_precision(),
        "aupr_in_trapezoid": trapezoid_aupr(known),
        "aupr_out_trapezoid": trapezoid_aupr(unknown),
        "fpr95_id_positive": _scalar(known.fpr_at_tpr(recall)),
        "fpr95_ood_positive": _scalar(unknown.fpr_at_tpr(recall)),
        # Rejecting everything errs on one half.
        "detection_error": _scalar(min(0.5, float((1 - tpr + fpr).min()) / 2)),
    }


@checked
def detection_curve(id_scores: KnownScores, ood_scores: UnknownScores, *, higher_is: Direction = "in") -> RocCurve:
    """The ROC curve with the known samples as positives, its thresholds on the inward score.

    Raises:
        ValueError: as `ood_metrics`.

    >>> detection_curve(torch.tensor([0.9, 0.3]), torch.tensor([0.5])).tps
    tensor([1, 1, 2])
    """
    spec = as_spec(higher_is)
    scores = spec.inward(torch.cat([id_scores, ood_scores]))
    return RocCurve.from_scores(scores, torch.arange(len(scores), device=scores.device) < len(id_scores))


def reversed_curve(curve: RocCurve) -> RocCurve:
    """The curve of the opposite question: negatives become positives, and scores change their sign.

    >>> reversed_curve(RocCurve.from_scores(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 1, 0]))).tps
    tensor([1, 1, 1])
    """

    def at_or_below(counts: Tensor) -> Tensor:
        above = torch.cat([counts.new_zeros(1), counts[:-1]])
        return (counts[-1] - above).flip(0)

    return RocCurve(-curve.thresholds.flip(0), at_or_below(curve.fps), at_or_below(curve.tps))


def trapezoid_aupr(curve: RocCurve) -> Scalar:
    """Area under straight lines between the points (recall, precision), from (0, 1) on.

    Precision is not linear between thresholds, so this flatters; it is what many papers call AUPR. Where the curve is
    right, `RocCurve.average_precision` is.

    >>> trapezoid_aupr(RocCurve.from_scores(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 0, 1])))
    tensor(0.7917, dtype=torch.float64)
    """
    precision, recall, _ = (x.numpy() for x in curve.precision_recall())
    precision, recall = np.append(1.0, precision), np.append(0.0, recall)
    return _scalar(float((np.diff(recall) * (precision[1:] + precision[:-1])).sum() / 2))


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
