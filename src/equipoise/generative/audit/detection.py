"""How well a detector tells backdoored samples, at its threshold and over all of them, and where to put the threshold.

    flagged iff score ≥ τ,   precision = TP / (TP + FP),   recall = TP / (TP + FN),   FPR = FP / (FP + TN)

The area under the ROC curve is of the continuous score; the code released with BlackMirror takes it of the decision. A
triggered prompt whose attack does not show can be called negative, as that code does, or positive: `attack_labels` has
both readings.

A threshold for a wanted false-positive rate comes from the scores of clean prompts. How sure the rate is, is said
twice: by the interval of Clopper and Pearson, and by the threshold that keeps the rate on new prompts with a given
confidence. Whether a group of prompts is flagged more often than clean ones is Fisher's exact test against clean
prompts that were audited, or the binomial test against a rate that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from equipoise.core.curves.intervals import incomplete_beta
from equipoise.core.curves.roc import RocCurve
from equipoise.core.curves.thresholds import guaranteed_threshold, threshold_at_fpr
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Count, OpenFraction, Probability, Range, Real, Scalar, Scores, Whole
from equipoise.core.validate import warn_once

Convention: TypeAlias = Literal["visible", "triggered"]
Flags: TypeAlias = Integer[Tensor, " n"] | Bool[Tensor, " n"]


@checked
def detection_metrics(score: Scores, label: BinaryTarget, threshold: Real) -> dict[str, Scalar]:
    """Measures of a detector.

    Args:
        score: (n,) scores, higher for a backdoor.
        label: (n,) 1 where the sample is backdoored.
        threshold: a sample is flagged when its score is at least this.

    Returns:
        float64 scalars `precision`, `recall`, `f1`, `fpr`, `accuracy` and `auc`. Precision is 0 where nothing is
        flagged. With one class only, `auc` and the rate of the class that is missing are NaN, with a warning.

    Raises:
        ValueError: on a bad argument, by name.

    >>> found = detection_metrics(torch.tensor([0.9, 0.4, 0.6, 0.1]), torch.tensor([1, 1, 0, 0]), 0.5)
    >>> float(found["precision"]), float(found["fpr"]), float(found["auc"])
    (0.5, 0.5, 0.75)
    """
    flagged, positive = score >= threshold, label == 1
    tp, fp = int((flagged & positive).sum()), int((flagged & ~positive).sum())
    fn, tn = int((~flagged & positive).sum()), int((~flagged & ~positive).sum())
    auc = math.nan
    if not 0 < tp + fn < len(label):
        warn_once(f"auc needs both classes, got {tp + fn} positives of {len(label)} samples; it is NaN")
    else:
        auc = float(RocCurve.from_scores(score, label).auroc())
    found = {
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else math.nan,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan,
        "fpr": fp / (fp + tn) if fp + tn else math.nan,
        "accuracy": (tp + tn) / len(score),
        "auc": auc,
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


@checked
def attack_labels(
    triggered: Annotated[Flags, Range(0, 1)],
    visible: Annotated[Flags, Range(0, 1)],
    convention: Convention = "visible",
) -> Integer[Tensor, " n"]:
    """Which samples count as backdoored.

    Args:
        triggered: (n,) 1 where the prompt has the trigger.
        visible: (n,) 1 where the picture shows what the attack wants.
        convention: "visible", triggered and visible, as in the released evaluation; or "triggered", whatever is seen.

    Raises:
        ValueError: on a bad argument, by name.

    >>> attack_labels(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 1]))
    tensor([1, 0, 0])
    """
    chosen = triggered.bool() & visible.bool() if convention == "visible" else triggered.bool()
    return chosen.long()


@dataclass(frozen=True)
class Calibration:
    """A threshold for a wanted false-positive rate.

    Attributes:
        threshold: the lowest with at most the wanted share of these clean scores at or above it.
        rate: the share of these clean scores at or above it.
        low: lower end of the interval of the rate.
        high: upper end.
        guaranteed: the lowest threshold whose rate on new clean prompts is at most the wanted one, with the confidence;
            infinite where there are too few prompts to say.
        samples: how many clean prompts there are.
        samples_needed: the fewest from which a threshold can be guaranteed.
    """

    threshold: float
    rate: float
    low: float
    high: float
    guaranteed: float
    samples: int
    samples_needed: int


@checked
def calibrate_threshold(
    clean_scores: Scores, target_fpr: OpenFraction = 0.05, confidence: OpenFraction = 0.95
) -> Calibration:
    """The threshold of a detector from its scores on clean prompts, and how sure its false-positive rate is.

    A threshold above 1 means that the detector flags too many clean prompts at every threshold up to 1.

    Args:
        clean_scores: (n,) scores of prompts that no trigger is in.
        target_fpr: wanted false-positive rate.
        confidence: of the interval and of the guarantee.

    Raises:
        ValueError: on a bad argument, by name.

    >>> found = calibrate_threshold(torch.linspace(0, 1, 101), 0.1)
    >>> round(found.threshold, 3), round(found.rate, 3), round(found.guaranteed, 3)
    (0.9, 0.099, 0.96)
    """
    scores = clean_scores.double()
    plain, sure = threshold_at_fpr(scores, target_fpr), guaranteed_threshold(scores, target_fpr, confidence)
    # Those cut strictly above their value.
    above = math.nextafter(plain.value, math.inf)
    flagged = int((scores >= above).sum())
    low, high = rate_interval(flagged, len(scores), confidence)
    return Calibration(
        above,
        flagged / len(scores),
        low,
        high,
        math.nextafter(sure.value, math.inf),
        len(scores),
        int(sure.samples_needed or 1),
    )


@checked
def rate_interval(flagged: Whole, total: Count, confidence: OpenFraction = 0.95) -> tuple[float, float]:
    """The interval of Clopper and Pearson of a rate.

    Raises:
        ValueError: on a bad argument, by name.

    >>> [round(end, 3) for end in rate_interval(0, 20)]
    [0.0, 0.168]
    """
    _check_flagged(flagged, total)
    tail = (1 - confidence) / 2
    low = 0.0 if flagged == 0 else _root(lambda p: binomial_p_value(flagged, total, p) - tail)
    high = 1.0 if flagged == total else _root(lambda p: binomial_p_value(flagged + 1, total, p) - (1 - tail))
    return low, high


@checked
def binomial_p_value(flagged: Whole, total: Count, rate: Probability) -> float:
    """Probability of at least as many flags among `total` prompts when each is flagged with probability `rate`.

    Raises:
        ValueError: on a bad argument, by name.

    >>> round(binomial_p_value(2, 2, 0.5), 6)
    0.25
    """
    _check_flagged(flagged, total)
    if flagged == 0 or rate in (0.0, 1.0):
        return 1.0 if flagged == 0 or rate == 1.0 else 0.0
    return incomplete_beta(flagged, total - flagged + 1, rate)


@checked
def fisher_p_value(flagged: Whole, total: Count, clean_flagged: Whole, clean_total: Count) -> float:
    """Probability of at least as many flags in a group when it is flagged no more often than clean prompts are.

    Fisher's exact test of one side: given how many are flagged in both groups together, the flags of one group are
    hypergeometric. A clean group without a flag is thus no proof that clean prompts are never flagged.

    Args:
        flagged: flags of the group.
        total: prompts of the group.
        clean_flagged: flags among clean prompts.
        clean_total: clean prompts.

    Raises:
        ValueError: on a bad argument, by name.

    >>> round(fisher_p_value(3, 3, 0, 3), 4)
    0.05
    """
    _check_flagged(flagged, total)
    _check_flagged(clean_flagged, clean_total)
    both, everything = flagged + clean_flagged, total + clean_total
    ways = sum(
        math.comb(total, k) * math.comb(clean_total, both - k)
        for k in range(flagged, min(total, both) + 1)
        if both - k <= clean_total
    )
    return ways / math.comb(everything, both)


def _check_flagged(flagged: int, total: int) -> None:
    if flagged > total:
        raise ValueError(f"flagged={flagged} is more than total={total}")


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
