"""`equipoise bubble`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, console, one_thread, print_notice, print_path
from equipoise.workflows.bubble.request import BubbleRequest

_DEFAULTS = BubbleRequest()


def bubble(interactions: Path, /, *, request: Annotated[BubbleRequest, FIELDS] = _DEFAULTS) -> None:
    """Measure on a log how far recommenders let users out of their bubble.

    Two copies of every user meet each recommender, one that broadens its behaviour and one that narrows it. The
    difference of what they are shown is what the user's own effort can change.

    Parameters
    ----------
    interactions: Path
        A CSV, TSV or Parquet file with a row per interaction, or RecBole's .inter file.
    """
    from equipoise.workflows.bubble.measure import measure_bubbles

    one_thread()
    with console.status("reading") as status:
        outcome = measure_bubbles(interactions, request, notice=print_notice, progress=status.update)
    console.print(f"{outcome.users} users, {outcome.items} items, {outcome.categories} categories", highlight=False)
    measured = "recommender", "random", "escape", "exploring", "passive", "NDCG", "recall", "coverage"
    table = Table(*measured, box=None, header_style="dim", pad_edge=False)
    for row in outcome.rows:
        values = (row.positive_diversity, row.negative_diversity, row.ndcg, row.recall, row.coverage)
        table.add_row(
            row.recommender,
            f"{row.eps:g}",
            _escape(row.bep, row.low, row.high),
            *("–" if math.isnan(value) else f"{value:.3f}" for value in values),
        )
    console.print(table)
    groups = Table("escape of the", *dict.fromkeys(group["group"] for group in outcome.groups), box=None)
    groups.header_style, groups.pad_edge = "dim", False
    for row in outcome.rows:
        mine = {
            group["group"]: _escape(group["bep"], group["low"], group["high"])
            for group in outcome.groups
            if (group["recommender"], group["random_share"]) == (row.recommender, row.eps)
        }
        groups.add_row(f"{row.recommender}, {row.eps:g} random", *mine.values())
    console.print(groups)
    print_path("tables", outcome.folder)


def _escape(value: float, low: float, high: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
