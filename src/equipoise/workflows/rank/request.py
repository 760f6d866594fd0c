"""What `rank` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class RankRequest(Request):
    """Options of `rank_items`.

    Attributes:
        method: The consensus that is written first: bradley-terry, thurstone, hodge or elo.
        annotator: The column of who answered; found by its usual names, or all answers are of one, if absent.
        left: The column of one item; found by its usual names if absent.
        right: The column of the other; likewise.
        label: The column of answers, 1, -1 and 0, the winner's name, or words; likewise.
        weight: The column of how often an answer was given; likewise, or each once.
        zero: Where labels are only 0 and 1, what 0 stands for: tie or right.
        ridge: Price of scores of bradley-terry and thurstone; above 0 items that never lost have a score.
        resamples: Draws of the bootstrap.
        confidence: Of the intervals.
        metric: What chooses the time of the path on held-out answers: likelihood, micro or macro.
        folds: Parts of the answers that are held out in turn.
        num_times: How often the path is recorded.
        time_ratio: The last recorded time over the first.
        min_comparisons: Who made fewer answers has no ranking of their own.
        checkpoints: A folder in which an interrupted run finds its paths, and a longer path its beginning.
        escape_formulas: Put a quote before names that a spreadsheet would run as a formula.
        seed: Of the folds and the bootstrap.
        output: The folder to write: consensus.csv, individual.csv, annotators.csv, path.csv, path.png, metrics.json,
            report.html, model.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    method: str = "bradley-terry"
    annotator: str | None = None
    left: str | None = None
    right: str | None = None
    label: str | None = None
    weight: str | None = None
    zero: str | None = None
    ridge: float = 0.1
    resamples: int = 200
    confidence: float = 0.95
    metric: str = "likelihood"
    folds: int = 5
    num_times: int = 30
    time_ratio: float = 20.0
    min_comparisons: int = 7
    checkpoints: Path | None = None
    escape_formulas: bool = False
    seed: int = 0
    output: Path = Path("equipoise-rank")
    overwrite: bool = False
