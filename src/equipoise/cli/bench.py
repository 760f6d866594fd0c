"""`equipoise bench`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App
from rich.table import Table

from equipoise.cli.terminal import FIELDS, console, errors, one_thread, print_path
from equipoise.workflows.bench.bridges_request import BridgesRequest
from equipoise.workflows.bench.request import STANDARD, BenchRequest, Budget

bench = App(name="bench", help="Compare objectives on many data sets, or detectors on planted behaviours.")
_DEFAULTS = BenchRequest()
_BRIDGES = BridgesRequest()


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


@bench.command
def bridges(*, request: Annotated[BridgesRequest, FIELDS] = _BRIDGES, json: bool = False) -> None:
    """Plant behaviours in restoration models of drawn shapes, and try detectors and repairs on them.

    Everything is made of pictures that this program draws; no other pictures and no other model can be given.

    Parameters
    ----------
    json: bool
        Print the tables as JSON.
    """
    import json as as_json

    from equipoise.workflows.bench.bridges_benchmark import NO_INTERVALS, bench_bridges, shown

    one_thread()
    with errors.status("drawing") as status:
        outcome = bench_bridges(request, progress=status.update)
    if json:
        console.out(as_json.dumps(outcome.tables), highlight=False)
        return
    for title, rows in outcome.tables.items():
        table = Table(*rows[0], title=title, box=None, header_style="bold")
        for row in rows:
            table.add_row(*map(shown, row.values()))
        console.print(table)
    console.print(NO_INTERVALS, highlight=False)
    print_path("tables", outcome.folder / "tables.md")
    print_path("results", outcome.folder / "results.json")
