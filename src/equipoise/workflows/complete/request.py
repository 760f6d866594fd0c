"""What `complete` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class CompleteRequest(Request):
    """Options of `complete_graph`.

    Attributes:
        models: What to compare: complex, cp, distmult, rescal, transe, rotate, murp, rote, refh, roth, atth, gie.
        metric: What decides: mrr, hits@1, hits@3, hits@10 or adjusted_mean_rank_index.
        k: Novel tails for each head and relation.
        relations: Novel triples of these relations, by name; of all if absent.
        heads: Novel triples of these heads, by name; for each relation those that have it if absent.
        head: The column of heads; found by its usual names, or the first of three, if absent.
        relation: The column of relations; likewise, or the second.
        tail: The column of tails; likewise, or the third.
        test_size: Where parts to choose and to judge by do not come with the file, the share of triples held out for
            each.
        epochs: At most so many epochs.
        learning_rate: The learning rate; each model's own if absent.
        dim: Numbers per entity.
        batch_size: Triples per step.
        regularizer: none, f2, n3, dura or er; each model's own if absent.
        weight: Of the regularizer.
        checkpoints: A folder in which an interrupted run finds what it had done.
        escape_formulas: Put a quote before names that a spreadsheet would run as a formula.
        seed: Of the split and the models.
        output: The folder to write: novel_triples.csv, relations.csv, metrics.json, report.html, model.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    models: Sequence[str] = ("complex", "gie")
    metric: str = "mrr"
    k: int = 10
    relations: Sequence[str] | None = None
    heads: Sequence[str] | None = None
    head: str | None = None
    relation: str | None = None
    tail: str | None = None
    test_size: float = 0.1
    epochs: int = 100
    learning_rate: float | None = None
    dim: int = 64
    batch_size: int = 1000
    regularizer: str | None = None
    weight: float | None = None
    checkpoints: Path | None = None
    escape_formulas: bool = False
    seed: int = 0
    output: Path = Path("equipoise-complete")
    overwrite: bool = False
