"""`equipoise methods`."""

from __future__ import annotations

from rich.table import Table

from equipoise.cli.terminal import console


def methods() -> None:
    """List the papers: what works, where it lives, what is planned."""
    from equipoise.catalog import load_catalog

    table = Table("paper", "what you have", "room", "status", box=None, header_style="bold")
    for paper in sorted(load_catalog(), key=lambda p: not p.working):
        table.add_row(paper.slug, paper.problem, paper.room, paper.status)
    console.print(table)
