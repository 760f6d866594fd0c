"""The pictures: ROC with the region of interest, the region enlarged, precision-recall, and score histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np

from equipoise.report.markup import Frame, append, node, tick_label
from equipoise.report.model import Cut, Region, ThresholdRow, ThresholdTable
from equipoise.report.numbers import count, rate
from equipoise.report.points import Curves, Points

# What one picture can hold and still be read.
MOST_CURVES = 8
_MOST_CUTS = 3

Series = Sequence[tuple[Curves, str]]


def roc_figure(series: Series, region: Region) -> Element:
    """The whole ROC square, with the region shaded."""
    frame = Frame((0.0, 1.0), (0.0, 1.0))
    shapes = frame.axes("false-positive rate", "true-positive rate")
    if region != Region():
        right, bottom = region.max_fpr or 1.0, region.min_tpr or 0.0
        shapes.append(frame.box((0.0, right), (bottom, 1.0), class_="region"))
    shapes.append(frame.line((0.0, 0.0), (1.0, 1.0), class_="chance"))
    # The first curve is the one that matters: it is drawn last, on top.
    shapes += [_curve(frame, curves, curves.roc, style) for curves, style in reversed(series)]
    words = f"ROC curves of {_names(series)}. {_region_words(region)}"
    return _figure("ROC", _region_words(region) or "The dotted diagonal is a random ranking.", frame, words, shapes)


def region_figure(series: Series, region: Region, tables: Sequence[ThresholdTable]) -> Element:
    """The region of interest alone, stretched to the whole picture, with the area below the first curve filled."""
    right, bottom = region.max_fpr or 1.0, region.min_tpr or 0.0
    frame = Frame((0.0, right), (bottom, 1.0))
    shapes = frame.axes("false-positive rate", "true-positive rate")
    if right > bottom:
        shapes.append(frame.line((bottom, bottom), (right, right), class_="chance"))
    cut = [(curves, style, _cut(curves.roc, right, bottom)) for curves, style in series]
    for index, (curves, style, points) in reversed(list(enumerate(cut))):
        if not len(points):
            continue
        if index == 0:
            below = np.vstack([points, [[right, bottom], [points[0, 0], bottom]]])
            shapes.append(node("path", d=frame.path(below, close=True), class_=f"under {style}"))
        shapes.append(_curve(frame, curves, points, style))
    marks = [mark for table in tables for mark in _marks(frame, series, table, right, bottom)]
    caption = "The shaded region of the ROC curve, stretched."
    if marks:
        caption += " Circles are thresholds as estimated, squares as guaranteed."
    words = f"The region of interest enlarged, for {_names(series)}. {_region_words(region)}"
    return _figure("ROC where it matters", caption, frame, words, [*shapes, *marks])


def precision_recall_figure(series: Series) -> Element:
    """Precision against recall, with the base rate."""
    frame = Frame((0.0, 1.0), (0.0, 1.0))
    shapes = frame.axes("recall (true-positive rate)", "precision")
    rates = {round(curves.prevalence, 6) for curves, _ in series}
    labels = []
    caption = "One threshold after another, from the strictest on."
    if len(rates) == 1:
        base = rates.pop()
        shapes.append(frame.line((0.0, base), (1.0, base), class_="chance"))
        below = 16.0 if base > 0.9 else -7.0
        labels.append(frame.text(f"base rate {rate(base)}", 0.0, base, dx=8.0, dy=below, class_="note"))
        caption += " The dotted line is the share of positives: the precision of a random ranking."
    for curves, style in reversed(series):
        recall, precision = curves.precision_recall.T
        # The precision of a point holds over the recall step that ends in it.
        stairs = np.stack([np.repeat(np.concatenate([[0.0], recall]), 2)[1:-1], np.repeat(precision, 2)], axis=1)
        shapes.append(_curve(frame, curves, stairs, style))
    return _figure(
        "Precision and recall", caption, frame, f"Precision-recall curves of {_names(series)}.", [*shapes, *labels]
    )


def histogram_figure(curves: Curves, table: ThresholdTable | None) -> Element:
    """Scores of positives upwards and of negatives downwards, on a log scale, with the first thresholds."""
    histogram = curves.histogram
    up, down = _height(int(histogram.positives.max())), _height(int(histogram.negatives.max()))
    up, down = max(up, 0.4 * down), max(down, 0.4 * up)  # room for the names of both
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    cuts = _cuts_inside(table, low, high)
    above = 16.0 * len(cuts)
    frame = Frame((low, high), (-1.04 * down, 1.04 * up), width=420.0, height=290.0 + above, top=8.0 + above)
    marks = [(sign * _height(10**k), _power_label(k)) for sign, top in ((1, up), (-1, down)) for k in _powers(top)]
    shapes = frame.axes("score", "", marks)
    for bars, sign, style in ((histogram.positives, 1, "positive"), (histogram.negatives, -1, "negative")):
        for left, right, held in zip(histogram.edges[:-1], histogram.edges[1:], bars, strict=True):
            if held:
                ends = sorted((0.0, sign * _height(int(held))))
                bar = frame.box((float(left), float(right)), (ends[0], ends[1]), class_=f"bar {style}")
                append(bar, node("title", f"{count(int(held))} {style}s with scores from {left:.4g} to {right:.4g}"))
                shapes.append(bar)
        _, middle = frame.at(low, sign * (up if sign > 0 else down) / 2)
        turned = f"translate(13 {middle:.1f}) rotate(-90)"
        shapes.append(node("text", f"{style}s", transform=turned, class_=f"axis {style}-name", text_anchor="middle"))
    shapes.append(frame.line((low, 0.0), (high, 0.0), class_="zero"))
    shapes += _cut_lines(frame, cuts)
    words = f"Score histogram of {curves.name}: {count(curves.n_pos)} positives above the line, "
    words += f"{count(curves.n_neg)} negatives below it."
    caption = f"{count(curves.n_pos)} positives above, {count(curves.n_neg)} negatives below."
    return _figure(curves.name, caption, frame, words, shapes)


def wanted(row: ThresholdRow) -> str:
    """The wanted rate in words.

    >>> wanted(ThresholdRow("fpr", 0.05))
    'FPR ≤ 0.05'
    """
    return f"{row.rate.upper()} {'≤' if row.rate == 'fpr' else '≥'} {row.wanted:g}"


def lacking(table: ThresholdTable, row: ThresholdRow, cut: Cut) -> str:
    """What a sample lacks for a guarantee, in words."""
    if not cut.samples_needed:
        return "no sample is large enough"
    which = "negatives" if row.rate == "fpr" else "positives"
    return f"needs {count(cut.samples_needed)} {'groups' if table.by_group else which}"


def _figure(title: str, caption: str, frame: Frame, description: str, shapes: Sequence[Element]) -> Element:
    return node(
        "figure",
        node("h3", title),
        frame.picture(description, *shapes),
        node("figcaption", caption),
    )


def _curve(frame: Frame, curves: Curves, points: Points, style: str) -> Element:
    return node("path", node("title", curves.name), d=frame.path(points), class_=f"curve {style}")


def _names(series: Series) -> str:
    return ", ".join(curves.name for curves, _ in series)


def _region_words(region: Region) -> str:
    bounds = []
    if region.max_fpr is not None:
        bounds.append(f"FPR ≤ {tick_label(region.max_fpr)}")
    if region.min_tpr is not None:
        bounds.append(f"TPR ≥ {tick_label(region.min_tpr)}")
    return f"Shaded: the region that counts, {' and '.join(bounds)}." if bounds else ""


def _cut(points: Points, right: float, bottom: float) -> Points:
    """The part of a rising polygon with x ≤ right and y ≥ bottom, cut exactly; empty where it does not get there."""
    inside = points[points[:, 0] <= right]
    if len(inside) < len(points):
        before, after = inside[-1], points[len(inside)]
        share = (right - before[0]) / (after[0] - before[0])
        inside = np.vstack([inside, before + share * (after - before)])
    above = inside[inside[:, 1] >= bottom]
    missing = len(inside) - len(above)
    if len(above) and missing:
        before, after = inside[missing - 1], inside[missing]
        share = (bottom - before[1]) / (after[1] - before[1])
        above = np.vstack([before + share * (after - before), above])
    return above


def _marks(frame: Frame, series: Series, table: ThresholdTable, right: float, bottom: float) -> list[Element]:
    styles = {curves.name: style for curves, style in series}
    if table.name not in styles:
        return []
    shapes = []
    for row in table.rows:
        for kind, cut in (("estimated", row.estimated), ("guaranteed", row.guaranteed)):
            if cut is None or not math.isfinite(cut.threshold) or cut.fpr is None or cut.tpr is None:
                continue
            if not (cut.fpr <= right and cut.tpr >= bottom):
                continue
            x, y = frame.at(cut.fpr, cut.tpr)
            title = node("title", f"{wanted(row)} {kind}: FPR {rate(cut.fpr)}, TPR {rate(cut.tpr)}")
            style = f"mark {styles[table.name]}"
            if kind == "estimated":
                shapes.append(node("circle", title, cx=x, cy=y, r=4.5, class_=style))
            else:
                shapes.append(node("rect", title, x=x - 4.2, y=y - 4.2, width=8.4, height=8.4, class_=style))
    return shapes


def _cut_lines(frame: Frame, cuts: Sequence[tuple[ThresholdRow, Cut]]) -> list[Element]:
    """A line a cut, with its name above the plot. Names point away from the crowd, each on a level of its own: the
    line that a name passes over ends below it.
    """
    to_left = sum(cut.threshold for _, cut in cuts) > len(cuts) * (frame.x[0] + frame.x[1]) / 2
    lines, names = [], []
    for level, (row, cut) in enumerate(cuts if to_left else reversed(cuts)):
        x, bottom = frame.at(cut.threshold, frame.y[0])
        y = frame.top - 8.0 - 16.0 * level
        lines.append(node("line", x1=x, x2=x, y1=y - 9.0, y2=bottom, class_="cut"))
        side = {"x": x - 5, "text_anchor": "end"} if to_left else {"x": x + 5, "text_anchor": "start"}
        names.append(node("text", wanted(row), y=y, class_="note", **side))
    return [*lines, *names]


def _cuts_inside(table: ThresholdTable | None, low: float, high: float) -> list[tuple[ThresholdRow, Cut]]:
    rows = table.rows if table else ()
    found = [(row, row.estimated) for row in rows if row.estimated and low <= row.estimated.threshold <= high]
    return sorted(found[:_MOST_CUTS], key=lambda pair: pair[1].threshold)


def _height(rows: int) -> float:
    """Log scale on which a single row is still seen, and none has no height."""
    return math.log10(rows) + 0.35 if rows else 0.0


def _powers(top: float) -> range:
    highest = math.floor(top - 0.35 + 1e-9)
    return range(0, highest + 1, 1 if highest < 4 else 2)


def _power_label(power: int) -> str:
    thousands, rest = divmod(power, 3)
    return f"{10**rest}{['', 'k', 'M', 'G', 'T'][thousands]}"
