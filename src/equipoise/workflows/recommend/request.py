"""What `recommend` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.interaction_log import LogRequest


@dataclass(frozen=True, kw_only=True)
class RecommendRequest(LogRequest):
    """Options of `recommend_items`.

    Attributes:
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
