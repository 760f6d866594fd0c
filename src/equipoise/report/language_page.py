"""The page of `distill` and `adapt`: what training changed, where it was left short, and texts token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.etree.ElementTree import Element

import numpy as np

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import UNKNOWN, count, estimate, interval, number, share

_EDGES = (0.05, 0.2, 0.5, 1.0, 2.0)
_UNSURE = 0.5
_STYLE = (
    """
.text { line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.02rem; }
.text + .text { border-top: 1px solid var(--rule); margin-top: 14px; padding-top: 14px; }
.text i, .legend i { font-style: normal; border-radius: 3px; padding: 1px 0; }
.text .given { color: var(--faint); } .unsure, .garden { border-bottom: 2px dotted var(--s1); }
.bridge { border-bottom: 3px solid var(--s7); }
.legend i { padding: 1px 6px; }
"""
    + "".join(
        f".k{place} {{ background: color-mix(in srgb, var(--s2) {percent}%, transparent); }}\n"
        for place, percent in enumerate((0, 10, 22, 36, 52, 70))
    )
    + """
.costs td:first-child { white-space: pre-wrap; } .curve { fill: none; stroke: var(--s1); stroke-width: 1.6; }
circle.held { fill: var(--s2); }
"""
)


@dataclass(frozen=True)
class Measure:
    """One measure of a student on held-out texts.

    Attributes:
        name: in words.
        before: training.
        after: training.
        change: paired over texts.
        teacher: the teacher's own value; None where it has none.
        less: whether less is better; None where neither is.
    """

    name: str
    before: Interval
    after: Interval
    change: Interval
    teacher: float | None = None
    less: bool | None = True


@dataclass(frozen=True)
class TokenCost:
    """A next token, and what is left at its places.

    Attributes:
        token: as it is written.
        places: in the held-out texts.
        before: mean there before training.
        after: mean there.
        share: of all that is left.
    """

    token: str
    places: int
    before: float
    after: float
    share: float


@dataclass(frozen=True)
class ExampleToken:
    """A token of a text.

    Attributes:
        words: as it is written.
        value: nats that colour it; None for a token that is not learnt.
        expected: who → the tokens it found likeliest.
        sure: the teacher's largest probability; None without a teacher.
        mark: "bridge", "garden", "middle" or "tie" where risks were estimated, else empty.
    """

    words: str
    value: float | None
    expected: Mapping[str, str] = field(default_factory=dict)
    sure: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class LanguageReport:
    """What the page shows.

    Attributes:
        command: "distill" or "adapt".
        title: of the page.
        facts: about models and data, under the title.
        what: what `value` of the texts' tokens is.
        measures: the first one decides.
        losses: of training, (step, value).
        held: of the held-out texts after each epoch, (step, value).
        costs: next tokens at which most is left.
        examples: texts.
        notes: what a reader must know of this run.
        asides: how to read the numbers.
        level: of the intervals.
        provenance: of the run.
    """

    command: str
    title: str
    facts: Sequence[str]
    what: str
    measures: Sequence[Measure]
    losses: Sequence[tuple[float, float]]
    held: Sequence[tuple[float, float]]
    costs: Sequence[TokenCost]
    examples: Sequence[Sequence[ExampleToken]]
    notes: Sequence[str]
    asides: Sequence[str]
    level: float = 0.95
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def language_page(report: LanguageReport) -> str:
    """The page's text; the same report always gives the same text."""
    header = node(
        "header",
        node("p", f"equipoise {report.command}", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    sections = [_hero(report), _notes(report), _texts(report), _costs(report), _training(report)]
    return document(
        report.title,
        header,
        node("main", *sections, details_section(report.asides, report.provenance)),
        extra_style=_STYLE,
    )


def learning_verdict(report: LanguageReport) -> str:
    """What training came to, in a sentence."""
    first = report.measures[0]
    if first.change.high < 0:
        return f"{first.name} fell on held-out texts."
    if first.change.low > 0:
        return f"{first.name} rose on held-out texts: the training did harm."
    return f"{first.name} on held-out texts is not told apart from what it was before."


def _hero(report: LanguageReport) -> Element:
    first = report.measures[0]
    tiles = (("before", first.before), ("after", first.after), ("change", first.change))
    rows: list[Sequence[Child]] = [("on held-out texts", "before", "after", "change", "", "teacher")]
    for one in report.measures:
        theirs = UNKNOWN if one.teacher is None else number(one.teacher)
        change = estimate(one.change, signed=True)
        rows.append(
            (
                one.name,
                estimate(one.before),
                node("b", estimate(one.after)),
                change,
                interval(one.change, signed=True),
                theirs,
            )
        )
    good = first.change.high < 0
    return node(
        "section",
        node("h2", first.name),
        node("p", learning_verdict(report), class_=f"judgement {'clear' if good else 'close'}"),
        node(
            "dl",
            *(
                node(
                    "div",
                    node("dt", words),
                    node(
                        "dd",
                        node("b", estimate(value, signed=words == "change")),
                        node("span", interval(value, signed=words == "change")),
                    ),
                    class_="tile",
                )
                for words, value in tiles
            ),
            class_="tiles",
        ),
        plain_table(rows),
        class_="hero",
    )


def _notes(report: LanguageReport) -> Element | None:
    if not report.notes:
        return None
    return node(
        "section",
        node("h2", "To know of this run"),
        node("ul", *(node("li", words) for words in report.notes)),
        class_="warnings",
    )


def _texts(report: LanguageReport) -> Element | None:
    if not report.examples:
        return None
    tokens = [one for text in report.examples for one in text]
    unsure, marked = any(one.sure is not None for one in tokens), any(one.mark for one in tokens)
    labels = [f"{low:g} to {high:g}" for low, high in pairwise((0, *_EDGES))] + [f"above {_EDGES[-1]:g}"]
    legend: list[Element] = [node("li", node("i", words, class_=f"k{place}")) for place, words in enumerate(labels)]
    words = f"Colour is {report.what} of the token, in nats; point at a token to see what was expected in its place. "
    words += "Grey tokens are not learnt."
    if unsure:
        words += " Dots underline tokens where the teacher gives no token half of the mass: many words may do there."
    if marked:
        words += (
            " In the first text lines are bridges, where by rollouts of the teacher a wrong token costs most later, "
        )
        words += "and dots are gardens, where it costs least."
    return node(
        "section",
        node("h2", "Held-out texts, token by token"),
        node("p", words, class_="lead"),
        node("ul", *legend, class_="legend"),
        *(node("p", *map(_coloured, text), class_="text") for text in report.examples),
    )


def _coloured(token: ExampleToken) -> Element:
    if token.value is None:
        return node("i", token.words, class_="given")
    kind = f"k{int(np.searchsorted(_EDGES, token.value, side='right'))}"
    if token.mark in ("bridge", "garden"):
        kind += f" {token.mark}"
    elif not token.mark and token.sure is not None and token.sure < _UNSURE:
        kind += " unsure"
    told = "; ".join([f"{number(token.value)} nats", *(f"{who}: {what}" for who, what in token.expected.items())])
    return node("i", token.words, class_=kind, title=told)


def _costs(report: LanguageReport) -> Element | None:
    if not report.costs:
        return None
    cells: list[Sequence[Child]] = [("next token", "places", "before", "after", "share of what is left")]
    for one in report.costs:
        words = one.token if one.token.strip() else repr(one.token)
        cells.append(
            (
                node("code", words),
                count(one.places),
                number(one.before),
                node("b", number(one.after)),
                share(round(1e6 * one.share), 1_000_000),
            )
        )
    table = plain_table(cells)
    table.set("class", "costs")
    return node(
        "section",
        node("h2", "Where most is left"),
        node("p", f"Mean of {report.what} at the places of a token, and its part of the sum over all.", class_="lead"),
        table,
    )


def _training(report: LanguageReport) -> Element | None:
    if len(report.losses) < 2:
        return None
    steps, values = (np.array(each, dtype=float) for each in zip(*report.losses, strict=True))
    top = max(float(values.max()), *(value for _, value in report.held), 1e-9)
    frame = Frame((0.0, float(steps.max())), (0.0, 1.05 * top), width=640, height=300)
    shapes = frame.axes("step", "loss")
    shapes.append(node("path", d=frame.path(np.stack([steps, values], axis=1)), class_="curve"))
    for step, value in report.held:
        x, y = frame.at(step, value)
        shapes.append(
            node("circle", node("title", f"held out, step {step:g}: {number(value)}"), cx=x, cy=y, r=4.5, class_="held")
        )
    return node(
        "section",
        node("h2", "Training"),
        node(
            "figure",
            frame.picture("Loss of training by step", *shapes),
            node("figcaption", "Loss of training, means since the last point; dots are held-out texts after an epoch."),
        ),
    )
