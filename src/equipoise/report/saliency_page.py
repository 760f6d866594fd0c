"""The page of `evaluate --saliency`: pixels beside objects, error by the size of objects, and the worst maps."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, estimate, interval, number, share
from equipoise.report.open_figures import STYLE, Line, curve_figure

_STYLE = (
    STYLE
    + """
.worst { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 22px; }
.worst figure { margin: 0; } .worst img { width: 100%; border-radius: 6px; border: 1px solid var(--rule); }
.middle { fill: none; stroke: var(--s2); stroke-width: 2.4; } .spread { fill: var(--s2); fill-opacity: 0.16; }
"""
)
_NOTES = (
    "Size-invariant measures average over the boxes of objects; MAE and MSE also take the background in, weighed by "
    "its area over that of all boxes. F, E, S, weighted F and AUC are of the boxes alone.",
    "Objects are connected regions of the mask: what touches is one object, and what is cut in two are two.",
    "Curves are averaged over images before their best threshold is taken. Intervals are over images, by the normal "
    "approximation.",
)
_MOST_DOTS = 700
_BANDS = 12


@dataclass(frozen=True)
class MeasureRow:
    """A measure over pixels and over objects.

    Attributes:
        title: of it.
        whole: of whole images.
        frames: size-invariant.
    """

    title: str
    whole: Interval
    frames: Interval


@dataclass(frozen=True)
class SizeRow:
    """A third of the objects, by area.

    Attributes:
        name: of the third.
        low: smallest area, pixels.
        high: largest area.
        objects: how many.
        mae: mean absolute error in their boxes.
        f: mean F over thresholds in their boxes.
    """

    name: str
    low: int
    high: int
    objects: int
    mae: float
    f: float


@dataclass(frozen=True)
class WorstMap:
    """A picture of a map that does badly.

    Attributes:
        name: of the files.
        png: mask and map beside each other.
        si_mae: size-invariant error.
        mae: error over pixels.
        objects: how many.
    """

    name: str
    png: bytes
    si_mae: float
    mae: float
    objects: int


@dataclass(frozen=True)
class SaliencyPage:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the images, under the title.
        measures: MAE first.
        sizes: thirds of objects from small to large; empty where there are too few.
        curves: mean curves by the names of `SaliencyReport.curves`.
        areas: (m,) areas of all objects.
        errors: (m,) mean absolute errors in their boxes.
        worst: maps, the worst first.
        warnings: what a reader must know of the files.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    measures: Sequence[MeasureRow]
    sizes: Sequence[SizeRow]
    curves: Mapping[str, NDArray[np.float64]]
    areas: NDArray[np.float64]
    errors: NDArray[np.float64]
    worst: Sequence[WorstMap]
    warnings: Sequence[str]
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def saliency_page(report: SaliencyPage) -> str:
    """The page's text; the same report always gives the same text."""
    header = node(
        "header",
        node("p", "equipoise evaluate --saliency", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    sections = [_hero(report), _warnings(report), _measures(report), _sizes(report), _curves(report), _worst(report)]
    return document(
        report.title, header, node("main", *sections, details_section(_NOTES, report.provenance)), extra_style=_STYLE
    )


def size_verdict(sizes: Sequence[SizeRow]) -> str:
    """What size does to the error, in a sentence; nothing where objects are too few to tell.

    >>> size_verdict([SizeRow("small", 1, 9, 5, 0.4, 0.5), SizeRow("large", 90, 99, 5, 0.1, 0.9)])
    'The smallest third of objects has 4.0 times the error of the largest third.'
    """
    if len(sizes) < 2:
        return ""
    small, large = sizes[0].mae, sizes[-1].mae
    if not (large > 0 and math.isfinite(small)):
        return ""
    ratio = small / large
    if ratio >= 1:
        return f"The smallest third of objects has {ratio:.1f} times the error of the largest third."
    return f"The largest third of objects has {1 / ratio:.1f} times the error of the smallest third."


def _hero(report: SaliencyPage) -> Element:
    row = report.measures[0]
    tiles = [(f"{row.title} over pixels", row.whole), (f"{row.title} over objects", row.frames)]
    f = next((each for each in report.measures if each.title.startswith("F, mean")), None)
    if f is not None:
        tiles += [("mean F over pixels", f.whole), ("mean F over objects", f.frames)]
    words = size_verdict(report.sizes)
    return node(
        "section",
        node("p", "Every pixel alike, and every object alike", class_="overline"),
        node("h2", f"{row.title} {number(row.whole.estimate)}, size-invariant {number(row.frames.estimate)}"),
        node("p", words, class_="judgement close" if words.startswith("The smallest") else "judgement"),
        node(
            "dl",
            *(
                node(
                    "div",
                    node("dt", name),
                    node("dd", node("b", estimate(v)), node("span", interval(v))),
                    class_="tile",
                )
                for name, v in tiles
            ),
            class_="tiles",
        ),
        class_="hero",
    )


def _warnings(report: SaliencyPage) -> Element | None:
    if not report.warnings:
        return None
    return node(
        "section",
        node("h2", "To know of these files"),
        node("ul", *(node("li", words) for words in report.warnings)),
        class_="warnings",
    )


def _measures(report: SaliencyPage) -> Element:
    cells: list[Sequence[Child]] = [("measure", "over pixels", "", "over objects", "")]
    for row in report.measures:
        values = [text for v in (row.whole, row.frames) for text in (node("b", estimate(v)), interval(v))]
        cells.append((row.title, *values))
    return node(
        "section",
        node("h2", "Measures"),
        node("p", "MAE and MSE are better when low, all others when high.", class_="lead"),
        plain_table(cells),
    )


def _sizes(report: SaliencyPage) -> Element | None:
    if not report.sizes:
        return None
    cells: list[Sequence[Child]] = [("objects", "pixels", "number", "MAE", "mean F")]
    for row in report.sizes:
        span = f"{count(row.low)} to {count(row.high)}"
        cells.append((row.name, span, count(row.objects), node("b", number(row.mae)), number(row.f)))
    return node(
        "section",
        node("h2", "Error by the size of objects"),
        node("p", "Each object in its own box.", class_="lead"),
        node("div", _size_figure(report.areas, report.errors), plain_table(cells), class_="figures wide"),
    )


def _size_figure(areas: NDArray[np.float64], errors: NDArray[np.float64]) -> Element:
    """A dot per object, with the middle half of objects of like size."""
    order = np.argsort(areas, kind="stable")
    x, y = np.log10(np.maximum(areas[order], 1)), errors[order]
    low, high = float(x[0]), float(x[-1])
    room = 0.04 * (high - low) or 0.5
    frame = Frame((low - room, high + room), (0.0, max(0.05, 1.04 * float(y.max()))), width=460, height=340)
    rows = [(value, f"{value:g}") for value in np.linspace(0, 1, 6).round(1).tolist() if value <= frame.y[1]]
    shapes = [frame.line((frame.x[0], v), (frame.x[1], v), class_="grid") for v, _ in rows]
    shapes += [frame.text(label, frame.x[0], v, dx=-7.0, dy=4.5, class_="tick", text_anchor="end") for v, label in rows]
    for power in range(math.ceil(frame.x[0]), math.floor(frame.x[1]) + 1):
        shapes.append(frame.line((power, frame.y[0]), (power, frame.y[1]), class_="grid"))
        label = count(10**power)
        shapes.append(frame.text(label, power, frame.y[0], dy=18.0, class_="tick", text_anchor="middle"))
    shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_DOTS)).round().astype(int))
    for place in shown.tolist():
        across, up = frame.at(float(x[place]), float(y[place]))
        shapes.append(node("circle", cx=across, cy=up, r=2.6, class_="dot right"))
    groups = np.array_split(np.arange(len(x)), max(1, min(_BANDS, len(x) // 8)))
    if len(groups) > 1:
        at = np.array([x[each].mean() for each in groups])
        low_, middle, high_ = (np.array([np.quantile(y[each], q) for each in groups]) for q in (0.25, 0.5, 0.75))
        band = np.concatenate([np.stack([at, low_], 1), np.stack([at, high_], 1)[::-1]])
        shapes.append(node("path", d=frame.path(band, close=True), class_="spread"))
        shapes.append(node("path", d=frame.path(np.stack([at, middle], 1)), class_="middle"))
    centre = (frame.left + frame.width - frame.right) / 2
    titled = node("text", "pixels of the object", x=centre, y=frame.height - 8, class_="axis", text_anchor="middle")
    words = "A dot is an object; the line is the median of objects of like size, the band their middle half."
    if len(shown) < len(x):
        words += f" {count(len(shown))} of {count(len(x))} are drawn."
    return node(
        "figure",
        node("h3", "Mean absolute error in the box"),
        frame.picture(f"Error by size of {count(len(x))} objects", *shapes, titled),
        node("figcaption", words),
    )


def _curves(report: SaliencyPage) -> Element:
    curves = {name: torch.from_numpy(values) for name, values in report.curves.items()}
    sides = (("over pixels", "", "s1"), ("over objects", "si_", "s2"))
    ranked = [Line(n, curves[f"{s}recall"][1:], curves[f"{s}precision"][1:], c) for n, s, c in sides]
    at = torch.linspace(0, 1, len(curves["f"]))[1:]
    figures = [
        curve_figure("Precision and recall", "Mean over images at each threshold.", "recall", "precision", ranked),
        curve_figure(
            "F by threshold",
            "A flat curve needs no choice of a threshold.",
            "threshold",
            "F",
            [Line(n, at, curves[f"{s}f"][1:], c) for n, s, c in sides],
        ),
    ]
    if "e" in curves:
        lines = [Line(n, at, curves[f"{s}e"][1:], c) for n, s, c in sides]
        figures.append(curve_figure("E by threshold", "Alignment of map and mask.", "threshold", "E", lines))
    return node("section", node("h2", "Curves"), node("div", *figures, class_="figures"))


def _worst(report: SaliencyPage) -> Element | None:
    if not report.worst:
        return None
    shown = []
    for each in report.worst:
        words = f"SI-MAE {number(each.si_mae)}, MAE {number(each.mae)}, {count(each.objects)} "
        words += "object" if each.objects == 1 else "objects"
        picture = "data:image/png;base64," + base64.b64encode(each.png).decode("ascii")
        shown.append(
            node("figure", node("h3", each.name), node("img", src=picture, alt=words), node("figcaption", words))
        )
    return node(
        "section",
        node("h2", "The worst maps"),
        node("p", "By size-invariant error: the mask with the boxes of its objects, and the map.", class_="lead"),
        node("div", *shown, class_="worst"),
    )


def salient_share(values: Sequence[float]) -> str:
    """The mean share of salient pixels, as a percentage.

    >>> salient_share([0.1, 0.3])
    '20.0 %'
    """
    return share(round(1e6 * float(np.mean(values))), 1_000_000)
