"""The page of `fuse`: which way to train learners of several blocks is best, and what each block is worth alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.knowledge_figures import model_strip
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import estimate, interval, number, with_interval
from equipoise.report.sections import hero_section, page_header, section, warnings_section

_STYLE = """
.best { stroke: var(--s2); fill: var(--s2); } .strips circle { stroke: none; }
.strips .one { stroke: var(--s1); fill: var(--s1); } .strips line { stroke-width: 2.4; }
.strips .grid { stroke-width: 1; } .models { overflow-x: auto; } .models td { white-space: nowrap; }
"""
_NOTES = (
    "Every method has as many epochs for each learner, the same first weights, and its best rate, stage and epoch on "
    "the rows to choose by; it was judged once on the rows to judge by.",
    "A block alone is what its learner predicts where the others are missing. Those of a joint model were never "
    "trained to predict alone.",
    "Intervals of 95 % are over rows, Wilson's of accuracies and Student's of differences; they say nothing of another "
    "split or of other first weights.",
)
_WORDS = {
    "reconboost": "in turns",
    "joint": "one loss for all",
    "modulated": "one loss, the fastest slowed down",
    "independent": "each alone, then added",
}


@dataclass(frozen=True)
class JudgedFusion:
    """A way to train.

    Attributes:
        name: of it.
        value: accuracy of the sum.
        behind: how much more often the chosen one is right, paired over rows; None for that one.
        alone: accuracy of each block's learner alone, in the order of the blocks.
        validation: accuracy of the sum on the rows to choose by.
        learning_rate: that was best there.
    """

    name: str
    value: Interval
    behind: Interval | None
    alone: Sequence[Interval]
    validation: float
    learning_rate: float


@dataclass(frozen=True)
class FusionReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the file, under the title.
        blocks: names of the blocks.
        chosen: the way to train that won on the rows to choose by.
        judged: all of them.
        notes: what a reader must know of the data.
        level: of the intervals.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    blocks: Sequence[str]
    chosen: str
    judged: Sequence[JudgedFusion]
    notes: Sequence[str]
    level: float
    provenance: Provenance = field(default_factory=lambda: Provenance(""))

    @property
    def best(self) -> JudgedFusion:
        """The chosen one."""
        return next(one for one in self.judged if one.name == self.chosen)


def fusion_verdict(report: FusionReport) -> str:
    """How the chosen one stands beside the others, in a sentence."""
    others = [one for one in report.judged if one.behind is not None]
    if not others:
        return "Nothing was compared with it."
    clear = [one.name for one in others if one.behind is not None and one.behind.low > 0]
    if len(clear) == len(others):
        return "More often right than all others."
    if clear:
        return f"More often right than {' and '.join(clear)}; the others are not told apart from it."
    return "Not told apart from the others on these rows."


def fusion_page(report: FusionReport) -> str:
    """The page's text; the same report always gives the same text."""
    best = report.best
    tiles = [("accuracy of all blocks", estimate(best.value), interval(best.value))]
    tiles += [
        (f"{name} alone", estimate(value), interval(value))
        for name, value in zip(report.blocks, best.alone, strict=True)
    ]
    clear = any(one.behind is not None and one.behind.low > 0 for one in report.judged)
    sections = [
        hero_section("Chosen on the rows to choose by", report.chosen, fusion_verdict(report), clear, tiles),
        warnings_section("To know of this file", report.notes),
        _methods(report),
        details_section(_NOTES, report.provenance),
    ]
    header = page_header("fuse", report.title, report.facts)
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def _methods(report: FusionReport) -> Element:
    head = ["method", "learners are trained", "accuracy", "behind", *(f"{name} alone" for name in report.blocks)]
    cells: list[Sequence[Child]] = [[*head, "to choose by", "rate"]]
    for one in report.judged:
        behind = "chosen" if one.behind is None else with_interval(one.behind)
        name = node("b", one.name) if one.behind is None else one.name
        alone = [with_interval(value) for value in one.alone]
        row: list[Child] = [name, _WORDS.get(one.name, ""), with_interval(one.value), behind, *alone]
        cells.append([*row, number(one.validation), f"{one.learning_rate:g}"])
    strip = [(one.name, one.value, one.behind is None) for one in report.judged]
    words = f"accuracy of all blocks, {100 * report.level:.3g} % interval"
    return section(
        "Ways to train, on held-out rows",
        f"Behind is how much more often {report.chosen} is right on the same rows.",
        node("div", node("figure", node("figcaption", words), model_strip(strip)), class_="figures"),
        node("div", plain_table(cells), class_="models"),
    )
