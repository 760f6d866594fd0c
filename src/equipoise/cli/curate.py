"""`equipoise curate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.curate.request import CurateRequest

_DEFAULTS = CurateRequest()


def curate(folder: Path, /, *, request: Annotated[CurateRequest, FIELDS] = _DEFAULTS) -> None:
    """Clean a folder of pictures by identity, and keep out who is in a reference; nothing is ever deleted.

    Parameters
    ----------
    folder: Path
        A folder that holds a folder of pictures for each identity.
    """
    from equipoise.report.curation_page import verdict
    from equipoise.workflows.curate.curating import curate_folder

    one_thread()
    with console.status("reading") as status:
        outcome = curate_folder(folder, request, command=command_line(), notice=print_notice, progress=status.update)
    report = outcome.report
    table = Table("left out", "pictures", box=None, header_style="dim", pad_edge=False)
    for name in report.verdicts:
        table.add_row(name, f"{report.left_out[name]:,}")
    if report.verdicts:
        console.print(table)
    console.print(verdict(report), highlight=False)
    for place, what in ((request.link, "links"), (request.copy, "copies")):
        if place is not None:
            print_path(what, place)
    print_path("every picture with its reason", outcome.folder / "pictures.csv")
    print_path("report", outcome.folder / "report.html")
