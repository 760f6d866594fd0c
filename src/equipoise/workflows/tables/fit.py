"""Train on a table for the metric that matters, and say honestly whether it was worth it.

The rows are split once into a training and a test part. Candidates (model family × objective) are compared by
cross-validation inside the training part; the winner and the best plain log loss are refitted on all of it and judged
on the test part, which chose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from equipoise.core.registry import list_length
from equipoise.core.validate import check_choice
from equipoise.data import fold_splits, holdout_split, list_datasets, load_dataset, make_encoder, read_table, table_task
from equipoise.data.tables.leaks import find_leaks
from equipoise.estimators.families import FAMILIES, Family
from equipoise.ranking.criteria import Criterion
from equipoise.report import (
    ContestRow,
    Curves,
    DataPart,
    DataSummary,
    FitReport,
    ModelMetrics,
    Region,
    curves_per_class,
    write_report,
)
from equipoise.training.objectives import OBJECTIVES
from equipoise.training.optimizers import OPTIMIZERS
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import (
    doubts,
    judged,
    multiclass_judged,
    provenance,
    threshold_table,
    write_summary,
)
from equipoise.workflows.tables.candidates import (
    LOG_LOSS,
    Candidate,
    averages_samples,
    contenders,
    objectives_for,
)
from equipoise.workflows.tables.contest import Contest, decision_scores, run_contest
from equipoise.workflows.tables.model_folder import FittedModel
from equipoise.workflows.tables.request import FitRequest

_DEFAULT_MODELS = ("mlp", "lightgbm")
_CONFIDENCE = 0.95
_RESAMPLES = 1000
_MOST_CURVES = 12


@dataclass(frozen=True)
class FitOutcome:
    """What `fit_table` found and where it was written."""

    report: FitReport
    contest: Contest
    folder: Path


@dataclass(frozen=True)
class _Job:
    """A request that has been read and checked."""

    source: str
    request: FitRequest
    task: Any
    criterion: Criterion
    candidates: tuple[Candidate, ...]
    train: Any
    test: Any
    folds: Any
    split: str
    warnings: tuple[str, ...]


def fit_table(
    data: str | Path,
    request: FitRequest,
    *,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> FitOutcome:
    """Fit a model to a table and write `model/`, `metrics.json` and `report.html`.

    Args:
        data: CSV, TSV or Parquet file, or name of an embedded set.
        request: target, metric, candidates, split and output folder.
        command: what the user typed, for the report.
        progress: told in words what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    with staged_folder(request.output, overwrite=request.overwrite, inputs=(data,)) as stage:
        with mendable():
            job = _prepare(data, request)
        features, codes = job.task.features, job.task.target

        def encode(kind: str, fit_rows: Any, other_rows: Any) -> tuple[Any, Any]:
            encoder = make_encoder(kind)
            fitted = encoder.fit_transform(features.iloc[job.train[fit_rows]])
            return fitted, encoder.transform(features.iloc[job.train[other_rows]])

        contest = run_contest(
            job.candidates, job.folds, codes[job.train], encode, job.criterion, seed=request.seed, progress=progress
        )
        chosen = contest.winner.candidate
        if request.objective:
            chosen = next(e.candidate for e in contest.entries if e.candidate.objective == request.objective)
        fitted, scores = {}, {}
        for candidate in dict.fromkeys([chosen, contest.baseline]):
            progress(f"refitting {candidate.name} on the training part")
            fitted[candidate], scores[candidate] = _refit(job, candidate, probabilities=candidate == chosen)
        report = _report(job, contest, fitted[chosen], scores, command, started)
        progress("writing")
        fitted[chosen].save(stage / "model")
        write_report(report, stage / "report.html")
        write_summary(stage, _summary(contest, chosen, report))
    return FitOutcome(report, contest, Path(request.output))


