"""The catalogue as a Markdown table, and the place in the README that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equipoise.catalog.papers import ROOMS, Paper, load_catalog

START = "<!-- methods:start -->"
END = "<!-- methods:end -->"


def methods_table(papers: Sequence[Paper] | None = None) -> str:
    """The table of methods in Markdown, of all papers by default: those that work first, then planned ones, by room."""
    lines = ["| You have | Use | Paper |", "|---|---|---|"]
    papers = sorted(load_catalog() if papers is None else papers, key=lambda p: (not p.working, ROOMS.index(p.room)))
    for paper in papers:
        lines.append(f"| {paper.problem} | {_use(paper)} | {_reference(paper)} |")
    working = sum(p.working for p in papers)
    return "\n".join([f"{working} of {len(papers)} papers work now; the others are planned.", "", *lines])


def update_methods_table(path: Path, papers: Sequence[Paper] | None = None) -> bool:
    """Put the table of these papers (all by default) between the markers of a Markdown file.

    Returns:
        Whether the file changed.

    Raises:
        ValueError: if the file does not hold each marker once, in order.
    """
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in after:
        raise ValueError(f"{path} must hold {START} and then {END}, once each")
    updated = f"{before}{START}\n{methods_table(papers)}\n{END}{after}"
    if updated == text:
        return False
    path.write_text(updated, encoding="utf-8")
    return True


def _use(paper: Paper) -> str:
    if not paper.working:
        return f"planned, in `{paper.room}`"
    # Classes stand for their functional forms, unless there are only functions.
    names = [name for name in paper.provides if name.rpartition(".")[2][0].isupper()] or paper.provides
    groups: dict[str, list[str]] = {}
    for name in names:
        module, _, shown = name.rpartition(".")
        groups.setdefault(module, []).append(f"`{shown}`")
    return "; ".join(f"`{module}`: {', '.join(group)}" for module, group in groups.items())


def _reference(paper: Paper) -> str:
    slug = f"[`{paper.slug}`](docs/claims.md#{paper.slug})" if paper.working else f"`{paper.slug}`"
    title = f"[{paper.title}]({paper.link})" if paper.link else paper.title
    return f"{slug}: {title}, {paper.venue}"
