"""`equipoise complete`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, print_notice, print_path
from equipoise.workflows.complete.request import CompleteRequest

_DEFAULTS = CompleteRequest()


def complete(triples: Path, /, *, request: Annotated[CompleteRequest, FIELDS] = _DEFAULTS) -> None:
    """Compare models on a knowledge graph, and write triples that it does not hold.

    Parameters
    ----------
    triples: Path
        A CSV or TSV file of heads, relations and tails, a folder with train, valid and test, a folder of OpenKE, or
        RecBole's .kg file.
    """
    from equipoise.report.knowledge_page import title, verdict
    from equipoise.report.numbers import number
    from equipoise.workflows.complete.completing import complete_graph

    with console.status("reading") as status:
        outcome = complete_graph(triples, request, command=command_line(), notice=print_notice, progress=status.update)
    report = outcome.report
    names = dict.fromkeys([report.metric, "mrr", "hits@1", "hits@10"])
    table = Table(
        "model", *map(title, names), "tails", "heads", "validation", box=None, header_style="dim", pad_edge=False
    )
    for one in report.judged:
        values = (number(one.means[name].estimate, digits=4) for name in names)
        sides = (number(value, digits=4) for value in (one.tail, one.head, one.validation))
        table.add_row(one.name, *values, *sides)
    console.print(table)
    console.print(f"chosen: {outcome.chosen}. {verdict(report)}", highlight=False)
    print_path(f"{outcome.novel:,} novel triples", outcome.folder / "novel_triples.csv")
    print_path("relations", outcome.folder / "relations.csv")
    print_path("report", outcome.folder / "report.html")
