"""Train on a table for the metric that matters, and say honestly whether it was worth it.

The rows are split once into a training and a test part. Candidates (model family × objective) are compared by
cross-validation inside the training part; the winner and the best plain log loss are refitted on all of it and judged
on the test part, which chose nothing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equipoise.core.validate import check_choice
from equipoise.data import fold_splits, holdout_split, list_datasets, load_dataset, make_encoder, read_table, table_task
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
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import check_output, staged_folder
from equipoise.workflows.scores.judging import judged, multiclass_judged, plain, provenance, threshold_table
from equipoise.workflows.tables.candidates import LOG_LOSS, MODELS, Candidate, objectives_for, trains
from equipoise.workflows.tables.contest import Contest, decision_scores, run_contest
from equipoise.workflows.tables.model_folder import FittedModel

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
    task: Any
    criterion: Criterion
    candidates: tuple[Candidate, ...]
    asked: str | None
    train: Any
    test: Any
    folds: Any
    split: str


def fit_table(
    data: str | Path,
    *,
    target: str | None = None,
    positive: str | None = None,
    metric: str | None = None,
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    models: Sequence[str] | None = None,
    objective: str | None = None,
    compare: Sequence[str] | None = None,
    group: str | None = None,
    time_column: str | None = None,
    folds: int = 5,
    test_size: float = 0.2,
    seed: int = 0,
    output: str | Path,
    overwrite: bool = False,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> FitOutcome:
    """Fit a model to a table and write `model/`, `metrics.json` and `report.html`.

    Args:
        data: CSV, TSV or Parquet file, or the name of an embedded set.
        target: column to predict; known for embedded sets.
        positive: label that counts as positive; by default 1 or True, else the rarer one.
        metric: name of a `Criterion`; by default "tpauc" or "opauc" where bounds are given, else "auroc", and
            "ovo_auroc" for several classes.
        max_fpr: false-positive budget of the metric and the objectives.
        min_tpr: least true-positive rate of both.
        models: model families; "mlp" and "lightgbm" if absent.
        objective: train this objective rather than choose one; plain and weighted log loss run beside it.
        compare: objectives to compare; those that aim at the metric if absent.
        group: column whose rows stay together.
        time_column: column to split by, the test part being the latest.
        folds: of the cross-validation inside the training part.
        test_size: share of rows in the test part.
        seed: of splits and training.
        output: folder to write.
        overwrite: replace the folder.
        command: what the user typed, for the report.
        progress: told in words what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    output = Path(output)
    with mendable():
        check_output(output, overwrite=overwrite)
        job = _prepare(
            data, target, positive, metric, max_fpr, min_tpr, models, objective, compare, group, time_column, folds,
            test_size, seed,
        )  # fmt: skip
    features, codes = job.task.features, job.task.target

    def encode(kind: str, fit_rows: Any, other_rows: Any) -> tuple[Any, Any]:
        encoder = make_encoder(kind)
        fitted = encoder.fit_transform(features.iloc[job.train[fit_rows]])
        return fitted, encoder.transform(features.iloc[job.train[other_rows]])

    contest = run_contest(
        job.candidates, job.folds, codes[job.train], encode, job.criterion, seed=seed, progress=progress
    )
    chosen = contest.winner.candidate
    if job.asked is not None:
        chosen = next(e.candidate for e in contest.entries if e.candidate.objective == job.asked)
    fitted, scores = {}, {}
    for candidate in dict.fromkeys([chosen, contest.baseline]):
        progress(f"refitting {candidate.name} on the training part")
        fitted[candidate], scores[candidate] = _refit(job, candidate, seed)
    report = _report(job, contest, chosen, scores, command, seed, started)
    progress("writing")
    with staged_folder(output, overwrite=overwrite) as stage:
        fitted[chosen].save(stage / "model")
        write_report(report, stage / "report.html")
        summary = json.dumps(_summary(job, contest, chosen, report), indent=1, ensure_ascii=False)
        (stage / "metrics.json").write_text(summary, encoding="utf-8")
    return FitOutcome(report, contest, output)


