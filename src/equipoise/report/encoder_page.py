"""The page of `tune-encoder`: what an encoder tells apart and sees, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import numpy as np

from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import UNKNOWN, number
from equipoise.report.sections import hero_section, page_header, section, warnings_section

_STYLE = ".figures { display: flex; flex-wrap: wrap; gap: 24px; } .curve { fill: none; stroke: var(--s1); }"
_SMALL = 0.02
"""Changes within this are called none: one run has one seed."""


@dataclass(frozen=True)
class EncoderReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts under the title.
        before: measure → value of the encoder as it was; probes of details begin with "probe: ".
        after: the same of the tuned one.
        majority: probe → share of the commonest value.
        align: losses of the rounds of the first stage.
        enhance: losses of the rounds of the second stage.
        loss: of the second stage.
        conflicts: share of measured steps in which a contrast of embeddings and reconstruction conflict.
        notes: what a reader must know of this run.
        asides: how to read the numbers.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    before: Mapping[str, float]
    after: Mapping[str, float]
    majority: Mapping[str, float]
    align: Sequence[float]
    enhance: Sequence[float]
    loss: str
    conflicts: float
    notes: Sequence[str]
    asides: Sequence[str]
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def encoder_page(report: EncoderReport) -> str:
    """The page's text; the same report always gives the same text."""
    sections = [
        hero_section("On held-out pictures", "Before and after", verdict(report), _clear(report), _tiles(report)),
        warnings_section("To know of this run", report.notes),
        _measures(report),
        _training(report),
        details_section(report.asides, report.provenance),
    ]
    header = page_header("tune-encoder", report.title, report.facts)
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def verdict(report: EncoderReport) -> str:
    """What became of detail and of classes, in a sentence."""
    detail, classes = _changes(report)
    parts = [_words("detail", detail, "seen"), _words("classes", classes, "told apart")]
    return "; ".join(filter(None, parts)).capitalize() + "."


def _words(what: str, changes: Sequence[float], verb: str) -> str:
    if not changes:
        return f"nothing is known of {what}"
    mean = sum(changes) / len(changes)
    is_are = "is" if what == "detail" else "are"
    if abs(mean) <= _SMALL:
        return f"{what} {is_are} {verb} about as well as before"
    return f"{what} {is_are} {verb} {'better' if mean > 0 else 'worse'} than before"


def _changes(report: EncoderReport) -> tuple[list[float], list[float]]:
    """Of details and of classes; of the measures of clusters, NMI alone counts."""
    change = {name: report.after[name] - value for name, value in report.before.items()}
    detail = [value for name, value in change.items() if name.startswith("probe: ")]
    classes = [change[name] for name in ("clusters: NMI", "zero-shot accuracy") if name in change]
    return detail, classes


def _clear(report: EncoderReport) -> bool:
    detail, classes = _changes(report)
    return bool(detail) and min(detail) > _SMALL and all(value >= -_SMALL for value in classes)


def _tiles(report: EncoderReport) -> list[tuple[str, str, str]]:
    wanted = [
        name for name in report.before if name.startswith("probe: ") or name in ("clusters: NMI", "zero-shot accuracy")
    ]
    return [(name, number(report.after[name]), f"{number(report.before[name])} before") for name in wanted[:6]]


def _measures(report: EncoderReport) -> Element:
    cells: list[Sequence[Child]] = [["measure", "before", "after", "change", "without looking"]]
    for name, value in report.before.items():
        after = report.after[name]
        blind = number(report.majority[name]) if name in report.majority else UNKNOWN
        cells.append([name, number(value), number(after), number(after - value, signed=True), blind])
    return section(
        "What it tells apart and what it sees",
        "Without looking: the share of the commonest value, which a guess is right of.",
        plain_table(cells),
    )


def _training(report: EncoderReport) -> Element:
    conflict = (
        f"A contrast of embeddings and reconstruction conflicted in {100 * report.conflicts:.0f} % of measured steps."
        if report.conflicts == report.conflicts
        else None
    )
    figures = [
        _curve(losses, words)
        for losses, words in ((report.align, "aligning, reconstruction"), (report.enhance, f"tuning, {report.loss}"))
        if len(losses) > 1
    ]
    return section("Losses", conflict, node("div", *figures, class_="figures"))


def _curve(losses: Sequence[float], words: str) -> Element:
    low, high = min(losses), max(losses)
    margin = 0.05 * (high - low) or 0.05
    frame = Frame((1, len(losses)), (low - margin, high + margin), width=420, height=260)
    points = np.array([[place + 1, value] for place, value in enumerate(losses)], dtype=np.float64)
    path = node("path", node("title", words), d=frame.path(points), class_="curve")
    return node("figure", frame.picture(f"Loss of {words}", *frame.axes("rounds", words), path))
