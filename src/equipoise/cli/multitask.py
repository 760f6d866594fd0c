"""`equipoise multitask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.multitask.request import MultitaskRequest


def multitask(table: Path, /, *, request: Annotated[MultitaskRequest, FIELDS]) -> None:
    """Learn the tasks of a table alone and together, and say what togetherness is worth.

    Parameters
    ----------
    table: Path
        A CSV, TSV or Parquet file with a row per sample, one column of which names its task.
    """
    from equipoise.report.numbers import number, with_interval
    from equipoise.report.tasks_page import verdict
    from equipoise.workflows.multitask.fitting import fit_tasks

    one_thread()
    with console.status("reading") as status:
        outcome = fit_tasks(table, request, command=command_line(), notice=print_notice, progress=status.update)
    report = outcome.report
    shown = Table("method", report.metric, "worst task", "validation", box=None, header_style="dim", pad_edge=False)
    for one in report.judged:
        shown.add_row(one.name, with_interval(one.value), number(one.worst), number(one.validation))
    console.print(shown)
    console.print(f"chosen: {outcome.report.chosen}. {verdict(report)}", highlight=False)
    print_path("tasks", outcome.folder / "tasks.csv")
    print_path("weights", outcome.folder / "weights.csv")
    print_path("report", outcome.folder / "report.html")
