"""Reports for the tests, small and with every part filled."""

import torch

from equipoise.core.curves.intervals import Interval
from equipoise.report import (
    ContestRow,
    Curves,
    Cut,
    DataPart,
    DataSummary,
    EvaluationReport,
    FitReport,
    ModelMetrics,
    Provenance,
    Region,
    ThresholdRow,
    ThresholdTable,
)

METRIC = "OPAUC (FPR ≤ 0.05)"
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def scored(seed, n=400, shift=2.0):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(n, generator=generator) < 0.2).long()
    return torch.randn(n, generator=generator) + shift * target, target


def contest(count=3):
    rows = [
        ContestRow(
            "mlp · auc",
            (0.81, 0.83, 0.85),
            Interval(0.83, 0.8123, 0.8477),
            Interval(0.021, 0.0031, 0.0389),
            3.21,
            winner=True,
        )
    ]
    rows.append(
        ContestRow("mlp · cross_entropy", (0.79, 0.81, 0.83), Interval(0.809, 0.7811, 0.8369), None, 2.5, baseline=True)
    )
    for k in range(count - 2):
        rows.append(
            ContestRow(
                f"family {k} · objective",
                (0.7, 0.72, 0.74),
                Interval(0.72, 0.7, 0.74),
                Interval(-0.1, -0.13, -0.07),
                61.0,
            )
        )
    return tuple(rows[:count])


def data(**changes):
    parts = (DataPart("training", 1600, 312), DataPart("test", 400, 83))
    made = {
        "source": "patients.csv",
        "rows": 2000,
        "features": 17,
        "target": "sick",
        "classes": {"no": 1605, "yes": 395},
        "positive": "yes",
        "split": "stratified",
        "parts": parts,
    }
    return DataSummary(**(made | changes))


PROVENANCE = Provenance(
    "equipoise fit patients.csv --target sick", {"equipoise": "0.1.0", "torch": "2.9.1"}, 7, "1 May 2025", 64.0
)


def thresholds(name):
    rows = (
        ThresholdRow("fpr", 0.05, Cut(1.23456, 0.0513, 0.7211), Cut(-1.4321, 0.0394, 0.6909)),
        ThresholdRow("fpr", 0.001, Cut(3.5, 0.0, 0.1234), Cut(float("inf"), 0.0, 0.0, 2995)),
        ThresholdRow("tpr", 1.0, Cut(-2.75, 0.75, 1.0), Cut(float("-inf"), 1.0, 1.0, None)),
    )
    return ThresholdTable(name, rows, 0.95, 0.2, "320 held-out rows", "the test part")


def fit_report(**changes):
    names = ("mlp · auc", "mlp · cross_entropy")
    made = {
        "title": "Who is sick",
        "data": data(),
        "metric": METRIC,
        "provenance": PROVENANCE,
        "region": Region(0.05),
        "contest": contest(),
        "verdict": "mlp · auc won; plain log loss would not have done.",
        "validation": "3 stratified folds",
        "models": tuple(
            ModelMetrics(
                name, {METRIC: Interval(0.8444, 0.7888, 0.8999), "AUROC": Interval(0.93, 0.91, 0.95), "lift": None}
            )
            for name in names
        ),
        "curves": tuple(Curves.from_scores(name, *scored(k), max_fpr=0.05) for k, name in enumerate(names)),
        "thresholds": (thresholds(names[0]),),
        "warnings": ("Few positives.",),
        "notes": ("Rows with an empty target were dropped.",),
    }
    return FitReport(**(made | changes))


def evaluation_report(**changes):
    names = ("old", "new")
    made = {
        "title": "Old against new",
        "data": data(features=None, split="", parts=()),
        "metric": "AUROC",
        "provenance": PROVENANCE,
        "models": tuple(
            ModelMetrics(
                name,
                {"AUROC": Interval(value, value - 0.02, value + 0.02), "average precision": Interval(0.5, 0.4, 0.6)},
            )
            for name, value in zip(names, (0.91, 0.93), strict=True)
        ),
        "gains": {"new": Interval(0.02, 0.011, 0.029)},
        "curves": tuple(Curves.from_scores(name, *scored(k)) for k, name in enumerate(names)),
        "thresholds": tuple(thresholds(name) for name in names),
    }
    return EvaluationReport(**(made | changes))
