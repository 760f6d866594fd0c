"""The page of `evaluate --segmentation`: overlap by class and group, who is taken for whom, and the worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, estimate, interval, number, share, with_interval

if TYPE_CHECKING:
    from rich.table import Table

_STYLE = """
.worst { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 18px 24px; }
.worst img { width: 100%; image-rendering: pixelated; border-radius: 4px; } .worst figure { margin: 0; }
.matrix text { font-size: 10px; fill: var(--ink); } .matrix rect { fill: var(--s1); }
.matrix .wrong { fill: var(--s2); }
.classes td:not(:first-child), .classes th:not(:first-child) { padding-left: 16px; white-space: nowrap; }
"""
_MOST_DRAWN = 40


@dataclass(frozen=True)
class ClassRow:
    """A class.

    Attributes:
        name: of it.
        group: "head", "middle" or "tail".
        pixels: true ones.
        iou: with its interval over images.
        dice: of it.
        recall: of it.
        precision: of it.
        taken_for: the class that most of its missed pixels are called; empty where none is missed.
    """

    name: str
    group: str
    pixels: int
    iou: Interval
    dice: float
    recall: float
    precision: float
    taken_for: str


@dataclass(frozen=True)
class WorstImage:
    """An image whose classes overlap least.

    Attributes:
        name: of it.
        miou: mean over the classes that it holds.
        wrong: share of its valid pixels that are wrong.
        picture: a data address of truth, prediction and errors side by side.
    """

    name: str
    miou: float
    wrong: float
    picture: str


@dataclass(frozen=True)
class SegmentationReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the folders, under the title.
        measures: words → value, of all images.
        classes: all classes.
        confusion: (C, C) share of the true pixels of a class (rows) that is called each class.
        worst: images, the worst first.
        notes: sentences on how the numbers were made.
        provenance: of the run.
        confidence: of the intervals.
        overline: the command that made it, above the title.
    """

    title: str
    facts: Sequence[str]
    measures: Mapping[str, Interval]
    classes: Sequence[ClassRow]
    confusion: NDArray[np.float64]
    worst: Sequence[WorstImage]
    notes: Sequence[str]
    provenance: Provenance
    confidence: float
    overline: str = "equipoise evaluate --segmentation"


def segmentation_page(report: SegmentationReport) -> str:
    """The page's text; the same report always gives the same text."""
    tiles = [
        node(
            "div",
            node("dt", name),
            node("dd", node("b", estimate(value)), node("span", interval(value))),
            class_="tile",
        )
        for name, value in report.measures.items()
    ]
    sections = [
        node("section", node("dl", *tiles, class_="tiles"), class_="hero"),
        _classes(report),
        _confusion(report),
        _worst(report),
        details_section(report.notes, report.provenance),
    ]
    header = node(
        "header",
        node("p", report.overline, class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def segmentation_table(report: SegmentationReport) -> Table:
    """Classes and, where the eye is, what counts as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "IoU", "mostly taken for", box=None, header_style="dim", pad_edge=False)
    for row in sorted(report.classes, key=lambda row: -row.pixels):
        table.add_row(Text(row.name), Text(with_interval(row.iou)), Text(row.taken_for or "–"))
    for name, value in report.measures.items():
        table.add_row(Text(name, style="bold"), Text(with_interval(value), style="bold"), "")
    return table


def _classes(report: SegmentationReport) -> Element:
    total = sum(row.pixels for row in report.classes)
    head = (
        "class",
        "group",
        "pixels",
        "IoU",
        f"{100 * report.confidence:.3g} % interval",
        "Dice",
        "recall",
        "precision",
    )
    rows: list[Sequence[Child]] = [(*head, "mostly taken for")]
    for row in sorted(report.classes, key=lambda row: -row.pixels):
        numbers = (number(value) for value in (row.dice, row.recall, row.precision))
        overlap = (node("b", estimate(row.iou)), interval(row.iou))
        rows.append((row.name, row.group, share(row.pixels, total), *overlap, *numbers, row.taken_for or "–"))
    return node(
        "section",
        node("h2", "Classes"),
        node("p", "From one matrix over all images, the class with most pixels first.", class_="lead"),
        node("div", plain_table(rows), class_="classes"),
    )


def _confusion(report: SegmentationReport) -> Element | None:
    order = sorted(range(len(report.classes)), key=lambda k: -report.classes[k].pixels)[:_MOST_DRAWN]
    side, left, top = 16.0, 118.0, 96.0
    shapes = []
    for i, row in enumerate(order):
        name = report.classes[row].name
        shapes.append(node("text", name[:18], x=left - 6, y=top + side * i + 12, text_anchor="end"))
        turn = f"translate({left + side * i + 12:.1f} {top - 6:.1f}) rotate(-55)"
        shapes.append(node("text", name[:14], transform=turn))
        for j, column in enumerate(order):
            part = float(report.confusion[row, column])
            if part >= 0.005:
                # Area is the share, so that a small confusion is seen.
                length = (side - 1) * part**0.5
                corner = (side - length) / 2
                shapes.append(
                    node(
                        "rect",
                        node("title", f"{name} called {report.classes[column].name}: {100 * part:.1f} %"),
                        x=left + side * j + corner,
                        y=top + side * i + corner,
                        width=length,
                        height=length,
                        class_=None if row == column else "wrong",
                    )
                )
    size = side * len(order)
    words = "A row is a true class, a column what its pixels are called; the area of a square is their share."
    if len(order) < len(report.classes):
        words += f" The {len(order)} classes with most pixels of {len(report.classes)}."
    drawing = node(
        "svg",
        *shapes,
        viewBox=f"0 0 {left + size + 60:.0f} {top + size + 6:.0f}",
        width=left + size + 60,
        role="img",
        aria_label="confusion of classes",
        class_="matrix",
    )
    return node("section", node("h2", "Who is taken for whom"), node("p", words, class_="lead"), drawing)


def _worst(report: SegmentationReport) -> Element | None:
    if not report.worst:
        return None
    words = "The lowest mean IoU over the classes of an image. Truth, prediction, and what is wrong; grey is ignored."
    figures = (
        node(
            "figure",
            node("img", src=each.picture, alt=f"truth, prediction and errors of {each.name}"),
            node("figcaption", f"{each.name}: mIoU {number(each.miou)}, {100 * each.wrong:.1f} % of pixels wrong"),
        )
        for each in report.worst
    )
    return node(
        "section",
        node("h2", f"The {count(len(report.worst))} worst images"),
        node("p", words, class_="lead"),
        node("div", *figures, class_="worst"),
    )
