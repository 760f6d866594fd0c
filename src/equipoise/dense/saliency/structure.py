"""Measures of structure: how a map agrees with a mask beyond pixels taken one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from equipoise.dense.saliency.counts import EPS, Values

Bools = NDArray[np.bool_]

# The Gaussian of the weighted F: 7 × 7, of standard deviation 5; and the half-life of background errors in pixels.
_REACH, _SIGMA, _HALF_LIFE = 3, 5.0, 5.0


def structure_measure(pred: Values, mask: Bools, alpha: float) -> float:
    """S = α S_object + (1 − α) S_region, at least 0."""
    share = float(mask.mean())
    if share == 0:
        return 1 - float(pred.mean())
    if share == 1:
        return float(pred.mean())
    of_objects = share * _object_score(pred[mask]) + (1 - share) * _object_score(1 - pred[~mask])
    return max(0.0, alpha * of_objects + (1 - alpha) * _region_score(pred, mask))


def _object_score(values: Values) -> float:
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + spread + EPS)


def _region_score(pred: Values, mask: Bools) -> float:
    """The similarity of four blocks that meet at the mask's centre of mass, by their areas."""
    height, width = mask.shape
    rows, columns = mask.sum(1), mask.sum(0)
    total = rows.sum()
    y = round(float(np.arange(height) @ rows / total)) + 1
    x = round(float(np.arange(width) @ columns / total)) + 1
    score = 0.0
    for across in (slice(0, y), slice(y, height)):
        for along in (slice(0, x), slice(x, width)):
            block = pred[across, along]
            if block.size:
                score += block.size * _similarity(block.ravel(), mask[across, along].ravel())
    return score / mask.size


def _similarity(x: Values, g: Bools) -> float:
    n = len(x)
    # Relative to one of its values, a constant block has the variance 0 and no trace of rounding.
    shifted = x - x[0]
    at = shifted.mean()
    shifted -= at
    mean_x, mean_g = float(x[0] + at), float(np.count_nonzero(g) / n)
    divisor = n - 1 + EPS
    var_x = float(shifted @ shifted) / divisor
    var_g = n * mean_g * (1 - mean_g) / divisor
    # Deviations of x add up to 0, so that those of g need not be taken.
    both = float(shifted[g].sum()) / divisor if 0 < mean_g < 1 else 0.0
    above = 4 * mean_x * mean_g * both
    below = (mean_x * mean_x + mean_g * mean_g) * (var_x + var_g)
    if above != 0:
        return above / (below + EPS)
    return 1.0 if below == 0 else 0.0


def weighted_f_measure(pred: Values, mask: Bools, beta2: float) -> float:
    """F of errors that are smoothed along objects and fade with the distance from them."""
    from scipy import ndimage

    if not mask.any():
        return 0.0
    error = np.abs(pred - mask)
    on = error[mask]
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    # What the Gaussian of a pixel of an object reaches.
    window = tuple(slice(max(0, int(each[0]) - _REACH), int(each[-1]) + 1 + _REACH) for each in (rows, columns))
    false_positive = 0.0
    near = error[window]
    if len(on) < mask.size:
        nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
        height, width = mask.shape
        down = nearest[0] - np.arange(height, dtype=np.int32)[:, None]
        along = nearest[1] - np.arange(width, dtype=np.int32)
        distance = np.sqrt(down * down + along * along)
        near = error[nearest[(0, *window)], nearest[(1, *window)]]
        # The weight of a pixel of an object, at distance 0, is 1.
        weight = 2 - np.exp(-np.log(2) / _HALF_LIFE * distance)
        false_positive = float(error.ravel() @ weight.ravel() - on.sum())
    kernel = np.exp(-(np.arange(-_REACH, _REACH + 1) ** 2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        near = ndimage.correlate1d(near, kernel, axis=axis, mode="constant")
    on = np.minimum(on, near[mask[window]])
    true_positive = float(len(on) - on.sum())
    recall = 1 - float(on.mean())
    precision = true_positive / (true_positive + false_positive + EPS)
    return (1 + beta2) * recall * precision / (recall + beta2 * precision + EPS)