def _prepare(data: str | Path, request: FitRequest) -> _Job:
    if request.folds < 2:
        raise InputError(f"folds={request.folds} must be at least 2")
    for name in request.models or ():
        check_choice("model", name, FAMILIES)
    families = [FAMILIES[name] for name in dict.fromkeys(request.models or _DEFAULT_MODELS)]
    asked = [*([request.objective] if request.objective else []), *(request.compare or ())]
    for name in asked:
        check_choice("objective", name, OBJECTIVES)
    for name in request.optimizer or ():
        check_choice("optimizer", name, OPTIMIZERS)
    if request.metric is not None:  # a wrong metric or bound is said before a large file is read
        Criterion(request.metric, request.max_fpr, request.min_tpr, request.k)
    frame, known_target, known_positive = _read(data)
    target = request.target or known_target
    if target is None:
        raise InputError(f"say which column to predict with --target; {data} has {', '.join(map(str, frame.columns))}")
    positive = known_positive if request.positive is None and target == known_target else request.positive
    task = table_task(frame, target=target, positive=positive, group=request.group, time=request.time_column)
    # A report and a model folder hold text, numbers and booleans: a date or a decimal is its text.
    task = replace(task, classes=tuple(c if isinstance(c, bool | int | float | str) else str(c) for c in task.classes))
    criterion = _criterion(request, len(task.classes), target)
    objectives = _objectives(request, criterion, families)
    if request.optimizer and not (
        any(family.network for family in families) and any(map(averages_samples, objectives))
    ):
        raise InputError(f"optimizer={request.optimizer!r} needs a network (--model mlp) and an objective per sample")
    for name in objectives:
        _check_objective(name, criterion, families, f"column {target!r} has {len(task.classes)}")
    train, test = holdout_split(task, request.test_size, request.seed)
    leaks = find_leaks(task, train, test)
    task = leaks.task
    split = "stratified"
    if request.group:
        split = f"by groups of {request.group}"
    elif request.time_column:
        split = f"by time ({request.time_column})"
    return _Job(
        source=str(data),
        request=request,
        task=task,
        criterion=criterion,
        candidates=tuple(contenders([family.name for family in families], objectives, request.optimizer or ())),
        train=train,
        test=test,
        folds=fold_splits(task.take(train), request.folds, request.seed),
        split=split,
        warnings=leaks.warnings,
    )


def _objectives(request: FitRequest, criterion: Criterion, families: Sequence[Family]) -> list[str]:
    """The objectives to compare: those asked for beside the log losses, else all that aim at it and can be trained."""
    if request.objective:
        names = [LOG_LOSS, "weighted_cross_entropy", *(request.compare or ()), request.objective]
    elif request.compare:
        names = [LOG_LOSS, *request.compare]
    else:
        names = [name for name in objectives_for(criterion) if any(family.trains(name) for family in families)]
    return list(dict.fromkeys(names))


def _check_objective(name: str, criterion: Criterion, families: Sequence[Family], classes: str) -> None:
    needed = OBJECTIVES[name]
    if not (needed.multiclass if criterion.multiclass else needed.binary):
        wanted = "two" if criterion.multiclass else "several"
        raise InputError(f"objective {name!r} is for {wanted} classes; {classes}")
    if needed.needs_max_fpr and criterion.max_fpr is None:
        raise InputError(f"objective {name!r} needs a false-positive budget: --metric opauc --max-fpr 0.05")
    if needed.needs_min_tpr and criterion.min_tpr is None:
        raise InputError(f"objective {name!r} needs a least true-positive rate: --metric tpauc --min-tpr 0.5")
    if not any(family.trains(name) for family in families):
        raise InputError(f"objective {name!r} is trained by networks only; add `--model mlp`")


def _read(data: str | Path) -> tuple[Any, str | None, str | None]:
    """The frame, and the target and positive value of an embedded set."""
    if not Path(data).exists() and str(data) in {info.name for info in list_datasets()}:
        embedded = load_dataset(str(data))
        return embedded.frame, embedded.target, embedded.info.positive
    return read_table(data), None, None


def _criterion(request: FitRequest, classes: int, target: str) -> Criterion:
    metric, max_fpr, min_tpr = request.metric, request.max_fpr, request.min_tpr
    if metric is None:
        if classes > 2:
            metric = "ovo_auroc"
        elif min_tpr is not None:
            metric = "tpauc"
        else:
            metric = "auroc" if max_fpr is None else "opauc"
    criterion = Criterion(metric, max_fpr, min_tpr, request.k)
    if criterion.multiclass and classes == 2:
        raise InputError(f"metric {metric!r} is for several classes and column {target!r} has 2; use auroc")
    if not criterion.multiclass and classes > 2:
        raise InputError(
            f"metric {metric!r} is for two classes and column {target!r} has {classes}; use ovo_auroc or ovr_auroc"
        )
    if criterion.kind.uses_k:
        if request.k is not None and request.k >= classes:
            raise InputError(f"k={request.k} must be less than the {classes} classes of column {target!r}")
        return Criterion(metric, k=list_length(request.k, classes))
    return criterion


def _refit(job: _Job, candidate: Candidate, *, probabilities: bool) -> tuple[FittedModel, torch.Tensor]:
    encoder = make_encoder(candidate.family.encoding)
    features, codes = job.task.features, job.task.target
    encoded = encoder.fit_transform(features.iloc[job.train])
    estimator = candidate.estimator(job.criterion, job.request.seed, probabilities=probabilities)
    estimator.fit(encoded, codes[job.train])
    model = FittedModel(
        candidate, encoder, estimator, job.task.target_name, tuple(job.task.classes), job.criterion.title
    )
    return model, decision_scores(estimator, encoder.transform(features.iloc[job.test]))


