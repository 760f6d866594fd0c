"""Comparisons of methods over data sets as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from equipoise.report.markup import document, node, plain_table
from equipoise.report.pictures import inline
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
    sections = [
        node(
            "section",
            node("h2", metric),
            node("p", rank_sentence(comparison), class_="lead"),
            plain_table(rank_rows(comparison)),
            node("img", src=inline(pictures[metric]), alt=f"critical-difference diagram of {metric}"),
        )
        for metric, comparison in comparisons.items()
    ]
    main = node(
        "main",
        node("section", *(node("p", fact, class_="lead") for fact in facts)),
        *sections,
        node("section", node("h2", "Runs"), plain_table(costs)),
    )
    # The diagrams are drawn black on white.
    pictured = "img { background: #fff; max-width: 100%; margin-top: 14px; border-radius: 6px; }"
    return document(title, node("h1", title), main, extra_style=pictured)
