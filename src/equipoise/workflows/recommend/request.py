"""What `recommend` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class RecommendRequest(Request):
    """Options of `recommend_items`.

    Attributes:
        items: A file with a row per item: titles for the output, and categories, separated by | or by spaces.
        user: The column of users; found by its usual names if absent.
        item: The column of items; likewise.
        rating: The column of ratings; likewise.
        time_column: The column of times; likewise.
        title: The column of titles in the file of items; likewise.
        category: The column of categories in the file of items; likewise.
        min_rating: Leave out interactions with a lower rating.
        models: What to compare: popular, cml (one vector per user), dpcml (several), sfcml (without sampling).
        metric: What decides: ndcg, recall, precision, hit_rate, map, mrr at k, or auc.
        k: The length of the lists.
        split: How to hold items out: random (per user), leave_one_out (the last, or a random one without times), time
            (at one moment for all).
        min_count: Users with fewer items are not judged, but served.
        epochs: At most so many epochs; each model's own number if absent.
        learning_rate: The learning rate; each model's own if absent.
        dim: The dimension of the vectors; each model's own if absent.
        checkpoints: A folder in which an interrupted run finds what it had done.
        seed: Of the split and the models.
        output: The folder to write: recommendations.csv, metrics.json, report.html, model.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    items: Path | None = None
    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time_column: str | None = None
    title: str | None = None
    category: str | None = None
    min_rating: float | None = None
    models: Sequence[str] = ("popular", "cml", "dpcml", "sfcml")
    metric: str = "ndcg"
    k: int = 20
    split: str = "random"
    min_count: int = 5
    epochs: int | None = None
    learning_rate: float | None = None
    dim: int | None = None
    checkpoints: Path | None = None
    seed: int = 0
    output: Path = Path("equipoise-recommend")
    overwrite: bool = False
