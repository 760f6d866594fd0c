"""`equipoise recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.recommend.request import RecommendRequest

_DEFAULTS = RecommendRequest()


def recommend(interactions: Path, /, *, request: Annotated[RecommendRequest, FIELDS] = _DEFAULTS) -> None:
    """Compare recommenders on a log of who took what, and write lists for every user.

    Parameters
    ----------
    interactions: Path
        A CSV, TSV or Parquet file with a row per interaction, or RecBole's .inter file.
    """
    from equipoise.report.recommendation_page import verdict
    from equipoise.workflows.recommend.recommending import recommend_items

    one_thread()
    with console.status("reading") as status:
        outcome = recommend_items(
            interactions, request, command=command_line(), notice=print_notice, progress=status.update
        )
    report = outcome.report
    names = dict.fromkeys([report.metric, f"recall@{request.k}", "auc"])
    table = Table("model", *names, "coverage", "validation", box=None, header_style="dim", pad_edge=False)
    for one in report.judged:
        values = (f"{one.means[name].estimate:.4f}" for name in names)
        table.add_row(one.name, *values, f"{one.shown['coverage']:.3f}", f"{one.validation:.4f}")
    console.print(table)
    console.print(f"chosen: {outcome.chosen}. {verdict(report)}", highlight=False)
    print_path("lists", outcome.folder / "recommendations.csv")
    print_path("report", outcome.folder / "report.html")
