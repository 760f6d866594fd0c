"""Comparisons of methods over data sets as one HTML file that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import Element

from equipoise.report.markup import node, render
from equipoise.report.ranks import RankComparison, rank_rows, rank_sentence


def rank_page(
    title: str,
    facts: Sequence[str],
    comparisons: Mapping[str, RankComparison],
    pictures: Mapping[str, Path],
    costs: Sequence[Sequence[str]],
) -> str:
    """The page's text.

    Args:
        title: of the page.
        facts: paragraphs on how the numbers were made.
        comparisons: metric → comparison.
        pictures: metric → an SVG file with its critical-difference diagram, which the page takes in.
        costs: a table, header first, of what the methods cost.
    """
    style = files("equipoise.report").joinpath("style.css").read_text(encoding="utf-8")
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("title", title),
        # The diagrams are drawn black on white.
        node("style", style + "img { background: #fff; max-width: 100%; margin-top: 14px; border-radius: 6px; }"),
    )
    sections = [
        node(
            "section",
            node("h2", metric),
            node("p", rank_sentence(comparison), class_="lead"),
            _table(rank_rows(comparison)),
            node("img", src=_inline(pictures[metric]), alt=f"critical-difference diagram of {metric}"),
        )
        for metric, comparison in comparisons.items()
    ]
    main = node(
        "main",
        node("section", *(node("p", fact, class_="lead") for fact in facts)),
        *sections,
        node("section", node("h2", "Runs"), _table(costs)),
    )
    page = node("html", head, node("body", node("h1", title), main), lang="en")
    return "<!doctype html>\n" + render(page) + "\n"


def _table(cells: Sequence[Sequence[str]]) -> Element:
    header, *rows = cells
    return node(
        "table",
        node("thead", node("tr", *(node("th", text, scope="col") for text in header))),
        node("tbody", *(node("tr", *(node("td", text) for text in row)) for row in rows)),
    )


def _inline(picture: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
