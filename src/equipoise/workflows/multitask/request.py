"""What `multitask` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class MultitaskRequest(Request):
    """Options of `fit_tasks`.

    Attributes:
        task: The column that names the task of each row: the school, the hospital, the user.
        target: The column to predict: a number, or two values.
        positive: Of two values the positive one; found as by fit if absent.
        methods: What to compare: alone, pooled, lasso, trace, tfcl, and multitask-auc for two values.
        blocks: Numbers of blocks that tfcl tries.
        test_size: The share of the rows of every task that is held out to judge by, and again to choose by.
        min_rows: Tasks with fewer rows are left out.
        escape_formulas: Put a quote before names that a spreadsheet would run as a formula.
        seed: Of the split and the intervals.
        output: The folder to write: tasks.csv, weights.csv, structure.png, metrics.json, report.html, model.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    task: str
    target: str
    positive: str | None = None
    methods: Sequence[str] = ("alone", "pooled", "lasso", "trace", "tfcl", "multitask-auc")
    blocks: Sequence[int] = (2, 4)
    test_size: float = 0.2
    min_rows: int = 10
    escape_formulas: bool = False
    seed: int = 0
    output: Path = Path("equipoise-multitask")
    overwrite: bool = False
