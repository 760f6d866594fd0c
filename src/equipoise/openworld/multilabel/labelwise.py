"""How well each label ranks the samples, and how many labels a threshold gets wrong; for the rest see `metrics`."""

from __future__ import annotations

from typing import Literal

import torch

from equipoise.core.curves.roc import RocCurve
from equipoise.core.labels import LabelMask, LabelMatrix, read_labels
from equipoise.core.signature import checked
from equipoise.core.types import LabelScores, Real, Scalar
from equipoise.core.validate import warn_once


@checked
def class_map(
    scores: LabelScores,
    target: LabelMatrix,
    *,
    average: Literal["macro", "micro"] = "macro",
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
) -> Scalar:
    """Class-wise mAP: the average precision of every label over the samples, averaged over labels.

    Not to be confused with mAP@K, which averages over samples. Equal scores share a step of the curve.

    Args:
        scores: (n, C) finite scores, comparable between samples.
        target: as in `tkpr`.
        average: "macro" for the mean over labels, "micro" for the average precision of all labels as one.
        mask: as in `tkpr`.
        ignore_index: as in `tkpr`.

    Returns:
        The mean over labels that are relevant to some sample, float64; NaN without any (warned once).

    Raises:
        ValueError: as `tkpr`.

    >>> class_map(torch.tensor([[0.9, 0.5], [0.1, 0.6]]), torch.tensor([[1, 1], [0, 0]]))
    tensor(0.7500, dtype=torch.float64)
    """
    labels = read_labels(target, mask, ignore_index)
    sides = (scores, labels.relevant, labels.irrelevant)
    columns = zip(*(side.T if average == "macro" else side.reshape(1, -1) for side in sides), strict=True)
    values = [
        RocCurve.from_scores(column[relevant | irrelevant], relevant[relevant | irrelevant]).average_precision()
        for column, relevant, irrelevant in columns
        if bool(relevant.any())
    ]
    if not values:
        warn_once("class_map is undefined: no label is relevant to any sample; it is NaN")
        return torch.full((), torch.nan, dtype=torch.float64, device=scores.device)
    return torch.stack(values).mean().to(scores.device)


@checked
def hamming_loss(
    scores: LabelScores,
    target: LabelMatrix,
    *,
    threshold: Real = 0.0,
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
) -> Scalar:
    """Share of known labels on the wrong side of a threshold, float64; a score at the threshold means relevant.

    >>> hamming_loss(torch.tensor([[2.0, -1.0, 0.5, -3.0]]), torch.tensor([[1, 0, 0, 0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    labels = read_labels(target, mask, ignore_index)
    chosen = scores >= threshold
    wrong = (chosen & labels.irrelevant) | (~chosen & labels.relevant)
    return wrong.sum().double() / (labels.relevant | labels.irrelevant).sum()