def _report(
    job: _Job,
    contest: Contest,
    model: FittedModel,
    scores: dict[Candidate, torch.Tensor],
    command: str,
    started: float,
) -> FitReport:
    task, criterion, seed, chosen = job.task, job.criterion, job.request.seed, model.candidate
    codes = torch.from_numpy(task.target)
    truth = codes[job.test]
    groups = None if task.groups is None else torch.from_numpy(task.groups[job.test])
    binary = not criterion.multiclass
    models, curves, tables = [], [], []
    doubtful: list[str] = []
    for candidate, found in scores.items():
        if binary:
            doubtful += doubts(candidate.name, found, truth)
            metrics = judged(
                found,
                truth,
                max_fpr=criterion.max_fpr,
                min_tpr=criterion.min_tpr,
                groups=groups,
                confidence=_CONFIDENCE,
                resamples=_RESAMPLES,
                seed=seed,
            )
            curves.append(
                Curves.from_scores(candidate.name, found, truth, max_fpr=criterion.max_fpr, min_tpr=criterion.min_tpr)
            )
        else:
            metrics = multiclass_judged(
                found, truth, criterion, groups=groups, confidence=_CONFIDENCE, resamples=_RESAMPLES // 4, seed=seed
            )
        models.append(ModelMetrics(candidate.name, metrics))
    if binary:
        tables.append(
            threshold_table(
                chosen.name,
                scores[chosen],
                truth,
                wanted_fpr=None,
                wanted_tpr=None,
                groups=groups,
                confidence=_CONFIDENCE,
                sample="the test part",
            )
        )
    else:
        labels = {k: str(label) for k, label in enumerate(task.classes[:_MOST_CURVES])}
        curves.extend(curves_per_class(scores[chosen], truth, labels))
    parts = tuple(
        DataPart(name, len(rows), int((codes[rows] == 1).sum()) if binary else None)
        for name, rows in (("training", job.train), ("test", job.test))
    )
    return FitReport(
        title=f"{Path(job.source).name}: {criterion.title}",
        data=DataSummary(
            source=job.source,
            rows=len(codes),
            features=task.features.shape[1],
            target=task.target_name,
            classes={str(label): int((codes == k).sum()) for k, label in enumerate(task.classes)},
            positive=str(task.classes[1]) if binary else None,
            split=job.split,
            parts=parts,
            columns=model.encoder.read_as(),
        ),
        metric=criterion.title,
        provenance=provenance(command, seed, time.perf_counter() - started),
        region=Region(criterion.max_fpr, criterion.min_tpr),
        contest=tuple(
            ContestRow(
                entry.candidate.name,
                entry.scores,
                entry.mean,
                entry.gain,
                entry.seconds,
                winner=entry.candidate == chosen,
                baseline=entry.candidate == contest.baseline,
            )
            for entry in contest.entries
        ),
        verdict=contest.verdict(criterion),
        validation=f"{len(job.folds)} {job.split} folds inside the training part",
        models=tuple(models),
        curves=tuple(curves),
        thresholds=tuple(tables),
        warnings=(*job.warnings, *doubtful),
        notes=_notes(job, binary),
        confidence=_CONFIDENCE,
    )


def _notes(job: _Job, binary: bool) -> tuple[str, ...]:
    notes = ["The winner of a contest of several is flattered by its own luck in it; the test part is not."]
    if binary:
        notes.append(
            "Thresholds come from the test part, which neither trained nor chose the model, so the guarantee holds for "
            "new rows from the same source; the rates beside them were measured on the same rows."
        )
    if job.request.objective:
        notes.append(f"The objective {job.request.objective} was asked for, not chosen.")
    return (*notes, *job.task.notes)


def _summary(contest: Contest, chosen: Candidate, report: FitReport) -> dict[str, Any]:
    return {
        "metric": report.metric,
        "chosen": chosen.choices,
        "baseline": contest.baseline.choices,
        "verdict": report.verdict,
        "cross_validation": [
            {
                **entry.candidate.choices,
                "folds": entry.scores,
                "mean": entry.mean,
                "gain_over_log_loss": entry.gain,
                "seconds": entry.seconds,
            }
            for entry in contest.entries
        ],
        "test": {m.name: m.metrics for m in report.models},
        "thresholds": report.thresholds,
        "data": report.data,
        "command": report.provenance.command,
        "versions": report.provenance.versions,
        "seed": report.provenance.seed,
    }
