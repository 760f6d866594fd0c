"""Compare maps of items on held-out answers about distances, and write the best one."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.core.validate import check_choice
from equipoise.crowd import OrdinalEmbedding
from equipoise.data import TripletTable, read_triplets
from equipoise.report.embedding_page import EmbeddingReport, embedding_page
from equipoise.report.pictures import draw_places
from equipoise.workflows.embed.comparing import METHODS, Trial, choose, compare, contradictions, fitted, one_error_rule
from equipoise.workflows.embed.request import EmbedRequest
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.spreadsheet import quoted
from equipoise.workflows.warned import heard

_log = logging.getLogger(__name__)
_MOST, _MOST_SEED, _DISPUTED = 2**31 - 1, 2**63 - 1, 12


@dataclass(frozen=True, kw_only=True)
class EmbedOutcome:
    """What `embed_triplets` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        trials: every loss and dimension.
        model: the map that is kept.
    """

    folder: Path
    report: EmbeddingReport
    trials: Sequence[Trial]
    model: OrdinalEmbedding


def embed_triplets(
    triplets: str | Path,
    request: EmbedRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> EmbedOutcome:
    """Compare losses and dimensions on the same held-out answers, and write the map of the best.

    Args:
        triplets: a file that `equipoise.data.read_triplets` reads.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    _check(request)
    notes: list[str] = []

    def noted(words: str) -> None:
        notes.append(words)
        notice(words)

    with staged_folder(request.output, overwrite=request.overwrite, inputs=[triplets]) as stage:
        progress("reading")
        with mendable(), heard(noted):
            table = read_triplets(triplets)
        request = _fitting(request, table, noted)
        with mendable():
            trials = compare(table.triplets, table.num_items, request, progress)
        best = choose(trials)
        progress(f"placing by {best.method} in {best.dim} dimensions")
        with mendable(), heard(noted):
            model = fitted(best.method, best.dim, best.lam, request.seed, table.triplets, table.num_items)
        model.embedding_ = principal(model.embedding_)
        names = table.item_names or tuple(map(str, range(table.num_items)))
        conflicts = model.conflicts(table.triplets)
        shown = [quoted(name) for name in names] if request.escape_formulas else list(names)
        _write_coordinates(stage / "coordinates.csv", model.embedding_, shown, conflicts)
        _write_accuracy(stage / "accuracy.csv", trials)
        draw_places(stage / "map.png", model.embedding_[:, :2], names)
        model.save(stage / "model.safetensors")
        report = _report(table, names, trials, best, model, notes, stage / "map.png")
        report = replace(report, provenance=provenance(command, request.seed, time.perf_counter() - started))
        (stage / "report.html").write_text(embedding_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, table, report, trials, best))
    return EmbedOutcome(folder=request.output, report=report, trials=trials, model=model)


