"""The page of `embed`: which map keeps held-out answers, the map, and what people disagree about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, number
from equipoise.report.pictures import STYLE, picture
from equipoise.report.sections import hero_section, page_header, section, warnings_section

_STYLE = STYLE + ".figures + div { margin-top: 18px; overflow-x: auto; }"
_NOTES = (
    "All answers to one question are in one fold, so that no held-out answer was seen, nor its opposite.",
    "Where one choice among many was written as several answers, some of them may be held out and others not, so that "
    "the share is higher than for new choices.",
    "Each loss and dimension takes the penalty with the best mean over the folds that it is judged on, so that all "
    "means are a little too high, for every loss alike.",
    "The dimension is the smallest whose mean is within one standard error of the best one of the same loss.",
    "The map is fitted to all answers, and turned to its principal axes; only distances mean something.",
)
_STYLES = 8


@dataclass(frozen=True)
class EmbeddingReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the answers, under the title.
        method: the loss that was chosen.
        dim: its dimensions.
        accuracy: loss → dimension → mean and standard error of held-out accuracy.
        penalty: loss → dimension → the penalty that was best.
        chosen: loss → dimension by the rule.
        kept: share of all answers that the map keeps.
        opposed: answers of which the opposite was given as well.
        most: the largest share of answers that any map can keep.
        disputed: items, the answers they are in, and the share of these that the map does not keep.
        map: the picture.
        notes: what a reader must know of the data.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    method: str
    dim: int
    accuracy: Mapping[str, Mapping[int, tuple[float, float]]]
    penalty: Mapping[str, Mapping[int, float]]
    chosen: Mapping[str, int]
    kept: float
    opposed: int
    most: float
    disputed: Sequence[tuple[str, int, float]]
    map: Path
    notes: Sequence[str]
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def embedding_page(report: EmbeddingReport) -> str:
    """The page's text; the same report always gives the same text."""
    sections = [
        _hero(report),
        warnings_section("To know of these answers", report.notes),
        _map(report),
        _accuracy(report),
        _disputed(report),
        details_section(_NOTES, report.provenance),
    ]
    header = page_header("embed", report.title, report.facts)
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def verdict(report: EmbeddingReport) -> str:
    """What held-out answers say of the map, in a sentence."""
    mean, error = report.accuracy[report.method][report.dim]
    if mean - 2 * error <= 0.5:
        return "Held-out answers are kept no more often than by chance: the map is not to be trusted."
    return f"{100 * mean:.1f} % of held-out answers are kept; chance would keep half of them."


def _hero(report: EmbeddingReport) -> Element:
    mean, error = report.accuracy[report.method][report.dim]
    tiles = [
        ("held-out answers kept", number(mean), f"± {number(error)}"),
        ("answers kept by the map", number(report.kept), f"no map keeps more than {number(report.most)}"),
        ("answers with an opposite", count(report.opposed), ""),
    ]
    words = "dimension" if report.dim == 1 else "dimensions"
    clear = mean - 2 * error > 0.5
    return hero_section(
        "Chosen on held-out answers", f"{report.method}, {report.dim} {words}", verdict(report), clear, tiles
    )


def _map(report: EmbeddingReport) -> Element:
    more = f" Of {report.dim} dimensions, those in which the items differ most." if report.dim > 2 else ""
    return section("The map", None, picture(report.map, "items by their first two principal axes", more.strip()))


def _accuracy(report: EmbeddingReport) -> Element:
    dims = sorted({dim for row in report.accuracy.values() for dim in row})
    cells: list[Sequence[Child]] = [["loss", *(f"{dim}-d" for dim in dims), "dimension by the rule"]]
    for name, row in report.accuracy.items():
        shown: list[Child] = []
        for dim in dims:
            mean, error = row[dim]
            words = f"{number(mean)} ± {number(error)}"
            shown.append(node("b", words) if (name, dim) == (report.method, report.dim) else words)
        cells.append([name, *shown, str(report.chosen[name])])
    return section(
        "Held-out answers by loss and dimension",
        "Mean share of held-out answers that are kept, with its standard error over folds.",
        node("div", _curves(report, dims), class_="figures"),
        node("div", plain_table(cells)),
    )


def _curves(report: EmbeddingReport, dims: Sequence[int]) -> Element:
    ends = [mean + sign * error for row in report.accuracy.values() for mean, error in row.values() for sign in (-1, 1)]
    low, high = min(0.5, *ends), max(*ends, 0.51)
    frame = Frame((min(dims) - 0.25, max(dims) + 0.25), (low, high + 0.02), width=520, height=320)
    shapes = frame.axes("dimensions", "held-out answers kept")
    keys = []
    for place, (name, row) in enumerate(report.accuracy.items()):
        style = f"s{place % _STYLES + 1}"
        points = np.array([[dim, row[dim][0]] for dim in dims], dtype=np.float64)
        shapes.append(node("path", node("title", name), d=frame.path(points), class_=f"curve {style}"))
        line = node("svg", node("path", d="M0 6L24 6", class_=f"curve {style}"), width=24, height=12)
        keys.append(node("li", line, name))
    return node("figure", node("ul", *keys, class_="legend"), frame.picture("Held-out answers by dimension", *shapes))


def _disputed(report: EmbeddingReport) -> Element:
    cells: list[Sequence[Child]] = [["item", "answers", "not kept"]]
    cells += [[name, count(asked), f"{100 * share:.0f} %"] for name, asked, share in report.disputed]
    return section(
        "Least agreed on",
        "Items with the largest share of answers that the map does not keep, of those asked about as often as most.",
        plain_table(cells),
    )
