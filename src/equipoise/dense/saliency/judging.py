"""All measures of one map, of the whole image and of every frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from equipoise.dense.regions.frames import Boxes, MaskObjects, crops, find_objects
from equipoise.dense.saliency.counts import (
    EPS,
    Counts,
    Values,
    areas,
    count_frames,
    e_values,
    f_values,
)
from equipoise.dense.saliency.structure import structure_measure, weighted_f_measure

PLAIN = ("mae", "mse", "f_max", "f_mean", "f_adaptive", "auc")
STRUCTURAL = ("e_max", "e_mean", "e_adaptive", "s_measure", "wf")
CURVES = ("precision", "recall", "f", "si_precision", "si_recall", "si_f", "e", "si_e")
LOWER_IS_BETTER = ("mae", "mse")


@dataclass(frozen=True)
class Judging:
    """How maps are judged; the arguments of `saliency_metrics` and `structural_saliency_metrics`."""

    beta2: float = 0.3
    num_levels: int = 256
    min_area: int = 0
    connectivity: int = 4
    normalize: bool = False
    pixelwise: bool = True
    structural: bool = True
    s_alpha: float = 0.5
    wf_beta2: float = 1.0

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is measured of a frame."""
        return (PLAIN if self.pixelwise else ()) + (STRUCTURAL if self.structural else ())

    @property
    def per_image(self) -> tuple[str, ...]:
        """Names of what is measured of an image."""
        extra = ("si_f_max_per_object",) if self.pixelwise else ()
        return (*(name for metric in self.metrics for name in (metric, f"si_{metric}")), *extra)


@dataclass(frozen=True)
class MapScores:
    """What one map came to.

    Attributes:
        values: by the names of `Judging.per_image`; NaN where undefined.
        curves: those of `CURVES` that were asked for, (levels,); level 0 of si_e is NaN where there is an object.
        objects: boxes and areas.
        per_object: metric → (K,) of each frame.
    """

    values: dict[str, float]
    curves: dict[str, Values]
    objects: MaskObjects
    per_object: dict[str, Values] = field(default_factory=dict)


def stretched(pred: Values) -> Values:
    """The map from 0 to 1; a constant one as it is."""
    low, high = float(pred.min()), float(pred.max())
    return (pred - low) / (high - low) if high > low else pred


def judge_map(pred: Values, mask: NDArray[np.bool_], how: Judging) -> MapScores:
    """Judge a (height, width) map in [0, 1] by its mask."""
    if how.normalize:
        pred = stretched(pred)
    objects = find_objects(mask, how.min_area, how.connectivity)
    parts = crops(objects.boxes)
    whole = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    counts = count_frames(pred, mask, parts, how.num_levels)
    outside = background_of(objects.boxes, mask.shape)
    found: dict[str, Values] = {}
    curves: dict[str, Values] = {}
    if how.pixelwise:
        error = np.abs(pred - mask)
        found |= _separable(error, objects.boxes, outside)
        found |= _of_precision(counts, mask.size, how.beta2, curves)
        found["auc"] = areas(counts, pred, mask, parts)
    if how.structural:
        found |= _of_alignment(counts, mask.size, curves)
        found["s_measure"] = np.array([structure_measure(pred[c], mask[c], how.s_alpha) for c in [whole, *parts]])
        found["wf"] = np.array([weighted_f_measure(pred[c], mask[c], how.wf_beta2) for c in [whole, *parts]])
    values = _summed_up(found, curves, len(parts), outside, pixelwise=how.pixelwise)
    return MapScores(
        values={name: values[name] for name in how.per_image},
        curves=curves,
        objects=objects,
        per_object={name: found[name][1 : 1 + len(parts)] for name in how.metrics},
    )


def frame_average(of_frames: Values, of_background: float, union: int, behind: int) -> float:
    """(Σ_k v_k + α v_0) / (K + α) with α = |background| / |union of frames|."""
    alpha = behind / union
    rest = alpha * of_background if behind else 0.0
    return float((of_frames.sum() + rest) / (len(of_frames) + alpha))


