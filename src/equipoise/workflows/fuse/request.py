"""What `fuse` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class FuseRequest(Request):
    """Options of `fuse_blocks`.

    Attributes:
        target: The column, or the array, of classes to predict.
        blocks: The modalities: of a table the starts of column names, audio for audio_1, audio_2; of an .npz file names
            of arrays, by default all but the target.
        methods: What to compare: reconboost, joint, modulated, independent.
        epochs: Epochs of each learner, the same for every method.
        hidden: Width of the two hidden layers of each learner.
        learning_rates: Rates that every method tries.
        batch_size: Samples of a step.
        test_size: The share of the rows of every class that is held out to judge by, and again to choose by.
        escape_formulas: Put a quote before names that a spreadsheet would run as a formula.
        seed: Of the split, first weights and batches.
        output: The folder to write: model, predictions.csv, metrics.json, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    target: str
    blocks: Sequence[str] = ()
    methods: Sequence[str] = ("reconboost", "joint", "modulated", "independent")
    epochs: int = 24
    hidden: int = 64
    learning_rates: Sequence[float] = (0.003, 0.01, 0.03)
    batch_size: int = 64
    test_size: float = 0.2
    escape_formulas: bool = False
    seed: int = 0
    output: Path = Path("equipoise-fuse")
    overwrite: bool = False
