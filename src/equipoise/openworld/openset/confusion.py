"""An open-set classifier at a threshold, and at all of them: a confusion matrix with a row and a column for "unknown".

The measures can be fooled: F-scores do not see an unknown sample that is accepted in place of a known one that is
rejected. `open_set_curve` has all of them at every threshold from one sweep.

The measures are those that Wang et al., "OpenAUC: Towards AUC-Oriented Open-Set Recognition", NeurIPS 2022, compare
with. How Youden's index is averaged over classes is inferred. The authors' code calls macro what is micro here and the
other way about; the names here are the field's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.scores import as_spec
from equipoise.core.signature import checked
from equipoise.core.types import Count, MayBeInfinite, Probability, Range, Scalar
from equipoise.openworld.types import Direction, KnownClasses, KnownScores, UnknownClasses, UnknownScores

Average: TypeAlias = Literal["macro", "micro"]
AtThreshold: TypeAlias = Literal["f1_macro", "f1_micro", "youden_macro", "youden_micro", "normalized_accuracy"]
Confusion: TypeAlias = Annotated[Int[Tensor, "classes classes"], Range(0)]


@checked
def open_set_confusion(
    known_pred: KnownClasses,
    known_target: KnownClasses,
    known_scores: KnownScores,
    unknown_pred: UnknownClasses,
    unknown_scores: UnknownScores,
    *,
    threshold: Annotated[float, MayBeInfinite()],
    num_classes: Count,
    higher_is: Direction = "in",
) -> Int[Tensor, "classes classes"]:
    """Confusion matrix with one more row and column for "unknown", the last.

    Args:
        known_pred: (n_known,) class predicted among the known ones.
        known_target: (n_known,) true class.
        known_scores: (n_known,) open-set scores.
        unknown_pred: (n_unknown,) class an unknown sample gets where it is accepted.
        unknown_scores: (n_unknown,) open-set scores.
        threshold: in units of the scores. A sample is rejected if it scores below ("in") or above ("out") it; a
            threshold beyond all scores accepts or rejects everything.
        num_classes: C, of known classes.
        higher_is: "in", "out" (the paper's), or a `ScoreSpec`.

    Returns:
        (C + 1, C + 1) counts, true classes in rows.

    Raises:
        ValueError: on a bad argument, by name.

    >>> known, unknown = torch.tensor([0.9, 0.2]), torch.tensor([0.7])
    >>> zero_one = torch.tensor([0, 1])
    >>> open_set_confusion(zero_one, zero_one, known, torch.tensor([1]), unknown, threshold=0.5, num_classes=2)
    tensor([[1, 0, 0],
            [0, 0, 1],
            [0, 1, 0]])
    """
    spec = as_spec(higher_is)
    _check_classes(num_classes, known_pred=known_pred, known_target=known_target, unknown_pred=unknown_pred)
    scores = torch.cat([known_scores, unknown_scores])
    rejected = scores < threshold if spec.higher_is == "in" else scores > threshold
    pred = torch.cat([known_pred, unknown_pred]).masked_fill(rejected, num_classes)
    target = torch.cat([known_target, known_target.new_full((len(unknown_scores),), num_classes)])
    size = num_classes + 1
    return torch.bincount(target * size + pred, minlength=size * size).view(size, size)


class _Counts(NamedTuple):
    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


def _counts(confusion: Tensor) -> _Counts:
    """Of the known classes, float64."""
    if len(confusion) < 2:
        raise ValueError(f"confusion must have shape (C + 1, C + 1), got {tuple(confusion.shape)}")
    matrix = confusion.double()
    tp = matrix.diagonal()[:-1]
    fp, fn = matrix.sum(0)[:-1] - tp, matrix.sum(1)[:-1] - tp
    return _Counts(tp, fp, fn, matrix.sum() - tp - fp - fn)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0/0 counts as 0."""
    return torch.where(whole > 0, part / whole.clamp_min(1), 0.0)


@checked
def open_set_f1(confusion: Confusion, average: Average = "macro") -> Scalar:
    """Open-set F-score over the known classes: 2PR / (P + R).

    Args:
        confusion: of `open_set_confusion`.
        average: "macro": P and R are means over known classes; "micro": of pooled counts. 0/0 counts as 0.

    >>> open_set_f1(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]), "micro")
    tensor(0.5000, dtype=torch.float64)
    """
    tp, fp, fn, _ = _counts(confusion)
    if average == "macro":
        precision, recall = _ratio(tp, tp + fp).mean(), _ratio(tp, tp + fn).mean()
    else:
        precision, recall = _ratio(tp.sum(), (tp + fp).sum()), _ratio(tp.sum(), (tp + fn).sum())
    both = precision + recall
    return 2 * precision * recall / both if bool(both > 0) else both


@checked
def youden_index(confusion: Confusion, average: Average = "macro") -> Scalar:
    """Youden's index of the known classes: true-positive rate + true-negative rate − 1.

    Args:
        confusion: of `open_set_confusion`.
        average: "macro": the mean over known classes; "micro": of pooled counts (how the paper averages is inferred).

    >>> youden_index(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    counts = _counts(confusion)
    tp, fp, fn, tn = counts if average == "macro" else (x.sum() for x in counts)
    return (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)).mean() - 1


@checked
def normalized_accuracy(
    confusion: Confusion, weight: Probability = 0.5, *, known: Literal["fraction", "tp_tn"] = "fraction"
) -> Scalar:
    """λ · accuracy on known + (1 − λ) · share of unknown rejected.

    Args:
        confusion: of `open_set_confusion`.
        weight: λ in [0, 1].
        known: "fraction": known samples accepted and right; "tp_tn": Σ(TP + TN) / Σ(all four) over known classes, as
            some authors define it (reconstructed).

    >>> normalized_accuracy(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    tp, fp, fn, tn = _counts(confusion)
    if known == "fraction":
        accuracy = _ratio(tp.sum(), confusion[:-1].sum().double())
    else:
        accuracy = (tp + tn).sum() / (tp + fp + fn + tn).sum()
    rejected = _ratio(confusion[-1, -1].double(), confusion[-1].sum().double())
    return weight * accuracy + (1 - weight) * rejected


@dataclass(frozen=True)
class OpenSetCurve:
    """Every threshold measure at every threshold, float64, from "reject all" to "accept all".

    Attributes:
        thresholds: (m,) in the units and direction of the scores given; accepting starts at them. The first, beyond all
            scores, rejects everything.
        known_accuracy: known samples accepted and right.
        known_accepted: known samples accepted.
        unknown_rejected: unknown samples rejected.
        f1_macro: of `open_set_f1`.
        f1_micro: of `open_set_f1`.
        youden_macro: of `youden_index`.
        youden_micro: of `youden_index`.
        normalized_accuracy: of `normalized_accuracy` with λ = ½.
    """

    thresholds: Float[Tensor, " m"]
    known_accuracy: Float[Tensor, " m"]
    known_accepted: Float[Tensor, " m"]
    unknown_rejected: Float[Tensor, " m"]
    f1_macro: Float[Tensor, " m"]
    f1_micro: Float[Tensor, " m"]
    youden_macro: Float[Tensor, " m"]
    youden_micro: Float[Tensor, " m"]
    normalized_accuracy: Float[Tensor, " m"]

    @checked
    def best(self, measure: AtThreshold) -> tuple[float, float]:
        """(threshold, value) where a measure is highest; of several, the one that accepts least."""
        values: Tensor = getattr(self, measure)
        # Sums of rounded steps differ in the last digits where the measure is equal.
        k = int((values >= values.max() - 1e-12).nonzero()[0, 0])
        return float(self.thresholds[k]), float(values[k])


@checked
def open_set_curve(
    known_pred: KnownClasses,
    known_target: KnownClasses,
    known_scores: KnownScores,
    unknown_pred: UnknownClasses,
    unknown_scores: UnknownScores,
    *,
    num_classes: Count,
    higher_is: Direction = "in",
) -> OpenSetCurve:
    """All threshold measures at all thresholds, in O(N log N): a step changes the counts of one class only.

    Arguments and errors as `open_set_confusion`.

    >>> known, unknown = torch.tensor([0.9, 0.2]), torch.tensor([0.7])
    >>> zero_one = torch.tensor([0, 1])
    >>> curve = open_set_curve(zero_one, zero_one, known, torch.tensor([1]), unknown, num_classes=2)
    >>> curve.best("normalized_accuracy")
    (0.8999999761581421, 0.75)
    """
    spec = as_spec(higher_is)
    _check_classes(num_classes, known_pred=known_pred, known_target=known_target, unknown_pred=unknown_pred)
    n_known, n_unknown = len(known_scores), len(unknown_scores)
    inward = spec.inward(torch.cat([known_scores, unknown_scores])).cpu().double()
    values, order = (x.numpy() for x in inward.sort(descending=True))
    pred = torch.cat([known_pred, unknown_pred]).cpu().numpy()[order]
    hit = torch.cat([known_pred == known_target, torch.zeros_like(unknown_pred, dtype=torch.bool)]).cpu().numpy()[order]
    known = order < n_known
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    class_size = np.bincount(known_target.cpu().numpy(), minlength=num_classes)
    others = n_known + n_unknown - class_size

    # Counts of the class that a step belongs to, after the step: steps of one class are neighbours in `grouped`.
    grouped = np.argsort(pred, kind="stable")
    starts = np.searchsorted(pred[grouped], pred[grouped])
    accepted = np.arange(len(pred)) - starts + 1
    hits = np.cumsum(hit[grouped])
    hits = hits - np.append(0, hits)[starts]
    precision = hits / accepted
    gained = precision - np.where(accepted > 1, np.append(0, precision[:-1]), 0)
    precision_steps = np.empty(len(pred))
    precision_steps[grouped] = gained
    recall_steps = hit / np.maximum(class_size[pred], 1)
    false_steps = ~hit / np.maximum(others[pred], 1)

    def cumulated(steps: NDArray[np.generic]) -> NDArray[np.float64]:
        return np.append(0.0, np.cumsum(steps, dtype=np.float64)[ends])

    tp, taken, taken_known = cumulated(hit), cumulated(np.ones(len(pred))), cumulated(known)
    macro_precision, macro_recall = cumulated(precision_steps) / num_classes, cumulated(recall_steps) / num_classes
    # Classes without negatives have 0/0 = 0 as true-negative rate.
    macro_tnr = np.count_nonzero(others) / num_classes - cumulated(false_steps) / num_classes
    recall = tp / n_known
    tnr = 1 - (taken - tp) / max(others.sum(), 1) if others.sum() else np.zeros(len(tp))
    rejected = 1 - (taken - taken_known) / n_unknown
    thresholds = np.append(np.inf, values[ends])
    columns = (
        thresholds if spec.higher_is == "in" else -thresholds,
        recall,
        taken_known / n_known,
        rejected,
        _f1(macro_precision, macro_recall),
        _f1(tp / np.maximum(taken, 1), recall),
        macro_recall + macro_tnr - 1,
        recall + tnr - 1,
        (recall + rejected) / 2,
    )
    return OpenSetCurve(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    both = precision + recall
    return 2 * precision * recall / np.where(both > 0, both, 1)


def _check_classes(num_classes: int, **classes: Tensor) -> None:
    """Raise `ValueError` unless all lie below the number of classes."""
    for name, values in classes.items():
        if (most := int(values.max())) >= num_classes:
            raise ValueError(f"{name} holds the value {most}, wanted class indices from 0 to {num_classes - 1}")
