"""`equipoise fit`."""

from __future__ import annotations

from typing import Annotated

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_path
from equipoise.workflows.tables.request import FitRequest

_DEFAULTS = FitRequest()


def fit(data: str, /, *, request: Annotated[FitRequest, FIELDS] = _DEFAULTS) -> None:
    """Train on a table, compare objectives honestly, and write a model and a report.

    Parameters
    ----------
    data: str
        A CSV, TSV or Parquet file, or the name of an embedded set (see `equipoise datasets`).
    """
    from equipoise.report import terminal_table
    from equipoise.workflows.tables.fit import fit_table

    one_thread()
    with console.status("reading") as status:
        outcome = fit_table(data, request, command=command_line(), progress=status.update)
    console.print(terminal_table(outcome.report))
    print_path("report", outcome.folder / "report.html")
