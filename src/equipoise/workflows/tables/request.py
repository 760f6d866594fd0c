"""What `fit` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class FitRequest(Request):
    """Options of `fit_table`.

    Attributes:
        target: The column to predict; known for embedded sets.
        positive: The value of the target that counts as positive; by default 1 or True, else the rarer one.
        metric: What to win on: auroc, opauc, tpauc, average_precision (ap), and for several classes ovo_auroc (mauc),
            ovr_auroc, balanced_accuracy, worst_class_accuracy, top_k_accuracy, autkc.
        max_fpr: The false-positive budget of opauc and tpauc, in (0, 1].
        min_tpr: The least true-positive rate of tpauc, in [0, 1).
        k: The length of the list of top_k_accuracy and autkc; by default 5, or one less than there are classes.
        models: Model families: mlp, linear, lightgbm, xgboost. By default mlp and lightgbm.
        objective: Train this objective (beside plain and weighted log loss) rather than choosing one by
            cross-validation.
        compare: The objectives to compare; by default those that aim at the metric.
        optimizer: Sharpness-aware optimizers of networks to compare beside AdamW, where the objective allows.
        group: A column whose rows must not be split between parts, such as a patient or a customer.
        time_column: A column to split by: the test part is the latest.
        folds: Folds of the cross-validation inside the training part.
        test_size: The share of rows kept for the test part.
        seed: Of splits and training.
        output: The folder to write: model/, metrics.json, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    target: str | None = None
    positive: str | None = None
    metric: str | None = None
    max_fpr: float | None = None
    min_tpr: float | None = None
    k: int | None = None
    models: Sequence[str] | None = None
    objective: str | None = None
    compare: Sequence[str] | None = None
    optimizer: Sequence[str] | None = None
    group: str | None = None
    time_column: str | None = None
    folds: int = 5
    test_size: float = 0.2
    seed: int = 0
    output: Path = Path("equipoise-fit")
    overwrite: bool = False
