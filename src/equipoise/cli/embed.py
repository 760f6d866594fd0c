"""`equipoise embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.embed.request import EmbedRequest

_DEFAULTS = EmbedRequest()


def embed(triplets: Path, /, *, request: Annotated[EmbedRequest, FIELDS] = _DEFAULTS) -> None:
    """Place items by answers of the form: this is nearer to that than to the other.

    Parameters
    ----------
    triplets: Path
        A CSV, TSV or Parquet file with the columns anchor, near and far, or an npz file with an array triplets.
    """
    from equipoise.report.embedding_page import verdict
    from equipoise.report.numbers import number
    from equipoise.workflows.embed.embedding import embed_triplets

    one_thread()
    with console.status("reading") as status:
        outcome = embed_triplets(triplets, request, command=command_line(), notice=print_notice, progress=status.update)
    report = outcome.report
    dims = sorted({trial.dim for trial in outcome.trials})
    table = Table("method", *(f"{dim}-d" for dim in dims), "dimension", box=None, header_style="dim", pad_edge=False)
    for name, row in report.accuracy.items():
        table.add_row(name, *(number(row[dim][0]) for dim in dims), str(report.chosen[name]))
    console.print(table)
    console.print(f"chosen: {report.method}, dimension {report.dim}. {verdict(report)}", highlight=False)
    console.print(f"{report.opposed:,} answers have an opposite", highlight=False)
    print_path("places", outcome.folder / "coordinates.csv")
    print_path("report", outcome.folder / "report.html")
