"""Is it known, and which one is it? One number for both questions, beside the measures that mix them up.

With r the open-set score, *lower* for known samples in the formulas of the paper, h the predicted class and y the true
one:

    OpenAUC = 1 / (N_k N_u)  Σ_{known i} Σ_{unknown j}  1[h_i = y_i] · 1[r_j > r_i]
            = accuracy · AUC(correct known, unknown)

A pair counts only if the known sample is classified right *and* ranked as less unknown. The area under the open-set
classification rate against the false-positive rate (OSCR) is the same number where both use the same score.

The measures at one threshold come from a confusion matrix with a row and a column for "unknown". They can be fooled:
F-scores do not see an unknown sample that is accepted in place of a known one that is rejected, AUROC does not see the
classes. `open_set_curve` has all of them at every threshold from one sweep.

Wang et al., "OpenAUC: Towards AUC-Oriented Open-Set Recognition", NeurIPS 2022. How Youden's index is averaged over
classes is inferred. The authors' code calls macro what is micro here and the other way about; the names here are the
field's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.curves.ranks import TIES, count_pairs
from equipoise.core.scores import ScoreSpec, Side, as_spec
from equipoise.core.validate import check_choice, check_fraction
from equipoise.openworld.outliers.detection import check_scores

AVERAGES = ("macro", "micro")
KNOWN_ACCURACIES = ("fraction", "tp_tn")


def open_auc(
    known_scores: Float[Tensor, " n_known"],
    unknown_scores: Float[Tensor, " n_unknown"],
    known_correct: Bool[Tensor, " n_known"] | Int[Tensor, " n_known"],
    *,
    ties: str = "half",
    higher_is: ScoreSpec | Side = "in",
) -> Float[Tensor, ""]:
    """OpenAUC: the share of (known, unknown) pairs in which the known sample is right and ranked as more known.

    Args:
        known_scores: (n_known,) open-set scores of known samples; infinities allowed.
        unknown_scores: (n_unknown,) open-set scores of unknown samples.
        known_correct: (n_known,) whether the class predicted among the known ones is right.
        ties: "half" (what the authors' code computes) or "strict" (their definition).
        higher_is: "in" where a higher score means known; "out" for the paper's score.

    Returns:
        A float64 scalar in [0, 1]; 0 if no known sample is right.

    Raises:
        ValueError: if a side is empty, lengths differ, a score is NaN, or `known_correct` is not boolean.

    >>> scores, correct = torch.tensor([0.9, 0.8, 0.4]), torch.tensor([True, False, True])
    >>> open_auc(scores, torch.tensor([0.5, 0.1]), correct)
    tensor(0.5000, dtype=torch.float64)
    """
    check_choice("ties", ties, TIES)
    check_scores("known_scores", known_scores)
    check_scores("unknown_scores", unknown_scores)
    right = check_correct("known_correct", known_correct, known_scores)
    spec = as_spec(higher_is)
    num_right = int(right.sum())
    if not num_right:
        return torch.zeros((), dtype=torch.float64)
    chosen = known_scores if num_right == len(known_scores) else known_scores[right]
    rate = count_pairs(spec.inward(chosen), spec.inward(unknown_scores)).win_rate(ties)
    return torch.tensor(num_right / len(known_scores) * rate, dtype=torch.float64)


def open_set_classification_curve(
    known_scores: Float[Tensor, " n_known"],
    unknown_scores: Float[Tensor, " n_unknown"],
    known_correct: Bool[Tensor, " n_known"] | Int[Tensor, " n_known"],
    *,
    higher_is: ScoreSpec | Side = "in",
) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    """The curve whose area is OpenAUC: correctly classified and accepted known against accepted unknown samples.

    Returns:
        (rate of unknown accepted, rate of known accepted and right), float64, from (0, 0) to (1, accuracy).

    Raises:
        ValueError: as `open_auc`.

    >>> scores, correct = torch.tensor([0.9, 0.8]), torch.tensor([True, False])
    >>> open_set_classification_curve(scores, torch.tensor([0.5]), correct)[1]
    tensor([0.0000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    check_scores("known_scores", known_scores)
    check_scores("unknown_scores", unknown_scores)
    right = check_correct("known_correct", known_correct, known_scores)
    inward = as_spec(higher_is).inward(torch.cat([known_scores, unknown_scores])).cpu()
    values, order = inward.sort(descending=True)
    gains = torch.cat([right.cpu().double(), torch.zeros(len(unknown_scores), dtype=torch.float64)])[order]
    unknown = (order >= len(known_scores)).double()
    ends = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)])
    start = torch.zeros(1, dtype=torch.float64)
    accepted = torch.cat([start, unknown.cumsum(0)[ends] / len(unknown_scores)])
    return accepted, torch.cat([start, gains.cumsum(0)[ends] / len(known_scores)])


