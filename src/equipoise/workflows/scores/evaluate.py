"""Judge a file of scores: every curve with intervals, and the thresholds for a wanted rate."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
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
from equipoise.workflows.output import check_output, staged_folder
from equipoise.workflows.scores.judging import (
    DEFAULT_MAX_FPR,
    DEFAULT_MIN_TPR,
    curve_metrics,
    judged,
    plain,
    provenance,
    threshold_table,
)
from equipoise.workflows.scores.sketched import certified, drawn, intervals
from equipoise.workflows.scores.sketched import thresholds as sketched_thresholds
from equipoise.workflows.scores.streaming import STREAM_ROWS, Part, find_parts, stream_scores

_STREAMED = (
    "Streamed: {files} file(s) with {groups} row groups were counted into a sketch of at most 1 MiB for each column. "
    "Estimates are of all rows and lie within certified bounds; intervals say how far another sample might have moved "
    "them, and are widened by those bounds. Thresholds keep the wanted rates on these rows for certain; what would be "
    "guaranteed on new rows is not computed from a sketch."
)


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
    stream: bool = False,
    workers: int | None = None,
    ray: bool = False,
    command: str = "",
) -> Evaluation:
    """Judge one or several columns of scores by a column of true labels, and write `metrics.json` and `report.html`.

    Args:
        path: CSV, TSV or Parquet file, a folder of Parquet files, or a pattern such as `scores/*.parquet`.
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
        stream: read Parquet by row groups and give certified bounds rather than exact values; done without asking for
            several files and for a file of more than five million rows.
        workers: threads of a stream; one for each core if absent.
        ray: stream on a Ray cluster.
        command: what the user typed, for the report.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    output = Path(output)
    request = _Request(
        path=path,
        target=target,
        score=tuple(dict.fromkeys(score)),
        positive=positive,
        max_fpr=max_fpr,
        min_tpr=min_tpr,
        wanted_fpr=wanted_fpr,
        wanted_tpr=wanted_tpr,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    with mendable():
        check_output(output, overwrite=overwrite)
        request.check()
        parts = find_parts(path)
        if (stream or ray) and not parts:
            raise InputError(f"{path} cannot be streamed; name a Parquet file, a folder of such, or a pattern")
    if parts and (stream or ray or Path(path) != Path(parts[0].path) or sum(parts[0].rows) > STREAM_ROWS):
        judged_columns, bounds = _judge_stream(request, parts, workers, ray)
    else:
        judged_columns, bounds = _judge_table(request), {}
    report = EvaluationReport(
        title=f"{Path(path).name}: how well {', '.join(request.score)} rank{'s' if len(request.score) == 1 else ''}",
        data=DataSummary(
            source=str(path),
            rows=sum(judged_columns.classes.values()),
            features=None,
            target=target,
            classes=judged_columns.classes,
            positive=judged_columns.positive,
        ),
        metric=request.criterion.title,
        provenance=provenance(command, seed, time.perf_counter() - started),
        models=judged_columns.models,
        region=request.region,
        gains=judged_columns.gains,
        curves=judged_columns.curves,
        thresholds=judged_columns.thresholds,
        notes=(
            *judged_columns.notes,
            *([f"TPAUC is drawn at TPR ≥ {DEFAULT_MIN_TPR:g} where --min-tpr is not given."] * (min_tpr is None)),
        ),
        confidence=confidence,
    )
    with staged_folder(output, overwrite=overwrite) as stage:
        write_report(report, stage / "report.html")
        summary = {
            "metric": report.metric,
            "rows": report.data.rows,
            "positive": report.data.positive,
            "models": {m.name: plain(dict(m.metrics)) for m in report.models},
            "gains": plain(dict(report.gains)),
            "thresholds": plain([dataclasses.asdict(t) for t in report.thresholds]),
            "command": command,
            "versions": dict(report.provenance.versions),
        }
        if bounds:
            summary["certified"] = {
                name: {metric: plain(dataclasses.asdict(found)) for metric, found in of_column.items()}
                for name, of_column in bounds.items()
            }
        (stage / "metrics.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return Evaluation(report, output, bounds)


@dataclass(frozen=True)
class _Request:
    """What is to be judged, and how."""

    path: str | Path
    target: str
    score: tuple[str, ...]
    positive: str | None
    max_fpr: float | None
    min_tpr: float | None
    wanted_fpr: Sequence[float] | None
    wanted_tpr: Sequence[float] | None
    confidence: float
    resamples: int
    seed: int

    @property
    def region(self) -> Region:
        return Region(DEFAULT_MAX_FPR if self.max_fpr is None else self.max_fpr, self.min_tpr)

    @property
    def criterion(self) -> Criterion:
        """What the report leads with."""
        name = "opauc" if self.min_tpr is None else "tpauc"
        return Criterion(name, self.region.max_fpr, self.min_tpr)

    def check(self) -> None:
        if self.max_fpr is not None:
            check_fraction("max_fpr", self.max_fpr)
        if self.min_tpr is not None:
            check_fraction("min_tpr", self.min_tpr, zero=True, one=False)
        check_fraction("confidence", self.confidence, one=False)
        if self.resamples < 1:
            raise InputError(f"resamples={self.resamples} must be at least 1")
        for rate in [*(self.wanted_fpr or ()), *(self.wanted_tpr or ())]:
            check_fraction("wanted rate", rate)


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


def _judge_table(request: _Request) -> _Judged:
    """Everything in memory: exact values, and differences between columns on the same rows."""
    with mendable():
        from equipoise.data import read_table, table_task

        frame = read_table(request.path)
        task = table_task(frame, target=request.target, positive=request.positive)
        if len(task.classes) != 2:
            raise InputError(
                f"column {request.target!r} has {len(task.classes)} classes; evaluate judges two, so make a column "
                "that is 1 for the class of interest"
            )
        truth = torch.from_numpy(task.target)
        columns = {name: _scores(frame, name) for name in request.score}
    max_fpr, min_tpr = request.max_fpr, request.min_tpr
    models, gains, curves, tables = [], {}, [], []
    main, first = request.criterion.title, request.score[0]
    for name, scores in columns.items():
        found = judged(
            scores,
            truth,
            max_fpr=max_fpr,
            min_tpr=min_tpr,
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
                resamples=request.resamples,
                confidence=request.confidence,
                seed=request.seed,
            )[main]
        curves.append(Curves.from_scores(name, scores, truth, max_fpr=request.region.max_fpr, min_tpr=min_tpr))
        tables.append(
            threshold_table(
                name,
                scores,
                truth,
                wanted_fpr=request.wanted_fpr,
                wanted_tpr=request.wanted_tpr,
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
    )


def _judge_stream(
    request: _Request, parts: Sequence[Part], workers: int | None, ray: bool
) -> tuple[_Judged, dict[str, dict[str, Bounds]]]:
    """Row groups counted into sketches: certified bounds, and no differences, since rows are forgotten."""
    max_fpr, min_tpr = request.max_fpr, request.min_tpr
    counted = stream_scores(
        parts, target=request.target, score=request.score, positive=request.positive, workers=workers, ray=ray
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
        curves.append(drawn(name, sketch, request.region.max_fpr or 1.0, min_tpr))
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
