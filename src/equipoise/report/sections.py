"""Parts that pages of several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from equipoise.report.markup import Child, node


def page_header(command: str, title: str, facts: Sequence[str]) -> Element:
    """The head of a page: the command, the title, and short facts."""
    return node(
        "header",
        node("p", f"equipoise {command}", class_="overline"),
        node("h1", title),
        node("p", *(node("span", fact) for fact in facts), class_="facts"),
    )


def hero_section(
    overline: str, title: str, verdict: str, clear: bool, tiles: Sequence[tuple[str, str, str]]
) -> Element:
    """What was found, in a sentence, with a few numbers: (words, number, what stands behind it)."""
    shown = (
        node("div", node("dt", words), node("dd", node("b", value), node("span", more)), class_="tile")
        for words, value, more in tiles
    )
    return node(
        "section",
        node("p", overline, class_="overline"),
        node("h2", title),
        node("p", verdict, class_=f"judgement {'clear' if clear else 'close'}"),
        node("dl", *shown, class_="tiles"),
        class_="hero",
    )


def warnings_section(title: str, notes: Sequence[str]) -> Element | None:
    """What a reader must know; None where there is nothing."""
    if not notes:
        return None
    return node("section", node("h2", title), node("ul", *(node("li", words) for words in notes)), class_="warnings")


def section(title: str, lead: str | None, *blocks: Child) -> Element:
    """A part of a page with its first words."""
    return node("section", node("h2", title), node("p", lead, class_="lead") if lead else None, *blocks)
