"""Judge a file of scores: every curve with intervals, and the thresholds for a wanted rate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from equipoise.core.curves.intervals import Interval, bootstrap_differences
from equipoise.core.curves.sketch import Bounds
from equipoise.core.validate import check_fraction
from equipoise.ranking.criteria import Criterion
from equipoise.report import (
    Curves,
    DataSummary,
    EvaluationReport,
    ModelMetrics,
    Region,
    ThresholdTable,
    write_report,
)
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import (
    DEFAULT_MAX_FPR,
    DEFAULT_MIN_TPR,
    check_bootstrap,
    curve_metrics,
    doubts,
    judged,
    provenance,
    score_column,
    threshold_table,
    write_summary,
)
from equipoise.workflows.scores.requests import EvaluateRequest
from equipoise.workflows.scores.sketched import certified, drawn, intervals
from equipoise.workflows.scores.sketched import thresholds as sketched_thresholds
from equipoise.workflows.scores.streaming import STREAM_ROWS, Part, find_parts, stream_scores

_STREAMED = (
    "Streamed: {files} file(s) with {groups} row groups were counted into a sketch of at most 1 MiB for each column. "
    "Estimates are of all rows and lie within certified bounds; intervals say how far another sample might have moved "
    "them, and are widened by those bounds. Thresholds keep the wanted rates on these rows for certain; what would be "
    "guaranteed on new rows is not computed from a sketch."
)


_DEFAULT_TPR = f"TPAUC is drawn at TPR ≥ {DEFAULT_MIN_TPR:g} where --min-tpr is not given."


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_scores` found and where it was written.

    Attributes:
        report: what `report.html` shows.
        folder: where it is.
        certified: of a stream, score column → metric → bounds that hold the exact value; else empty.
    """

    report: EvaluationReport
    folder: Path
    certified: Mapping[str, Mapping[str, Bounds]] = field(default_factory=dict)