def principal(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map around its middle, turned so that the first axis is that of most spread, and so on."""
    centred = points - points.mean(0)
    turn = np.linalg.svd(centred, full_matrices=False)[2]
    # Of the two ways an axis can point, the one in which the item farthest out is positive.
    found = centred @ turn.T
    far = found[np.abs(found).argmax(0), np.arange(found.shape[1])]
    return np.asarray(found * np.where(far < 0, -1.0, 1.0))


def _check(request: EmbedRequest) -> None:
    for name in ("methods", "dims", "lams"):
        if not len(getattr(request, name)):
            raise InputError(f"name at least one of the {name}")
    if not 2 <= request.folds <= _MOST:
        raise InputError(f"folds={request.folds} must be at least 2")
    if not 0 <= request.seed <= _MOST_SEED:
        raise InputError(f"seed={request.seed} must be at least 0 and at most {_MOST_SEED}")
    for dim in request.dims:
        if not 1 <= dim <= _MOST:
            raise InputError(f"dim={dim} must be at least 1")
    for lam in request.lams:
        if not (math.isfinite(lam) and lam >= 0):
            raise InputError(f"lam={lam} must be a number of at least 0")
    with mendable():
        for method in request.methods:
            check_choice("method", method, METHODS)
        import matplotlib  # noqa: F401


def _fitting(request: EmbedRequest, table: TripletTable, notice: Callable[[str], None]) -> EmbedRequest:
    """The request without dimensions that so few items cannot have."""
    if table.num_items > 3 * len(table.triplets):
        raise InputError(
            f"items are numbered up to {table.num_items - 1:,}, and {len(table.triplets):,} answers name "
            f"{3 * len(table.triplets):,} of them at most; number the items from 0 on without gaps"
        )
    most = table.num_items - 1
    dims = tuple(dim for dim in dict.fromkeys(request.dims) if dim <= most)
    if not dims:
        raise InputError(f"{table.num_items} items need at most {most} dimensions; give a smaller --dim")
    if len(dims) < len(set(request.dims)):
        notice(f"{table.num_items} items need at most {most} dimensions; more are left out")
    question = torch.cat([table.triplets[:, :1], table.triplets[:, 1:].sort(1).values], 1)
    questions = len(torch.unique(question, dim=0))
    if questions < request.folds:
        raise InputError(f"the answers are to {questions} different questions, too few for folds={request.folds}")
    return replace(request, dims=dims, methods=tuple(dict.fromkeys(request.methods)))


def _write_coordinates(path: Path, points: NDArray[np.float64], names: Sequence[str], conflicts: Any) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        axes = [f"axis_{k + 1}" for k in range(points.shape[1])]
        writer.writerow(["item", *axes, "answers", "not_kept", "contradicted"])
        for k, name in enumerate(names):
            told = (int(conflicts.answers[k]), int(conflicts.violated[k]), int(conflicts.contradicted[k]))
            writer.writerow([name, *(f"{value:.8g}" for value in points[k]), *told])


def _write_accuracy(path: Path, trials: Sequence[Trial]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        folds = [f"fold_{k + 1}" for k in range(len(trials[0].accuracy))]
        writer.writerow(["method", "dim", "lam", "accuracy", "standard_error", *folds])
        for trial in trials:
            shown = (f"{value:.6g}" for value in (trial.mean, trial.error, *trial.accuracy))
            writer.writerow([trial.method, trial.dim, f"{trial.lam:g}", *shown])


def _report(
    table: TripletTable,
    names: Sequence[str],
    trials: Sequence[Trial],
    best: Trial,
    model: OrdinalEmbedding,
    notes: Sequence[str],
    picture: Path,
) -> EmbeddingReport:
    accuracy: dict[str, dict[int, tuple[float, float]]] = {}
    penalty: dict[str, dict[int, float]] = {}
    for trial in trials:
        accuracy.setdefault(trial.method, {})[trial.dim] = (trial.mean, trial.error)
        penalty.setdefault(trial.method, {})[trial.dim] = trial.lam
    opposed, most = contradictions(table.triplets, table.num_items)
    found = model.conflicts(table.triplets)
    often = found.answers >= found.answers.double().median()
    order = torch.argsort(torch.where(often, found.share, -1.0), descending=True, stable=True)[:_DISPUTED]
    return EmbeddingReport(
        title=f"{table.num_items:,} items placed by {len(table.triplets):,} answers",
        facts=(f"{table.num_items:,} items", f"{len(table.triplets):,} answers"),
        method=best.method,
        dim=best.dim,
        accuracy=accuracy,
        penalty=penalty,
        chosen={name: one_error_rule([t for t in trials if t.method == name]).dim for name in accuracy},
        kept=model.score(table.triplets),
        opposed=opposed,
        most=most,
        disputed=[(names[k], int(found.answers[k]), float(found.share[k])) for k in order.tolist() if bool(often[k])],
        map=picture,
        notes=list(notes),
    )


def _summary(
    request: EmbedRequest, table: TripletTable, report: EmbeddingReport, trials: Sequence[Trial], best: Trial
) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {
        "request": asked,
        "items": table.num_items,
        "answers": len(table.triplets),
        "chosen": {"method": best.method, "dim": best.dim, "lam": best.lam},
        "held_out_accuracy": {"mean": best.mean, "standard_error": best.error},
        "trials": [
            {"method": t.method, "dim": t.dim, "lam": t.lam, "mean": t.mean, "standard_error": t.error} for t in trials
        ],
        "dimension_by_the_rule": dict(report.chosen),
        "kept": report.kept,
        "answers_with_an_opposite": report.opposed,
        "no_map_keeps_more_than": report.most,
        "notes": list(report.notes),
    }
