"""The open-world report as one HTML file, and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import estimate, interval, with_interval
from equipoise.report.open_figures import STYLE

if TYPE_CHECKING:
    from rich.console import Group

# Group of measures → its title and what it answers.
GROUPS = {
    "closed_set": ("Which one is it?", "Known samples among the known classes."),
    "multilabel": ("Which labels does it have?", "Known samples, labels ranked by their scores."),
    "novelty": ("Is it known?", "The open score alone, blind to classes."),
    "open_set": ("Both at once", "OpenAUC needs the class right and the sample ranked as known."),
    "open_world": ("Both, and new classes have names", "OpenworldAUC needs three answers right."),
}


@dataclass(frozen=True)
class OpenReport:
    """What an open-world report shows.

    Attributes:
        title: of the page.
        facts: short facts about the file, under the title.
        lead: the names of the measures to show first, of `measures`.
        measures: name with its group, such as "open_set/open_auc" → value; a value without an interval has NaN ends.
        plane: the decision plane, drawn; None where a sample may have several labels.
        pictures: the other figures, drawn.
        notes: sentences on how the numbers were made.
        provenance: of the run.
        confidence: of the intervals.
    """

    title: str
    facts: Sequence[str]
    lead: Sequence[str]
    measures: Mapping[str, Interval]
    plane: Element | None
    pictures: Sequence[Element]
    notes: Sequence[str]
    provenance: Provenance
    confidence: float

    def group(self, name: str) -> dict[str, Interval]:
        """The measures of a group, without its name."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.measures.items() if key.startswith(prefix)}


def open_page(report: OpenReport) -> str:
    """The page's text; the same report always gives the same text."""
    tiles = [
        node(
            "div",
            node("dt", name.split("/")[1]),
            node("dd", node("b", estimate(report.measures[name])), node("span", interval(report.measures[name]))),
            class_="tile",
        )
        for name in report.lead
    ]
    sections: list[Element] = [node("section", node("dl", *tiles, class_="tiles"), class_="hero")]
    if report.plane is not None:
        sections.append(node("section", node("div", report.plane, class_="figures whole")))
    figures = node("div", *report.pictures, class_="figures wide")
    sections.append(node("section", node("h2", "Curves"), figures))
    for name, (title, words) in GROUPS.items():
        found = report.group(name)
        if found:
            rows: list[Sequence[Child]] = [("", "value", f"{100 * report.confidence:.3g} % interval")]
            rows += [(key, node("b", estimate(value)), interval(value)) for key, value in found.items()]
            sections.append(node("section", node("h2", title), node("p", words, class_="lead"), plain_table(rows)))
    sections.append(details_section(report.notes, report.provenance))
    header = node(
        "header",
        node("p", "equipoise evaluate --open", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    return document(report.title, header, node("main", *sections), extra_style=STYLE)


def open_tables(report: OpenReport) -> Group:
    """The measures as rich tables, a group each, with the leading ones last, where the eye is."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Table | Text] = []
    for name, (title, _) in GROUPS.items():
        found = report.group(name)
        if not found:
            continue
        table = Table(
            title=Text(title, style="bold"), title_justify="left", box=None, show_header=False, pad_edge=False
        )
        table.add_column(justify="left", overflow="fold")
        table.add_column(justify="right")
        for key, value in found.items():
            table.add_row(Text(key), Text(with_interval(value)))
        parts += [table, Text()]
    said = ", ".join(f"{name.split('/')[1]} {with_interval(report.measures[name])}" for name in report.lead)
    parts.append(Text(said, style="bold"))
    return Group(*parts)