def _prepare(
    data: str | Path,
    target: str | None,
    positive: str | None,
    metric: str | None,
    max_fpr: float | None,
    min_tpr: float | None,
    models: Sequence[str] | None,
    objective: str | None,
    compare: Sequence[str] | None,
    group: str | None,
    time_column: str | None,
    folds: int,
    test_size: float,
    seed: int,
) -> _Job:
    if folds < 2:
        raise InputError(f"folds={folds} must be at least 2")
    families = tuple(dict.fromkeys(models or _DEFAULT_MODELS))
    for family in families:
        check_choice("model", family, MODELS)
    for name in [*([objective] if objective else []), *(compare or ())]:
        check_choice("objective", name, OBJECTIVES)
    if metric is not None:  # a wrong metric or bound is said before a large file is read
        Criterion(metric, max_fpr, min_tpr)
    frame, known_target, known_positive = _read(data)
    target = target or known_target
    positive = known_positive if positive is None and target == known_target else positive
    if target is None:
        raise InputError(f"say which column to predict with --target; {data} has {', '.join(map(str, frame.columns))}")
    task = table_task(frame, target=target, positive=positive, group=group, time=time_column)
    criterion = _criterion(metric, max_fpr, min_tpr, len(task.classes), target)
    names = [LOG_LOSS, *(["weighted_cross_entropy"] if objective else []), *(compare or ())]
    if objective:
        names.append(objective)
    elif not compare:
        names = objectives_for(criterion)
    for name in dict.fromkeys(names):
        needed = OBJECTIVES[name]
        if criterion.multiclass and not needed.multiclass:
            raise InputError(f"objective {name!r} is for two classes; column {target!r} has {len(task.classes)}")
        if needed.needs_max_fpr and criterion.max_fpr is None:
            raise InputError(f"objective {name!r} needs a false-positive budget: --metric opauc --max-fpr 0.05")
        if needed.needs_min_tpr and criterion.min_tpr is None:
            raise InputError(f"objective {name!r} needs a least true-positive rate: --metric tpauc --min-tpr 0.5")
        if not any(trains(family, name) for family in families):
            raise InputError(f"objective {name!r} is trained by networks only; add `--model mlp`")
    train, test = holdout_split(task, test_size, seed)
    inner = fold_splits(task.take(train), folds, seed)
    split = f"by groups of {group}" if group else f"by time ({time_column})" if time_column else "stratified"
    return _Job(
        str(data),
        task,
        criterion,
        tuple(Candidate(family, name) for family in families for name in dict.fromkeys(names) if trains(family, name)),
        objective,
        train,
        test,
        inner,
        split,
    )


def _read(data: str | Path) -> tuple[Any, str | None, str | None]:
    """The frame, and the target and positive value of an embedded set."""
    if not Path(data).exists() and str(data) in {info.name for info in list_datasets()}:
        embedded = load_dataset(str(data))
        return embedded.frame, embedded.target, embedded.info.positive
    return read_table(data), None, None


def _criterion(
    metric: str | None, max_fpr: float | None, min_tpr: float | None, classes: int, target: str
) -> Criterion:
    if metric is None:
        if classes > 2:
            metric = "ovo_auroc"
        elif min_tpr is not None:
            metric = "tpauc"
        else:
            metric = "auroc" if max_fpr is None else "opauc"
    criterion = Criterion(metric, max_fpr, min_tpr)
    if criterion.multiclass and classes == 2:
        raise InputError(f"metric {metric!r} is for several classes and column {target!r} has 2; use auroc")
    if not criterion.multiclass and classes > 2:
        raise InputError(
            f"metric {metric!r} is for two classes and column {target!r} has {classes}; use ovo_auroc or ovr_auroc"
        )
    return criterion


def _refit(job: _Job, candidate: Candidate, seed: int) -> tuple[FittedModel, torch.Tensor]:
    encoder = make_encoder(candidate.encoding)
    features, codes = job.task.features, job.task.target
    encoded = encoder.fit_transform(features.iloc[job.train])
    estimator = candidate.estimator(job.criterion, seed).fit(encoded, codes[job.train])
    model = FittedModel(
        candidate, encoder, estimator, job.task.target_name, tuple(job.task.classes), job.criterion.title
    )
    return model, decision_scores(estimator, encoder.transform(features.iloc[job.test]))


def _report(
    job: _Job,
    contest: Contest,
    chosen: Candidate,
    scores: dict[Candidate, torch.Tensor],
    command: str,
    seed: int,
    started: float,
) -> FitReport:
    task, criterion = job.task, job.criterion
    codes = torch.from_numpy(task.target)
    truth = codes[job.test]
    binary = not criterion.multiclass
    models, curves, tables = [], [], []
    for candidate, found in scores.items():
        if binary:
            metrics = judged(
                found,
                truth,
                max_fpr=criterion.max_fpr,
                min_tpr=criterion.min_tpr,
                confidence=_CONFIDENCE,
                resamples=_RESAMPLES,
                seed=seed,
            )
            curves.append(
                Curves.from_scores(candidate.name, found, truth, max_fpr=criterion.max_fpr, min_tpr=criterion.min_tpr)
            )
        else:
            metrics = multiclass_judged(
                found, truth, criterion, confidence=_CONFIDENCE, resamples=_RESAMPLES // 4, seed=seed
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
    if job.asked is not None:
        notes.append(f"The objective {job.asked} was asked for, not chosen.")
    return (*notes, *job.task.notes)


def _summary(job: _Job, contest: Contest, chosen: Candidate, report: FitReport) -> dict[str, Any]:
    return {
        "metric": report.metric,
        "chosen": {"model": chosen.model, "objective": chosen.objective},
        "baseline": {"model": contest.baseline.model, "objective": contest.baseline.objective},
        "verdict": report.verdict,
        "cross_validation": [
            {
                "model": entry.candidate.model,
                "objective": entry.candidate.objective,
                "folds": plain(list(entry.scores)),
                "mean": plain(entry.mean),
                "gain_over_log_loss": plain(entry.gain),
                "seconds": entry.seconds,
            }
            for entry in contest.entries
        ],
        "test": {m.name: plain(dict(m.metrics)) for m in report.models},
        "thresholds": plain([dataclasses.asdict(t) for t in report.thresholds]),
        "data": plain(dataclasses.asdict(report.data)),
        "command": report.provenance.command,
        "versions": dict(report.provenance.versions),
        "seed": report.provenance.seed,
    }
