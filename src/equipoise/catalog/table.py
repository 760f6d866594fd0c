"""The catalogue as a Markdown table, and the place in the README that holds it."""

from __future__ import annotations

from pathlib import Path

from equipoise.catalog.papers import ROOMS, Paper, load_catalog

START = "<!-- methods:start -->"
END = "<!-- methods:end -->"


def methods_table() -> str:
    """The table of methods in Markdown: what works first, then what is planned, room by room."""
    lines = ["| You have | Use | Paper |", "|---|---|---|"]
    papers = sorted(load_catalog(), key=lambda p: (not p.working, ROOMS.index(p.room)))
    for paper in papers:
        lines.append(f"| {paper.problem} | {_use(paper)} | {_reference(paper)} |")
    working = sum(p.working for p in papers)
    return "\n".join([f"{working} of {len(papers)} papers work now; the others are planned.", "", *lines])


def update_methods_table(path: Path) -> bool:
    """Put the table between the markers of a Markdown file; returns whether the file changed.

    Raises:
        ValueError: if the file does not hold each marker once, in order.
    """
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in after:
        raise ValueError(f"{path} must hold {START} and then {END}, once each")
    updated = f"{before}{START}\n{methods_table()}\n{END}{after}"
    if updated == text:
        return False
    path.write_text(updated, encoding="utf-8")
    return True


def _use(paper: Paper) -> str:
    if not paper.working:
        return f"planned, in `{paper.room}`"
    # Classes stand for their functional forms, unless there are only functions.
    names = [name.rpartition(".")[2] for name in paper.provides]
    shown = [name for name in names if name[0].isupper()] or names
    return f"`equipoise.{paper.room}`: " + ", ".join(f"`{name}`" for name in shown)


def _reference(paper: Paper) -> str:
    slug = f"[`{paper.slug}`](docs/claims.md#{paper.slug})" if paper.working else f"`{paper.slug}`"
    title = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.title
    return f"{slug}: {title}, {paper.venue}"
