"""`equipoise spectrum`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, print_notice, print_path
from equipoise.workflows.spectrum.request import SpectrumRequest

_DEFAULTS = SpectrumRequest()


def spectrum(model: str, data: Path, /, *, request: Annotated[SpectrumRequest, FIELDS] = _DEFAULTS) -> None:
    """Measure how well conditioned a model is, and what gated blocks would change.

    Parameters
    ----------
    model: str
        Widths of a net, inputs-hidden-outputs such as 75-256-1; or a transformers model, by folder or by a name in the
        local cache. Nothing is downloaded.
    data: Path
        For a net a CSV, Parquet, .npy or .npz file with a row per sample; for a language model a text per line.
    """
    from equipoise.report.numbers import number
    from equipoise.report.spectrum_page import figure, verdict
    from equipoise.workflows.spectrum.measure import measure_spectrum

    with console.status("reading") as status:
        outcome = measure_spectrum(
            model, data, request, command=command_line(), notice=print_notice, progress=status.update
        )
    head = ("kernel", "λ min", "λ max", "condition", "without the mean", "rank", "share of the top")
    table = Table(*head, box=None, header_style="dim", pad_edge=False)
    for row in outcome.report.rows:
        values = (row.lambda_min, row.lambda_max, row.condition_number, row.centred)
        rank = f"{row.effective_rank} of {row.samples}"
        table.add_row(row.name, *map(figure, values), rank, number(row.top_share))
    console.print(table)
    console.print(verdict(outcome.report), highlight=False)
    print_path("eigenvalues", outcome.folder / "spectrum.csv")
    print_path("layers", outcome.folder / "layers.csv")
    print_path("report", outcome.folder / "report.html")
