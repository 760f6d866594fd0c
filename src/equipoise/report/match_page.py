"""The page of `match`: how often the right one is nearest, in both directions and by group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import numpy as np

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, number, with_interval

_STYLE = """
.matches { overflow-x: auto; } .matches td { white-space: nowrap; }
.matches th + th, .matches td + td { padding-left: 14px; }
.line { width: 22px; height: 0; border-top: 3px solid; display: inline-block; }
.line.s1 { border-color: var(--s1); } .line.s2 { border-color: var(--s2); border-style: dashed; }
.line.s3 { border-color: var(--s3); border-style: dotted; }
"""
_STYLES = ("s1", "s2", "s3")
_CHANCE = "chance"
_NOTES = (
    "1:N matching is the accuracy over all lists of one right and N − 1 wrong candidates that could be drawn, not over "
    "a list that was; the right one must be the nearest by cosine.",
    "Verification is the area under the ROC curve over all pairs of a row of one file and one of the other; retrieval "
    "is the mean average precision over rows that have something to find.",
    "Intervals draw identities anew, with all their rows, on both sides. They say how far the figures would move with "
    "other identities, not with another training of the embeddings.",
    "A figure within groups is the harder one where the group alone tells many candidates apart: what is left of it "
    "does not come from recognising the group.",
)


@dataclass(frozen=True)
class MatchRow:
    """The figures of one direction.

    Attributes:
        negatives: which candidates a query is compared with.
        direction: from which file to which.
        queries: rows that have something to find.
        matching: N → accuracy.
        auc: verification area.
        retrieval: mean average precision.
        prevalence: share of positive pairs.
    """

    negatives: str
    direction: str
    queries: int
    matching: Mapping[int, Interval]
    auc: Interval
    retrieval: Interval
    prevalence: float


@dataclass(frozen=True)
class MatchReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts, under the title.
        rows: figures; the first of each direction is of any candidates.
        notes: what a reader must know.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    rows: Sequence[MatchRow]
    notes: Sequence[str]
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def match_page(report: MatchReport) -> str:
    """The page's text; the same report always gives the same text."""
    header = node(
        "header",
        node("p", "equipoise match", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    sections = [
        _hero(report),
        _to_know(report),
        _curves(report),
        _table(report),
        details_section(_NOTES, report.provenance),
    ]
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def match_verdict(report: MatchReport) -> str:
    """How surely the right one of two is found, in a sentence."""
    both = [row.matching[min(row.matching)] for row in _whole(report)]
    size = min(_whole(report)[0].matching)
    if any(not math.isfinite(value.low) for value in both):
        return f"Without intervals it is not said whether 1:{size} matching is better than chance."
    if all(value.low > 1 / size for value in both):
        return f"1:{size} matching is better than chance in both directions."
    if any(value.low > 1 / size for value in both):
        return f"1:{size} matching is better than chance in one direction only."
    return f"1:{size} matching is not shown to be better than chance."


def _whole(report: MatchReport) -> list[MatchRow]:
    return [row for row in report.rows if row.negatives == report.rows[0].negatives]


def _hero(report: MatchReport) -> Element:
    tiles = []
    for row in _whole(report):
        size = min(row.matching)
        tiles.append((f"1:{size} matching, {row.direction}", with_interval(row.matching[size])))
    words = match_verdict(report)
    return node(
        "section",
        node("p", "The right one of two", class_="overline"),
        node("p", words, class_=f"judgement {'clear' if 'both' in words else 'close'}"),
        node(
            "dl",
            *(node("div", node("dt", name), node("dd", node("b", value)), class_="tile") for name, value in tiles),
            class_="tiles",
        ),
        class_="hero",
    )


def _to_know(report: MatchReport) -> Element | None:
    if not report.notes:
        return None
    return node(
        "section",
        node("h2", "To know of these numbers"),
        node("ul", *(node("li", words) for words in report.notes)),
        class_="warnings",
    )


def _curves(report: MatchReport) -> Element:
    rows = _whole(report)
    sizes = list(rows[0].matching)
    series = {row.direction: [(float(n), row.matching[n].estimate) for n in sizes] for row in rows}
    series[_CHANCE] = [(float(n), 1 / n) for n in sizes]
    last = float(max(max(sizes), min(sizes) + 1))
    frame = Frame((float(min(sizes)), last), (0.0, 1.0), 520.0, 320.0, 62.0)
    shapes = frame.axes("candidates N", "1:N matching accuracy", [(k / 5, f"{k / 5:g}") for k in range(6)])
    for (name, points), style in zip(series.items(), _STYLES, strict=False):
        known = [(x, y) for x, y in points if math.isfinite(y)]
        if known:
            path = frame.path(np.array(known))
            shapes.append(node("path", node("title", name), d=path, class_=f"curve {style}"))
    legend = (
        node("li", node("span", "", class_=f"line {style}"), name) for name, style in zip(series, _STYLES, strict=False)
    )
    return node(
        "section",
        node("h2", "With more candidates"),
        node("ul", *legend, class_="legend"),
        node(
            "div", node("figure", frame.picture("Matching accuracy over candidates.", *shapes)), class_="figures wide"
        ),
    )


def _table(report: MatchReport) -> Element:
    shown = [n for n in report.rows[0].matching if n in (2, 5, 10)] or list(report.rows[0].matching)[:1]
    head = [
        "compared with",
        "direction",
        "queries",
        *(f"1:{n}" for n in shown),
        "verification",
        "retrieval",
        "its chance",
    ]
    cells: list[Sequence[Child]] = [head]
    for row in report.rows:
        matching = (with_interval(row.matching[n]) for n in shown)
        figures = (*matching, with_interval(row.auc), with_interval(row.retrieval), number(row.prevalence))
        cells.append((row.negatives, row.direction, count(row.queries), *figures))
    return node(
        "section",
        node("h2", "All figures"),
        node("p", "Every N is in matching.csv.", class_="lead"),
        node("div", plain_table(cells), class_="matches"),
    )
