"""Many judged maps as rows of numbers, and what a set of them comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from equipoise.dense.saliency.counts import Values
from equipoise.dense.saliency.judging import CURVES, Judging, MapScores

FACTS = ("objects", "salient_share", "resized")
BOX = ("top", "bottom", "left", "right", "area")
COUNTS = ("n_images", "n_objects", "n_empty", "n_resized", "n_undefined_auc", "n_undefined_si_auc")
# Best and mean over thresholds of a set are those of its mean curve.
_OF_CURVES = {
    f"{side}{curve}_{what}": (f"{side}{curve}", what)
    for curve in ("f", "e")
    for side in ("", "si_")
    for what in ("max", "mean")
}
_BEST_PER_IMAGE = ("f_max", "si_f_max", "e_max", "si_e_max")


def image_row(scores: MapScores, how: Judging, share: float, resized: bool) -> list[float]:
    """What `image_columns` names."""
    return [float(len(scores.objects.areas)), share, float(resized), *(scores.values[name] for name in how.per_image)]


def image_columns(how: Judging) -> tuple[str, ...]:
    """Facts and measures of an image."""
    return FACTS + how.per_image


def object_rows(scores: MapScores, how: Judging) -> Values:
    """(K, columns) of `object_columns`."""
    box = np.column_stack([scores.objects.boxes, scores.objects.areas]).astype(np.float64)
    return np.column_stack([box, *(scores.per_object[name] for name in how.metrics)])


def object_columns(how: Judging) -> tuple[str, ...]:
    """Box, area and measures of an object."""
    return BOX + how.metrics


def curve_rows(scores: MapScores, how: Judging) -> Values:
    """(curves, levels) of `curve_names`; what a curve lacks is 0."""
    return np.nan_to_num(np.stack([scores.curves[name] for name in curve_names(how)]))


def curve_names(how: Judging) -> tuple[str, ...]:
    """Curves of an image."""
    wanted = [name for name in CURVES if (how.structural if name in ("e", "si_e") else how.pixelwise)]
    return tuple(wanted)


def mean_curves(total: Values, images: int, empty: int, how: Judging) -> dict[str, Values]:
    """Mean over images of (curves, levels) sums; NaN at the lowest threshold of si_e unless no image has an object."""
    found = {name: curve / max(images, 1) for name, curve in zip(curve_names(how), total, strict=True)}
    if "si_e" in found and empty < images:
        found["si_e"][0] = np.nan
    return found


def summarise(rows: Values, curves: Values, how: Judging) -> dict[str, float]:
    """Means over the images on which a measure is defined, and measures of mean curves.

    Args:
        rows: (images, columns) of `image_columns`.
        curves: (curves, levels) sums over images of `curve_rows`.
        how: as the images were judged.
    """
    column = dict(zip(image_columns(how), rows.T, strict=True))
    images, empty = len(rows), int((column["objects"] == 0).sum())
    found = mean_curves(curves, images, empty, how)
    summary = {}
    for name in how.per_image:
        if name in _OF_CURVES:
            curve, what = _OF_CURVES[name]
            values = found[curve]
            summary[name] = float(np.nanmax(values) if what == "max" else np.nanmean(values))
        else:
            summary[name] = _mean(column[name])
    summary |= {f"{name}_per_image": _mean(column[name]) for name in _BEST_PER_IMAGE if name in column}
    counts = [images, column["objects"].sum(), empty, column["resized"].sum()]
    counts += [np.isnan(column[name]).sum() if name in column else 0 for name in ("auc", "si_auc")]
    return summary | dict(zip(COUNTS, map(float, counts), strict=True))


def summary_names(how: Judging) -> tuple[str, ...]:
    """What `summarise` gives."""
    best = [f"{name}_per_image" for name in _BEST_PER_IMAGE if name in how.per_image]
    return (*how.per_image, *best, *COUNTS)


def undefined_words(summary: Mapping[str, float]) -> str:
    """On how many images a measure could not be taken, in a sentence; nothing where there is none."""
    images = int(summary["n_images"])
    missing = {name: int(summary[f"n_undefined_{name}"]) for name in ("auc", "si_auc")}
    if not any(missing.values()):
        return ""
    return (
        f"AUC is undefined on {missing['auc']} of {images} images, and SI-AUC on {missing['si_auc']}, whose masks or "
        "frames have pixels of one class only; they are left out of its mean"
    )


def markdown_table(summary: Mapping[str, float], titles: Iterable[tuple[str, str]]) -> str:
    """A table of measures of the whole image beside their size-invariant form."""
    lines = ["| measure | whole image | size-invariant |", "|---|---|---|"]
    for name, title in titles:
        if name in summary:
            lines.append(f"| {title} | {summary[name]:.4f} | {summary[f'si_{name}']:.4f} |")
    return "\n".join(lines) + "\n"


TITLES: Sequence[tuple[str, str]] = (
    ("mae", "MAE"),
    ("mse", "MSE"),
    ("auc", "AUC"),
    ("f_max", "F, best threshold"),
    ("f_mean", "F, mean over thresholds"),
    ("f_adaptive", "F, adaptive threshold"),
    ("e_max", "E, best threshold"),
    ("e_mean", "E, mean over thresholds"),
    ("e_adaptive", "E, adaptive threshold"),
    ("s_measure", "S-measure"),
    ("wf", "weighted F"),
)


def _mean(values: Values) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
