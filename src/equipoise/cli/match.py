"""`equipoise match`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Column, Table

from equipoise.cli.terminal import FIELDS, command_line, console, print_notice, print_path
from equipoise.workflows.match.request import MatchRequest

_DEFAULTS = MatchRequest()


def match(
    first: Path, second: Path, /, *, request: Annotated[MatchRequest, FIELDS] = _DEFAULTS, json: bool = False
) -> None:
    """Judge how well embeddings of two modalities match: faces and voices, photos and sketches, pictures and texts.

    Parameters
    ----------
    first: Path
        A CSV, TSV or Parquet file with a row per sample: a column of identities, and a column for each number of the
        embedding. Or .npz with the arrays 'embeddings' and that of identities.
    second: Path
        The same of the other modality, in the same space.
    json: bool
        Print the figures as JSON in place of a table.
    """
    from equipoise.report.match_page import match_verdict
    from equipoise.report.numbers import with_interval
    from equipoise.workflows.match.matching import match_embeddings

    with console.status("reading") as status:
        outcome = match_embeddings(
            first, second, request, command=command_line(), notice=print_notice, progress=status.update
        )
    if json:
        text = (outcome.folder / "metrics.json").read_text(encoding="utf-8")
        console.print(text, highlight=False, soft_wrap=True)
        return
    # What fits a terminal; the page has more.
    head = ("compared with", Column("direction", no_wrap=True), "1:2", "verification", "retrieval")
    table = Table(*head, box=None, header_style="dim", pad_edge=False)
    for row in outcome.report.rows:
        table.add_row(row.negatives, row.direction, *map(with_interval, (row.matching[2], row.auc, row.retrieval)))
    console.print(table)
    console.print(match_verdict(outcome.report), highlight=False)
    print_path("every N", outcome.folder / "matching.csv")
    print_path("report", outcome.folder / "report.html")
