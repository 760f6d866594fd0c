"""What a report says of scores that were only counted into a sketch: certified bounds, intervals, pictures, thresholds.

Two things are uncertain, and kept apart. What the sketch forgot: bounded for certain. What another sample would have
given: the bootstrap interval of the sketch's curve, widened by the certified bounds so that it covers both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval
from equipoise.core.curves.roc import RocCurve
from equipoise.core.curves.sketch import Bounds, CurveSketch
from equipoise.ranking.criteria import Criterion
from equipoise.report import Curves, Cut, Histogram, ThresholdRow, ThresholdTable
from equipoise.workflows.scores.judging import DEFAULT_MAX_FPR, DEFAULT_MIN_TPR, WANTED_FPR, WANTED_TPR, curve_metrics

# A replicate of the bootstrap draws the counts of at most so many steps of the curve.
_STEPS = 2048
_POINTS, _BINS = 400, 48
_GUARD = 1e-9


def certified(sketch: CurveSketch, max_fpr: float | None, min_tpr: float | None) -> dict[str, Bounds]:
    """Bounds on each metric of `judging.curve_metrics`, under the same names."""
    b = DEFAULT_MAX_FPR if max_fpr is None else max_fpr
    t = DEFAULT_MIN_TPR if min_tpr is None else min_tpr
    asked = (Criterion("auroc"), Criterion("opauc", b), Criterion("tpauc", b, t), Criterion("average_precision"))
    found = {criterion.title: sketch.compute(criterion) for criterion in asked}
    return {**found, f"TPR at FPR ≤ {b:g}": sketch.compute("tpr_at_fpr", max_fpr=b)}


def intervals(
    sketch: CurveSketch,
    bounds: Mapping[str, Bounds],
    *,
    max_fpr: float | None,
    min_tpr: float | None,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of a coarser sketch's curve, moved to the estimate and widened by the bounds."""
    coarse = CurveSketch(max_bytes=28 * _STEPS)
    coarse.merge(sketch)
    curve = coarse.curve()
    metrics = curve_metrics(max_fpr, min_tpr)
    positives, negatives = (np.diff(counts.numpy(), prepend=0) for counts in (curve.tps, curve.fps))
    generator = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(resamples):
        tps, fps = (np.cumsum(generator.multinomial(part.sum(), part / part.sum())) for part in (positives, negatives))
        replicate = RocCurve(curve.thresholds, torch.from_numpy(tps), torch.from_numpy(fps))
        for name, metric in metrics.items():
            draws[name].append(float(metric(replicate)))
    found = {}
    for name, metric in metrics.items():
        known, shift = bounds[name], bounds[name].value - float(metric(curve))
        low, high = np.quantile(draws[name], [0.5 - confidence / 2, 0.5 + confidence / 2]) + shift
        low, high = low - (known.value - known.lower), high + (known.upper - known.value)
        found[name] = Interval(known.value, min(max(low, 0.0), known.lower), max(min(high, 1.0), known.upper))
    return found


def drawn(name: str, sketch: CurveSketch, max_fpr: float, min_tpr: float | None) -> Curves:
    """The curves of the sketch as few points."""
    curve = sketch.curve()
    fpr, tpr, _ = (part.numpy() for part in curve.roc())
    steps = [np.linspace(0, 1, _POINTS), np.linspace(0, max_fpr, _POINTS)]
    rises = [np.linspace(0, 1, _POINTS), np.linspace(min_tpr or 0.0, 1, _POINTS)]
    keep = [np.searchsorted(rates, np.concatenate(at)) for rates, at in ((fpr, steps), (tpr, rises))]
    corners = np.stack([fpr, tpr], axis=1)[np.unique(np.concatenate([*keep, [0, len(fpr) - 1]]).clip(0, len(fpr) - 1))]
    precision, recall, at = (part.double().numpy() for part in curve.precision_recall())
    positives, negatives = (np.diff(counts.numpy(), prepend=0) for counts in (curve.tps, curve.fps))
    gaining = np.flatnonzero(positives)
    # The precision jumps most where few samples are counted, at low recall.
    places = np.concatenate([np.geomspace(1, len(gaining), _POINTS) - 1, np.linspace(0, len(gaining) - 1, _POINTS)])
    shown = gaining[np.unique(places.round().astype(int))]
    return Curves(
        name=name,
        roc=corners,
        precision_recall=np.stack([recall[shown], precision[shown]], axis=1),
        histogram=_histogram(at[::-1], positives[::-1], negatives[::-1]),
        n_pos=int(curve.n_pos),
        n_neg=int(curve.n_neg),
    )


def thresholds(
    name: str,
    sketch: CurveSketch,
    *,
    wanted_fpr: Sequence[float] | None,
    wanted_tpr: Sequence[float] | None,
    confidence: float,
) -> ThresholdTable:
    """Thresholds that keep the wanted rates on the rows that were counted, for certain."""
    n_pos, n_neg = sketch.n_pos, sketch.n_neg

    def cut(threshold: float) -> Cut:
        if not math.isfinite(threshold):
            return Cut(threshold)
        positives, negatives = sketch.counts_above(torch.tensor([threshold], dtype=torch.float64))
        return Cut(threshold, int(negatives[0, 1]) / n_neg, int(positives[0, 0]) / n_pos, 1)

    rows = [
        ThresholdRow("fpr", rate, cut(sketch.lowest_threshold(math.floor(n_neg * rate + _GUARD))))
        for rate in (WANTED_FPR if wanted_fpr is None else wanted_fpr)
    ]
    rows += [
        ThresholdRow("tpr", rate, cut(sketch.highest_threshold(math.ceil(n_pos * rate - _GUARD))))
        for rate in (WANTED_TPR if wanted_tpr is None else wanted_tpr)
    ]
    return ThresholdTable(
        name,
        tuple(rows),
        confidence,
        n_pos / (n_pos + n_neg),
        "all rows of the file",
        "the same rows, as the highest FPR and the lowest TPR that the sketch leaves possible",
    )


def _histogram(values: NDArray[np.float64], positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> Histogram:
    """The classes' counts over the range that holds nearly all of both; `values` ascend."""

    def quantile(counts: NDArray[np.int64], share: float) -> float:
        return float(values[np.searchsorted(np.cumsum(counts), share * counts.sum())])

    low = min(quantile(counts, 0.001) for counts in (positives, negatives))
    high = max(quantile(counts, 0.999) for counts in (positives, negatives))
    if not (high > low and math.isfinite(high - low)):
        low, high = float(values[0]) - 0.5, float(values[0]) + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    if not (np.diff(edges) > 0).all():
        edges = np.array([low, high])
    inside = values.clip(low, high)
    found = (
        np.histogram(inside, edges, weights=counts)[0].round().astype(np.int64) for counts in (negatives, positives)
    )
    return Histogram(edges, *found)
