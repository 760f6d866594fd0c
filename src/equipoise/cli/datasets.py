"""`equipoise datasets`."""

from __future__ import annotations

from rich.table import Table

from equipoise.cli.terminal import console


def datasets() -> None:
    """List the real data sets that ship inside installed packages."""
    from equipoise.data import list_datasets

    table = Table("name", "rows", "features", "classes", "rarest class", "source", box=None, header_style="bold")
    for info in list_datasets():
        table.add_row(
            info.name, str(info.rows), str(info.features), str(info.classes), f"{info.rarest_share:.2%}", info.source
        )
    console.print(table)