def evaluate_scores(path: str | Path, request: EvaluateRequest, *, command: str = "") -> Evaluation:
    """Judge one or several columns of scores by a column of true labels, and write `metrics.json` and `report.html`.

    Args:
        path: CSV, TSV or Parquet file, a folder of Parquet files, or a pattern such as `scores/*.parquet`.
        request: columns, region, wanted rates, intervals and output folder.
        command: what the user typed, for the report.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    request = dataclasses.replace(request, score=tuple(dict.fromkeys(request.score)))
    stream = request.stream or request.ray
    with staged_folder(request.output, overwrite=request.overwrite, inputs=(path,)) as stage:
        with mendable():
            _check(request)
            parts = find_parts(path)
            if stream and not parts:
                raise InputError(f"{path} cannot be streamed; name a Parquet file, a folder of such, or a pattern")
            stream = bool(parts) and (stream or Path(path) != Path(parts[0].path) or sum(parts[0].rows) > STREAM_ROWS)
            if stream and request.group:
                raise InputError("--group needs all rows in memory, and this file is streamed; give fewer rows")
        if stream:
            judged_columns, bounds = _judge_stream(request, parts)
        else:
            judged_columns, bounds = _judge_table(path, request), {}
        report = EvaluationReport(
            title=f"{Path(path).name}: how well {', '.join(request.score)} rank{'s' * (len(request.score) == 1)}",
            data=DataSummary(
                source=str(path),
                rows=sum(judged_columns.classes.values()),
                features=None,
                target=request.target,
                classes=judged_columns.classes,
                positive=judged_columns.positive,
            ),
            metric=_criterion(request).title,
            provenance=provenance(command, request.seed, time.perf_counter() - started),
            models=judged_columns.models,
            region=_region(request),
            gains=judged_columns.gains,
            curves=judged_columns.curves,
            thresholds=judged_columns.thresholds,
            warnings=judged_columns.warnings,
            notes=judged_columns.notes if request.min_tpr is not None else (*judged_columns.notes, _DEFAULT_TPR),
            confidence=request.confidence,
        )
        write_report(report, stage / "report.html")
        summary = {
            "metric": report.metric,
            "rows": report.data.rows,
            "positive": report.data.positive,
            "models": {m.name: m.metrics for m in report.models},
            "gains": report.gains,
            "thresholds": report.thresholds,
            "command": command,
            "versions": report.provenance.versions,
            **({"certified": bounds} if bounds else {}),
        }
        write_summary(stage, summary)
    return Evaluation(report, Path(request.output), bounds)


def _check(request: EvaluateRequest) -> None:
    if request.max_fpr is not None:
        check_fraction("max_fpr", request.max_fpr)
    if request.min_tpr is not None:
        check_fraction("min_tpr", request.min_tpr, zero=True, one=False)
    check_bootstrap(request)
    for rate in [*(request.wanted_fpr or ()), *(request.wanted_tpr or ())]:
        check_fraction("wanted rate", rate)


def _region(request: EvaluateRequest) -> Region:
    return Region(DEFAULT_MAX_FPR if request.max_fpr is None else request.max_fpr, request.min_tpr)


def _criterion(request: EvaluateRequest) -> Criterion:
    """What the report leads with."""
    name = "opauc" if request.min_tpr is None else "tpauc"
    return Criterion(name, _region(request).max_fpr, request.min_tpr)


@dataclass(frozen=True)
class _Judged:
    """What was found, as a report shows it; `classes` is value → rows."""

    classes: dict[str, int]
    positive: str
    models: tuple[ModelMetrics, ...]
    curves: tuple[Curves, ...]
    thresholds: tuple[ThresholdTable, ...]
    gains: dict[str, Interval] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _judge_table(path: str | Path, request: EvaluateRequest) -> _Judged:
    """Everything in memory: exact values, and differences between columns on the same rows."""
    with mendable():
        from equipoise.data import read_table, table_task

        frame = read_table(path)
        task = table_task(frame, target=request.target, positive=request.positive, group=request.group)
        if len(task.classes) != 2:
            raise InputError(
                f"column {request.target!r} has {len(task.classes)} classes; evaluate judges two, so make a column "
                "that is 1 for the class of interest"
            )
        truth = torch.from_numpy(task.target)
        groups = None if task.groups is None else torch.from_numpy(task.groups)
        columns = {name: score_column(frame, name) for name in request.score}
    max_fpr, min_tpr = request.max_fpr, request.min_tpr
    models, gains, curves, tables = [], {}, [], []
    main, first = _criterion(request).title, request.score[0]
    for name, scores in columns.items():
        found = judged(
            scores,
            truth,
            max_fpr=max_fpr,
            min_tpr=min_tpr,
            groups=groups,
            confidence=request.confidence,
            resamples=request.resamples,
            seed=request.seed,
        )
        models.append(ModelMetrics(name, found))
        if name != first:
            metric = {main: curve_metrics(max_fpr, min_tpr)[main]}
            gains[name] = bootstrap_differences(
                scores,
                columns[first],
                truth,
                metric,
                groups=groups,
                resamples=request.resamples,
                confidence=request.confidence,
                seed=request.seed,
            )[main]
        curves.append(Curves.from_scores(name, scores, truth, max_fpr=_region(request).max_fpr, min_tpr=min_tpr))
        tables.append(
            threshold_table(
                name,
                scores,
                truth,
                wanted_fpr=request.wanted_fpr,
                wanted_tpr=request.wanted_tpr,
                groups=groups,
                confidence=request.confidence,
                sample="all rows of the file",
            )
        )
    return _Judged(
        classes={str(label): int((task.target == k).sum()) for k, label in enumerate(task.classes)},
        positive=str(task.classes[1]),
        models=tuple(models),
        curves=tuple(curves),
        thresholds=tuple(tables),
        gains=gains,
        notes=task.notes,
        warnings=tuple(words for name, scores in columns.items() for words in doubts(name, scores, truth)),
    )


def _judge_stream(request: EvaluateRequest, parts: Sequence[Part]) -> tuple[_Judged, dict[str, dict[str, Bounds]]]:
    """Row groups counted into sketches: certified bounds, and no differences, since rows are forgotten."""
    max_fpr, min_tpr = request.max_fpr, request.min_tpr
    counted = stream_scores(
        parts,
        target=request.target,
        score=request.score,
        positive=request.positive,
        workers=request.workers,
        ray=request.ray,
    )
    bounds = {name: certified(sketch, max_fpr, min_tpr) for name, sketch in counted.sketches.items()}
    models, curves, tables, notes = [], [], [], [_STREAMED.format(files=counted.files, groups=counted.groups)]
    for name, sketch in counted.sketches.items():
        found = intervals(
            sketch,
            bounds[name],
            max_fpr=max_fpr,
            min_tpr=min_tpr,
            confidence=request.confidence,
            resamples=request.resamples,
            seed=request.seed,
        )
        models.append(ModelMetrics(name, found))
        curves.append(drawn(name, sketch, _region(request).max_fpr or 1.0, min_tpr))
        tables.append(
            sketched_thresholds(
                name,
                sketch,
                wanted_fpr=request.wanted_fpr,
                wanted_tpr=request.wanted_tpr,
                confidence=request.confidence,
            )
        )
        said = ", ".join(f"{metric} from {b.lower:.7f} to {b.upper:.7f}" for metric, b in bounds[name].items())
        notes.append(f"For certain, on all rows, {name} has {said}.")
    if len(models) > 1:
        notes.append("Differences between columns have no interval: a sketch forgets which row a score came from.")
    return _Judged(
        classes={str(label): rows for label, rows in counted.labels.items()},
        positive=str(counted.positive),
        models=tuple(models),
        curves=tuple(curves),
        thresholds=tuple(tables),
        notes=tuple(notes),
    ), bounds
