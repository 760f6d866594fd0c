"""The last section of a page: what to know of its numbers, and how to get them again."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from equipoise.report.markup import node
from equipoise.report.model import Provenance
from equipoise.report.numbers import duration


def details_section(notes: Sequence[str], made: Provenance) -> Element:
    """Notes, the command, and the date, duration and versions of the run, each if it is known."""
    facts = [made.date, *([] if made.seconds is None else [duration(made.seconds)])]
    facts.append(", ".join(f"{name} {version}" for name, version in made.versions.items()))
    return node(
        "section",
        node("h2", "Details"),
        node("ul", *(node("li", note) for note in notes)),
        node("h3", "To repeat this"),
        node("pre", node("code", made.command)),
        node("p", "; ".join(filter(None, facts)), class_="faint"),
    )
