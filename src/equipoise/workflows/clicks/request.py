"""What `clicks` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class ClicksRequest(Request):
    """Options of `fit_clicks`.

    Attributes:
        item: The column with the item shown.
        label: The column with 1 for a click and 0 for none.
        history: The column with the items clicked before, the oldest first, separated by spaces; may be empty.
        user: The column that tells people apart; they are not split between parts, and GAUC is within each.
        context: Columns of numbers that belong to the moment, such as the hour or the position.
        time_column: A column to split by: the test part is the latest, and people may be in several parts.
        method: Ways to train: joint, meta, bilevel. By default joint and meta.
        dim: The width of an item's vector.
        epochs: The most passes over the training part.
        patience: Passes without a lower validation log loss before stopping.
        batch_size: Rows of a step.
        lr: The learning rate.
        inner_lr: The length of the inner step of meta and bilevel.
        min_count: Items seen less often in the training part share one vector, as do new ones.
        max_history: The last items of a history that are used.
        test_size: The share of rows kept for the test part; the validation part is half as large.
        seed: Of splits and training.
        output: The folder to write: model/, metrics.json, predictions.csv.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    item: str = "item"
    label: str = "label"
    history: str = "history"
    user: str | None = None
    context: Sequence[str] | None = None
    time_column: str | None = None
    method: Sequence[str] | None = None
    dim: int = 16
    epochs: int = 20
    patience: int = 3
    batch_size: int = 256
    lr: float = 1e-3
    inner_lr: float = 0.5
    min_count: int = 2
    max_history: int = 50
    test_size: float = 0.2
    seed: int = 0
    output: Path = Path("equipoise-clicks")
    overwrite: bool = False