def open_set_confusion(
    known_pred: Int[Tensor, " n_known"],
    known_target: Int[Tensor, " n_known"],
    known_scores: Float[Tensor, " n_known"],
    unknown_pred: Int[Tensor, " n_unknown"],
    unknown_scores: Float[Tensor, " n_unknown"],
    *,
    threshold: float,
    num_classes: int,
    higher_is: ScoreSpec | Side = "in",
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
        ValueError: if lengths differ, scores are NaN, or a class is not in [0, C).

    >>> known, unknown = torch.tensor([0.9, 0.2]), torch.tensor([0.7])
    >>> zero_one = torch.tensor([0, 1])
    >>> open_set_confusion(zero_one, zero_one, known, torch.tensor([1]), unknown, threshold=0.5, num_classes=2)
    tensor([[1, 0, 0],
            [0, 0, 1],
            [0, 1, 0]])
    """
    spec = as_spec(higher_is)
    check_scores("known_scores", known_scores)
    check_scores("unknown_scores", unknown_scores)
    check_classes("known_pred", known_pred, known_scores, num_classes)
    check_classes("known_target", known_target, known_scores, num_classes)
    check_classes("unknown_pred", unknown_pred, unknown_scores, num_classes)
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
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.shape[0] < 2:
        raise ValueError(f"confusion must have shape (C + 1, C + 1), got {tuple(confusion.shape)}")
    matrix = confusion.double()
    tp = matrix.diagonal()[:-1]
    fp, fn = matrix.sum(0)[:-1] - tp, matrix.sum(1)[:-1] - tp
    return _Counts(tp, fp, fn, matrix.sum() - tp - fp - fn)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0/0 counts as 0."""
    return torch.where(whole > 0, part / whole.clamp_min(1), 0.0)


def open_set_f1(confusion: Int[Tensor, "classes classes"], average: str = "macro") -> Float[Tensor, ""]:
    """Open-set F-score over the known classes: 2PR / (P + R).

    Args:
        confusion: of `open_set_confusion`.
        average: "macro": P and R are means over known classes; "micro": of pooled counts. 0/0 counts as 0.

    Raises:
        ValueError: if the average is unknown or the matrix not square.

    >>> open_set_f1(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]), "micro")
    tensor(0.5000, dtype=torch.float64)
    """
    check_choice("average", average, AVERAGES)
    tp, fp, fn, _ = _counts(confusion)
    if average == "macro":
        precision, recall = _ratio(tp, tp + fp).mean(), _ratio(tp, tp + fn).mean()
    else:
        precision, recall = _ratio(tp.sum(), (tp + fp).sum()), _ratio(tp.sum(), (tp + fn).sum())
    both = precision + recall
    return 2 * precision * recall / both if bool(both > 0) else both


def youden_index(confusion: Int[Tensor, "classes classes"], average: str = "macro") -> Float[Tensor, ""]:
    """Youden's index of the known classes: true-positive rate + true-negative rate − 1.

    Args:
        confusion: of `open_set_confusion`.
        average: "macro": the mean over known classes; "micro": of pooled counts (how the paper averages is inferred).

    Raises:
        ValueError: as `open_set_f1`.

    >>> youden_index(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    check_choice("average", average, AVERAGES)
    counts = _counts(confusion)
    tp, fp, fn, tn = counts if average == "macro" else (x.sum() for x in counts)
    return (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)).mean() - 1


def normalized_accuracy(
    confusion: Int[Tensor, "classes classes"], weight: float = 0.5, *, known: str = "fraction"
) -> Float[Tensor, ""]:
    """λ · accuracy on known + (1 − λ) · share of unknown rejected.

    Args:
        confusion: of `open_set_confusion`.
        weight: λ in [0, 1].
        known: "fraction": known samples accepted and right; "tp_tn": Σ(TP + TN) / Σ(all four) over known classes, as
            some authors define it (from memory).

    Raises:
        ValueError: if an option is unknown or out of range.

    >>> normalized_accuracy(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    check_fraction("weight", weight, zero=True)
    check_choice("known", known, KNOWN_ACCURACIES)
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

    def best(self, measure: str) -> tuple[float, float]:
        """(threshold, value) where a measure is highest; of several, the one that accepts least.

        Raises:
            ValueError: if there is no such measure.
        """
        check_choice("measure", measure, [name for name in self.__dataclass_fields__ if name != "thresholds"])
        values: Tensor = getattr(self, measure)
        # Sums of rounded steps differ in the last digits where the measure is equal.
        k = int((values >= values.max() - 1e-12).nonzero()[0, 0])
        return float(self.thresholds[k]), float(values[k])


def open_set_curve(
    known_pred: Int[Tensor, " n_known"],
    known_target: Int[Tensor, " n_known"],
    known_scores: Float[Tensor, " n_known"],
    unknown_pred: Int[Tensor, " n_unknown"],
    unknown_scores: Float[Tensor, " n_unknown"],
    *,
    num_classes: int,
    higher_is: ScoreSpec | Side = "in",
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
    check_scores("known_scores", known_scores)
    check_scores("unknown_scores", unknown_scores)
    check_classes("known_pred", known_pred, known_scores, num_classes)
    check_classes("known_target", known_target, known_scores, num_classes)
    check_classes("unknown_pred", unknown_pred, unknown_scores, num_classes)
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


def check_correct(name: str, correct: Tensor, scores: Tensor) -> Tensor:
    """Raise `ValueError` unless `correct` has the length of its scores and holds only 0 and 1; returns it as bool."""
    if correct.shape != scores.shape:
        raise ValueError(f"{name} must have the length of its scores, {len(scores)}, got shape {tuple(correct.shape)}")
    if correct.dtype != torch.bool and bool(((correct != 0) & (correct != 1)).any()):
        raise ValueError(f"{name} must hold only 0 and 1, or booleans; pass `pred == target`")
    return correct.bool()


def check_classes(name: str, classes: Tensor, scores: Tensor, num_classes: int) -> None:
    """Raise `ValueError` unless classes are integers in [0, num_classes), as many as there are scores."""
    if classes.shape != scores.shape:
        raise ValueError(f"{name} must have the length of its scores, {len(scores)}, got shape {tuple(classes.shape)}")
    if classes.is_floating_point():
        raise ValueError(f"{name} must hold integers, got {classes.dtype}; convert with `.long()`")
    low, high = (int(x) for x in classes.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} holds the class {low if low < 0 else high}, wanted 0 to {num_classes - 1}; a sample of no known "
            "class is said to be unknown, it has no label"
        )
