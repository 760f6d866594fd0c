"""Judge a file of scores: every curve with intervals, and the thresholds for a wanted rate."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from equipoise.core.intervals import bootstrap_differences
from equipoise.core.validate import check_fraction
from equipoise.data import read_table, table_task
from equipoise.ranking.criteria import Criterion
from equipoise.report import Curves, DataSummary, EvaluationReport, ModelMetrics, Region, write_report
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.judging import (
    DEFAULT_MAX_FPR,
    DEFAULT_MIN_TPR,
    curve_metrics,
    judged,
    plain,
    provenance,
    threshold_table,
)
from equipoise.workflows.output import check_output, staged_folder


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_scores` found and where it was written."""

    report: EvaluationReport
    folder: Path


def evaluate_scores(
    path: str | Path,
    *,
    target: str,
    score: Sequence[str],
    positive: str | None = None,
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    wanted_fpr: Sequence[float] | None = None,
    wanted_tpr: Sequence[float] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    output: str | Path,
    overwrite: bool = False,
    command: str = "",
) -> Evaluation:
    """Judge one or several columns of scores by a column of true labels, and write `metrics.json` and `report.html`.

    Args:
        path: CSV, TSV or Parquet file.
        target: column of true labels, of two values.
        score: columns of scores, higher meaning more positive.
        positive: the label that counts as positive; by default 1 or True, else the rarer one.
        max_fpr: false-positive budget of OPAUC and TPAUC; 0.05 if absent.
        min_tpr: least true-positive rate of TPAUC; 0.5 if absent.
        wanted_fpr: false-positive rates to find thresholds for.
        wanted_tpr: true-positive rates to find thresholds for.
        confidence: of intervals and guaranteed thresholds.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        output: folder to write.
        overwrite: replace the folder.
        command: what the user typed, for the report.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    output = Path(output)
    with mendable():
        check_output(output, overwrite=overwrite)
        if max_fpr is not None:
            check_fraction("max_fpr", max_fpr)
        if min_tpr is not None:
            check_fraction("min_tpr", min_tpr, zero=True, one=False)
        check_fraction("confidence", confidence, one=False)
        if resamples < 1:
            raise InputError(f"resamples={resamples} must be at least 1")
        frame = read_table(path)
        task = table_task(frame, target=target, positive=positive)
        if len(task.classes) != 2:
            raise InputError(
                f"column {target!r} has {len(task.classes)} classes; evaluate judges two, so make a column that is 1 "
                "for the class of interest"
            )
        truth = torch.from_numpy(task.target)
        columns = {name: _scores(frame, name) for name in dict.fromkeys(score)}
        for rate in [*(wanted_fpr or ()), *(wanted_tpr or ())]:
            check_fraction("wanted rate", rate)

    region = Region(DEFAULT_MAX_FPR if max_fpr is None else max_fpr, min_tpr)
    models, gains, curves, tables = [], {}, [], []
    main = Criterion("opauc", region.max_fpr) if min_tpr is None else Criterion("tpauc", region.max_fpr, min_tpr)
    first = next(iter(columns))
    for name, scores in columns.items():
        found = judged(
            scores,
            truth,
            max_fpr=max_fpr,
            min_tpr=min_tpr,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
        models.append(ModelMetrics(name, found))
        if name != first:
            metric = {main.title: curve_metrics(max_fpr, min_tpr)[main.title]}
            gains[name] = bootstrap_differences(
                scores, columns[first], truth, metric, resamples=resamples, confidence=confidence, seed=seed
            )[main.title]
        curves.append(Curves.from_scores(name, scores, truth, max_fpr=region.max_fpr, min_tpr=min_tpr))
        tables.append(
            threshold_table(
                name,
                scores,
                truth,
                wanted_fpr=wanted_fpr,
                wanted_tpr=wanted_tpr,
                confidence=confidence,
                sample="all rows of the file",
            )
        )
    report = EvaluationReport(
        title=f"{Path(path).name}: how well {', '.join(columns)} rank{'s' if len(columns) == 1 else ''}",
        data=DataSummary(
            source=str(path),
            rows=len(truth),
            features=None,
            target=target,
            classes={str(label): int((task.target == k).sum()) for k, label in enumerate(task.classes)},
            positive=str(task.classes[1]),
        ),
        metric=main.title,
        provenance=provenance(command, seed, time.perf_counter() - started),
        models=tuple(models),
        region=region,
        gains=gains,
        curves=tuple(curves),
        thresholds=tuple(tables),
        notes=(f"TPAUC is drawn at TPR ≥ {DEFAULT_MIN_TPR:g} where --min-tpr is not given.",)
        if min_tpr is None
        else (),
        confidence=confidence,
    )
    with staged_folder(output, overwrite=overwrite) as stage:
        write_report(report, stage / "report.html")
        summary = {
            "metric": report.metric,
            "rows": len(truth),
            "positive": report.data.positive,
            "models": {m.name: plain(dict(m.metrics)) for m in models},
            "gains": plain(gains),
            "thresholds": plain([dataclasses.asdict(t) for t in tables]),
            "command": command,
            "versions": dict(report.provenance.versions),
        }
        (stage / "metrics.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return Evaluation(report, output)


def _scores(frame: object, name: str) -> torch.Tensor:
    if name not in frame.columns:  # type: ignore[attr-defined]
        raise InputError(f"there is no column {name!r}; the file has {', '.join(map(str, frame.columns))}")  # type: ignore[attr-defined]
    try:
        values = np.asarray(frame[name], dtype=np.float64)  # type: ignore[index]
    except (TypeError, ValueError) as error:
        raise InputError(f"column {name!r} holds values that are no numbers; give a column of scores") from error
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(f"column {name!r} holds {bad} missing or infinite scores; drop those rows first")
    return torch.from_numpy(values)
