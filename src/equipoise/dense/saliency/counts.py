"""Thresholded maps of all frames of an image from one count: no threshold is gone through twice.

A pixel falls into one of `levels` steps ⌊(levels − 1) p⌋ and is salient at threshold t where its step is at least t.
One `bincount` of frame, step and mask gives, summed from the top, the true and false positives of every frame at every
t.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from equipoise.dense.regions.frames import Crop

Values = NDArray[np.float64]
Counted = NDArray[np.int64]

# The machine epsilon that the published definitions add to divisors.
EPS = float(np.finfo(np.float64).eps)


class Counts(NamedTuple):
    """Counts of F frames, the first of which is the whole image.

    Attributes:
        positives: (F, levels) pixels of objects at each step.
        negatives: (F, levels) other pixels.
        strict: (F, 2) negatives and positives at or above the adaptive threshold.
        exact: whether each step holds one value only, as in a map of 8 bits.
    """

    positives: Counted
    negatives: Counted
    strict: Counted
    exact: bool

    def salient(self) -> tuple[Counted, Counted]:
        """True and false positives at each threshold, (F, levels) each."""
        tp, fp = (side[:, ::-1].cumsum(1)[:, ::-1] for side in (self.positives, self.negatives))
        return tp, fp


def adaptive_threshold(pred: Values) -> float:
    """Twice the mean of the map, at most 1."""
    return min(2 * float(pred.mean()), 1.0)


def count_frames(pred: Values, mask: NDArray[np.bool_], crops: Sequence[Crop], levels: int) -> Counts:
    """Counts of a whole image and of its frames."""
    scaled = pred * (levels - 1)
    step = scaled.astype(np.int32)
    exact = _one_value_each(pred, scaled, step, levels)
    code = np.left_shift(step, 2, out=step)
    code += mask.view(np.uint8) << 1
    code += pred >= adaptive_threshold(pred)
    bins = 4 * levels
    parts = [code.ravel(), *(code[crop].ravel() + bins * k for k, crop in enumerate(crops, 1))]
    found = np.bincount(np.concatenate(parts), minlength=bins * len(parts)).reshape(-1, levels, 2, 2)
    sides = found.sum(3)
    return Counts(sides[:, :, 1], sides[:, :, 0], found[:, :, :, 1].sum(1), exact)


def _one_value_each(pred: Values, scaled: Values, step: NDArray[np.int32], levels: int) -> bool:
    if (scaled == step).all():
        return True
    value = np.zeros(levels)
    value[step] = pred
    return bool((value[step] == pred).all())


def f_values(tp: Counted, predicted: Counted, positives: Counted, beta2: float) -> Values:
    """(1 + β²) P R / (β² P + R), 0 without a true positive; shapes are broadcast."""
    precision, recall = tp / np.maximum(predicted, 1), tp / np.maximum(positives, 1)
    return np.where(tp > 0, (1 + beta2) * precision * recall / np.where(tp > 0, beta2 * precision + recall, 1.0), 0.0)


def e_values(tp: Counted, fp: Counted, positives: Counted, pixels: Counted, divisor: Values) -> Values:
    """Enhanced alignment of binary maps with a mask, from the four counts; shapes are broadcast."""
    salient = tp + fp
    total = np.zeros(np.broadcast_shapes(tp.shape, pixels.shape))
    mean_b, mean_g = salient / pixels, positives / pixels
    sides = (
        (tp, 1 - mean_b, 1 - mean_g),
        (fp, 1 - mean_b, -mean_g),
        (positives - tp, -mean_b, 1 - mean_g),
        (pixels - positives - fp, -mean_b, -mean_g),
    )
    for number, b, g in sides:
        total += number * (2 * b * g / (b * b + g * g + EPS) + 1) ** 2 / 4
    total = np.where(positives == 0, pixels - salient, np.where(positives == pixels, salient, total))
    return total / divisor


def areas(counts: Counts, pred: Values, mask: NDArray[np.bool_], crops: Sequence[Crop]) -> Values:
    """(F,) the AUC of every frame over its pixels, ties as halves; NaN where a class is missing."""
    if counts.exact:
        return _areas_of_steps(counts.positives, counts.negatives)
    parts = [(pred, mask), *((pred[crop], mask[crop]) for crop in crops)]
    return np.array([_area(values[truth], values[~truth]) for values, truth in parts])


def _areas_of_steps(positives: Counted, negatives: Counted) -> Values:
    twice = (positives * (2 * negatives.cumsum(1) - negatives)).sum(1)
    pairs = positives.sum(1) * negatives.sum(1)
    return np.where(pairs > 0, twice / (2 * np.maximum(pairs, 1)), np.nan)


def _area(pos: Values, neg: Values) -> float:
    if not (len(pos) and len(neg)):
        return np.nan
    pos, neg = np.sort(pos), np.sort(neg)
    twice = neg.searchsorted(pos, "left").sum() + neg.searchsorted(pos, "right").sum()
    return float(twice / (2 * len(pos) * len(neg)))
