"""`equipoise rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.rank.request import RankRequest

_DEFAULTS = RankRequest()
_SHOWN = 10


def rank(comparisons: Path, /, *, request: Annotated[RankRequest, FIELDS] = _DEFAULTS) -> None:
    """Rank what a crowd has compared, for all and for each annotator, and name annotators to look at.

    Parameters
    ----------
    comparisons: Path
        A CSV, TSV or Parquet file with a row per answer: annotator, left, right, label, and perhaps a weight.
    """
    from equipoise.report.crowd_page import verdict
    from equipoise.report.numbers import number
    from equipoise.workflows.rank.ranking import rank_items

    one_thread()
    read: list[str] = []
    with console.status("reading") as status:
        outcome = rank_items(
            comparisons,
            request,
            command=command_line(),
            notice=print_notice,
            progress=status.update,
            understood=read.append,
        )
    report = outcome.report
    console.print(f"read: {'; '.join(read)}", highlight=False, soft_wrap=True)
    table = Table("rank", "item", "score", "error", "ranks", "group", box=None, header_style="dim", pad_edge=False)
    for item in [item for item in report.items if item.component == 1][:_SHOWN]:
        ranks = "–" if item.ranks is None else f"{item.ranks[0]}–{item.ranks[1]}"
        shown = (number(item.score.estimate), number(item.standard_error), ranks, str(item.group or "–"))
        table.add_row(str(item.rank), item.name, *shown)
    console.print(table)
    console.print(f"{report.method}: {verdict(report)}", highlight=False)
    console.print(f"no ranking explains {100 * report.inconsistency:.1f} % of the answers", highlight=False)
    looked = f"{len(report.suspects):,} of {report.annotators:,} annotators to look at"
    print_path(looked, outcome.folder / "annotators.csv")
    print_path("consensus", outcome.folder / "consensus.csv")
    print_path("own rankings", outcome.folder / "individual.csv")
    print_path("report", outcome.folder / "report.html")
