"""`equipoise bench`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App
from rich.table import Table

from equipoise.cli.terminal import FIELDS, console, one_thread, print_path
from equipoise.workflows.bench.request import STANDARD, BenchRequest, Budget

bench = App(name="bench", help="Compare objectives on many data sets.")
_DEFAULTS = BenchRequest()


@bench.command
def tabular(*, request: Annotated[BenchRequest, FIELDS] = _DEFAULTS, held_out: float = STANDARD.held_out) -> None:
    """Train every objective on many real tables under one budget, and compare them by ranks.

    A run that was stopped goes on where it was.

    Parameters
    ----------
    held_out: float
        The share of the training part by which networks and boosters stop early; with 0 they train on all of it to the
        end.
    """
    from equipoise.workflows.bench.tabular_benchmark import bench_tabular

    one_thread()
    with console.status("loading") as status:
        outcome = bench_tabular(request, budget=Budget(held_out=held_out), progress=status.update)
    for metric, comparison in outcome.comparisons.items():
        table = Table("method", "average rank", "mean", title=metric, box=None, header_style="bold")
        for name, rank, mean in zip(comparison.methods, comparison.average_rank, comparison.mean, strict=True):
            table.add_row(name, f"{rank:.2f}", f"{mean:.4f}")
        console.print(table)
    print_path("summary", outcome.folder / "summary.html")
