"""The page of `debias`: how often every value was shown before and after, and what that did to the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from equipoise.report.details import details_section
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import number

_STYLE = """
.fair { overflow-x: auto; } .fair td { white-space: nowrap; } .fair th + th, .fair td + td { padding-left: 14px; }
.sheet img { image-rendering: pixelated; max-width: 100%; background: #fff; border-radius: 6px; }
"""
_NOTES = (
    "Which value a picture shows is decided by the CLIP model: the nearest of the prompts that name a value. It errs, "
    "before and after.",
    "Bias is the mean absolute difference between the shares of two values: 0 where all are shown as often.",
    "Similarity is the cosine between a picture and the prompt of the value that it shows, the mean over pictures; a "
    "gap is its mean difference between values. Blended pictures, which show no value well, are less similar.",
    "The change of pictures is the kernel distance between their CLIP features before and after; it is not one to "
    "real pictures.",
)


@dataclass(frozen=True)
class ConceptRow:
    """A concept; every pair is (before, after).

    Attributes:
        concept: that it is about.
        trained: whether the adapter was trained for it.
        shares: of the values.
        bias: of these shares.
        quality: mean similarity of pictures to the prompt of their value.
        gap: of that similarity between values; NaN where one value only was seen.
        moved: kernel distance between the pictures before and after.
    """

    concept: str
    trained: bool
    shares: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    quality: tuple[float, ...]
    gap: tuple[float, ...]
    moved: float


@dataclass(frozen=True)
class FairnessReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts, under the title.
        values: of the attributes.
        target: wanted shares of them.
        rows: concepts.
        sheet: pictures before and after, as the source of an image.
        notes: what a reader must know.
        pictures: of each concept that shares are of.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    values: Sequence[str]
    target: Sequence[float]
    rows: Sequence[ConceptRow]
    sheet: str
    notes: Sequence[str] = ()
    pictures: int = 0
    provenance: Provenance = field(default_factory=lambda: Provenance(""))

    def mean_bias(self, when: int) -> float:
        """Mean over the balanced concepts, before (0) or after (1)."""
        held = [row.bias[when] for row in self.rows if row.trained and math.isfinite(row.bias[when])]
        return sum(held) / len(held) if held else math.nan

    def off_target(self, when: int) -> float:
        """Mean absolute difference of shares to the wanted ones, over the balanced concepts."""
        held = [
            abs(share - wanted)
            for row in self.rows
            if row.trained
            for share, wanted in zip(row.shares[when], self.target, strict=True)
        ]
        return sum(held) / len(held)


def fairness_page(report: FairnessReport) -> str:
    """The page's text; the same report always gives the same text."""
    header = node(
        "header",
        node("p", "equipoise debias", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    sections = [_hero(report), _to_know(report), _shares(report), _pictures(report)]
    main = node("main", *sections, details_section([*_uncertain(report.pictures), *_NOTES], report.provenance))
    return document(report.title, header, main, extra_style=_STYLE)


def _uncertain(pictures: int) -> list[str]:
    if not pictures:
        return []
    points = 98 / math.sqrt(pictures)
    return [
        f"No figure has an interval. A share of {pictures:,} pictures near a half is uncertain by {points:.0f} points, "
        "with 95 % confidence; that another seed gives another adapter comes on top."
    ]


def fairness_verdict(report: FairnessReport) -> str:
    """What it came to, in a sentence."""
    before, after = report.off_target(0), report.off_target(1)
    turned = "closer to" if after < before else "no closer to"
    words = f"Shares are {turned} the wanted ones: {100 * before:.0f} points off before, {100 * after:.0f} after"
    change = _mean([row.quality[1] - row.quality[0] for row in report.rows if row.trained])
    return f"{words}; pictures are {number(abs(change))} {'less' if change < 0 else 'more'} similar to their prompts."


def _hero(report: FairnessReport) -> Element:
    better = report.off_target(1) < report.off_target(0)
    tiles = [
        ("mean bias before", number(report.mean_bias(0))),
        ("mean bias after", number(report.mean_bias(1))),
    ]
    return node(
        "section",
        node("p", "What neutral prompts show", class_="overline"),
        node("p", fairness_verdict(report), class_=f"judgement {'clear' if better else 'close'}"),
        node(
            "dl",
            *(node("div", node("dt", words), node("dd", node("b", value)), class_="tile") for words, value in tiles),
            class_="tiles",
        ),
        class_="hero",
    )


def _to_know(report: FairnessReport) -> Element | None:
    if not report.notes:
        return None
    return node(
        "section",
        node("h2", "To know of these numbers"),
        node("ul", *(node("li", words) for words in report.notes)),
        class_="warnings",
    )


def _shares(report: FairnessReport) -> Element:
    cells: list[Sequence[Child]] = [("concept", "", *report.values, "bias", "similarity", "gap", "change of pictures")]
    for row in report.rows:
        for when, words in enumerate(("before", "after")):
            name = row.concept if row.trained else f"{row.concept} (not trained)"
            shares = [f"{share:.0%}" for share in row.shares[when]]
            measures = (number(row.bias[when]), number(row.quality[when]), number(row.gap[when]))
            cells.append((name, words, *shares, *measures, number(row.moved) if when else ""))
    wanted = ", ".join(f"{value} {share:.0%}" for value, share in zip(report.values, report.target, strict=True))
    return node(
        "section",
        node("h2", "Shares of the values"),
        node("p", f"Wanted: {wanted}.", class_="lead"),
        node("div", plain_table(cells), class_="fair"),
    )


def _pictures(report: FairnessReport) -> Element:
    return node(
        "section",
        node("h2", "Pictures"),
        node("p", "The same noise stands above each other.", class_="lead"),
        node("div", node("img", src=report.sheet, alt="Pictures of every concept before and after"), class_="sheet"),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