def background_of(boxes: Boxes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixels are in no frame."""
    outside = np.ones(shape, dtype=bool)
    for crop in crops(boxes):
        outside[crop] = False
    return outside


def _separable(error: Values, boxes: Boxes, outside: NDArray[np.bool_]) -> dict[str, Values]:
    """MAE and MSE of the image, of every frame, and last of the background, 0 where there is none."""
    regions = [error.ravel(), *(error[crop].ravel() for crop in crops(boxes)), error[outside]]
    sizes = np.maximum([len(each) for each in regions], 1)
    return {
        "mae": np.array([each.sum() for each in regions]) / sizes,
        "mse": np.array([each @ each for each in regions]) / sizes,
    }


def _of_precision(counts: Counts, size: int, beta2: float, curves: dict[str, Values]) -> dict[str, Values]:
    tp, fp = counts.salient()
    predicted, positives = tp + fp, tp[:, :1]
    # As published, at threshold 0 the whole image is salient, also for a frame.
    predicted[:, 0] = size
    f = f_values(tp, predicted, positives, beta2)
    precision, recall = tp / np.maximum(predicted, 1), tp / np.maximum(positives, 1)
    for name, curve in (("precision", precision), ("recall", recall), ("f", f)):
        curves[name], curves[f"si_{name}"] = curve[0], (curve[1:] if len(curve) > 1 else curve).mean(0)
    strict = counts.strict
    adaptive = f_values(strict[:, 1], strict.sum(1), positives[:, 0], beta2)
    return {"f_max": f.max(1), "f_mean": f.mean(1), "f_adaptive": adaptive}


def _of_alignment(counts: Counts, size: int, curves: dict[str, Values]) -> dict[str, Values]:
    tp, fp = counts.salient()
    positives, pixels = tp[:, :1], tp[:, :1] + fp[:, :1]
    # A frame may be a single pixel: frames are divided by all their pixels, the image by one less.
    divisor = pixels.astype(np.float64)
    divisor[0] = size - 1 + EPS
    e = e_values(tp, fp, positives, pixels, divisor)
    strict = counts.strict
    adaptive = e_values(strict[:, 1:], strict[:, :1], positives, pixels, divisor)[:, 0]
    curves["e"] = e[0]
    # At threshold 0 the map of a frame is all salient whatever it holds, which is right by itself where the object is.
    e[1:, 0] = np.nan
    curves["si_e"] = (e[1:] if len(e) > 1 else e).mean(0)
    levels = np.concatenate([e[:1].mean(1), e[1:, 1:].mean(1)])
    most = np.concatenate([e[:1].max(1), e[1:, 1:].max(1)])
    return {"e_max": most, "e_mean": levels, "e_adaptive": adaptive}


def _summed_up(
    found: dict[str, Values], curves: dict[str, Values], count: int, outside: NDArray[np.bool_], *, pixelwise: bool
) -> dict[str, float]:
    """Whole values and their size-invariant forms, of `count` frames."""
    behind = int(np.count_nonzero(outside))
    values = {}
    for name, each in found.items():
        frames = each[1 : 1 + count]
        values[name] = values[f"si_{name}"] = float(each[0])
        if not count:
            continue
        if name in LOWER_IS_BETTER:
            values[f"si_{name}"] = frame_average(frames, float(each[-1]), outside.size - behind, behind)
        elif np.isnan(frames).all():
            values[f"si_{name}"] = np.nan
        else:
            values[f"si_{name}"] = float(np.nanmean(frames))
    for curve in ("f", "e"):
        if count and f"si_{curve}" in curves:
            # The frames' curves are averaged before the best threshold is taken.
            values[f"si_{curve}_max"] = float(np.nanmax(curves[f"si_{curve}"]))
    if pixelwise:
        values["si_f_max_per_object"] = float(found["f_max"][1:].mean() if count else found["f_max"][0])
    return values
