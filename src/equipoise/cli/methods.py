"""`equipoise methods`."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from rich.table import Table

from equipoise.cli.terminal import console
from equipoise.workflows.errors import InputError

if TYPE_CHECKING:
    from equipoise.catalog import Paper


def methods(*names: str) -> None:
    """List the papers: what works, where it lives, what is planned; of one that is named, all that is known.

    Parameters
    ----------
    names: tuple[str, ...]
        Papers, such as tpauc, or rooms, such as multimodal; all if absent.
    """
    from equipoise.catalog import load_catalog

    papers = load_catalog()
    chosen = [paper for paper in papers if not names or paper.slug in names or paper.room in names]
    known = {word for paper in papers for word in (paper.slug, paper.room)}
    for name in names:
        if name not in known:
            raise InputError(f"there is no paper and no room {name!r}; {_hint(name, known)}")
    if names and not set(names) & {paper.room for paper in papers}:
        for paper in chosen:
            console.print(_one(paper))
        return
    table = Table("paper", "what you have", "room", "status", box=None, header_style="bold")
    for paper in sorted(chosen, key=lambda p: not p.working):
        table.add_row(paper.slug, paper.problem, paper.room, paper.status)
    console.print(table)


def _one(paper: Paper) -> Table:
    table = Table(title=paper.slug, box=None, show_header=False, title_style="bold")
    rows = (
        ("you have", paper.problem),
        ("paper", f"{paper.title}, {paper.venue}"),
        ("read it", paper.link),
        ("authors' code", paper.code),
        ("status", paper.status),
        ("use", "\n".join(paper.provides)),
        ("reconstructed", "; ".join(paper.reconstructed)),
        ("check it", f"equipoise reproduce {paper.slug} --quick" if paper.working else ""),
    )
    for what, words in rows:
        if words:
            table.add_row(what, words)
    return table


def _hint(name: str, known: set[str]) -> str:
    close = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {close[0]!r}?" if close else "see `equipoise methods`"
