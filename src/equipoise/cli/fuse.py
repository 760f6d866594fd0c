"""`equipoise fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.fuse.request import FuseRequest


def fuse(data: Path, /, *, request: Annotated[FuseRequest, FIELDS]) -> None:
    """Train a classifier on several blocks of features so that none stops the others, beside its baselines.

    Parameters
    ----------
    data: Path
        A CSV, TSV or Parquet file whose columns start with the name of their block, such as audio_1; or an .npz file
        with an array for each block and one of classes.
    """
    from equipoise.report.fusion_page import fusion_verdict
    from equipoise.report.numbers import number, with_interval
    from equipoise.workflows.fuse.fusing import fuse_blocks

    one_thread()
    with console.status("reading") as status:
        outcome = fuse_blocks(data, request, command=command_line(), notice=print_notice, progress=status.update)
    report = outcome.report
    alone = [f"{name} alone" for name in report.blocks]
    shown = Table("method", "accuracy", *alone, "validation", box=None, header_style="dim", pad_edge=False)
    for one in report.judged:
        row = [number(value.estimate) for value in one.alone]
        shown.add_row(one.name, with_interval(one.value), *row, number(one.validation))
    console.print(shown)
    console.print(f"chosen: {report.chosen}. {fusion_verdict(report)}", highlight=False)
    print_path("model", outcome.folder / "model")
    print_path("predictions", outcome.folder / "predictions.csv")
    print_path("report", outcome.folder / "report.html")
