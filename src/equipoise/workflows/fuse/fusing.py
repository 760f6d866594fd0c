"""Train a learner for each block of features in turns and otherwise, compare on held-out rows, and keep the best."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.core.validate import check_choice
from equipoise.report.fusion_page import FusionReport, JudgedFusion, fusion_page
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.fuse.blocks import Blocks, read_blocks
from equipoise.workflows.fuse.contest import LEVEL, METHODS, Contender, Contest, accuracy, ahead
from equipoise.workflows.fuse.request import FuseRequest
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.spreadsheet import quoted

_log = logging.getLogger(__name__)
_MOST, _MOST_SEED = 2**31 - 1, 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class FuseOutcome:
    """What `fuse_blocks` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        contenders: every way to train, by name.
    """

    folder: Path
    report: FusionReport
    contenders: Mapping[str, Contender]


def fuse_blocks(
    data: str | Path,
    request: FuseRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> FuseOutcome:
    """Compare ways to train a learner for each block of a file on held-out rows, and write the best.

    Args:
        data: a table that `equipoise.data.tables.reading.read_table` reads, or an .npz file.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    _check(request)
    with staged_folder(request.output, overwrite=request.overwrite, inputs=[data]) as stage:
        progress("reading")
        with mendable():
            rows = read_blocks(data, request)
        notes = list(rows.notes)
        if len(rows.x) < 2:
            notes.append("there is one block only, so that there is nothing to be reconciled")
        for words in notes:
            notice(words)
        contest = Contest(rows, request)
        names = tuple(dict.fromkeys(name.replace("_", "-") for name in request.methods))
        try:
            found = {name: contest.compete(name, progress) for name in names}
        except FloatingPointError as error:
            raise InputError(f"{error}: name smaller ones with --learning-rates") from error
        chosen = max(found, key=lambda name: found[name].validation)
        progress("writing")
        _write_predictions(stage / "predictions.csv", rows, found[chosen], request.escape_formulas)
        found[chosen].model.save(stage / "model")
        report = _report(request, rows, found, chosen, notes)
        report = replace(report, provenance=provenance(command, request.seed, time.perf_counter() - started))
        (stage / "report.html").write_text(fusion_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, rows, report, found))
    return FuseOutcome(folder=request.output, report=report, contenders=found)


def _check(request: FuseRequest) -> None:
    for name in ("methods", "learning_rates"):
        if not len(getattr(request, name)):
            raise InputError(f"name at least one of the {name}")
    if len(set(request.blocks)) != len(request.blocks) or request.target in request.blocks:
        raise InputError(f"blocks must be distinct and other than the target, got {', '.join(request.blocks)}")
    if not 0 < request.test_size < 0.5:
        raise InputError(f"test_size={request.test_size} must lie between 0 and 0.5")
    if not 0 <= request.seed <= _MOST_SEED:
        raise InputError(f"seed={request.seed} must be at least 0 and at most {_MOST_SEED}")
    for name in ("epochs", "hidden", "batch_size"):
        if not 1 <= getattr(request, name) <= _MOST:
            raise InputError(f"{name}={getattr(request, name)} must be at least 1")
    for rate in request.learning_rates:
        if not 0 < rate < np.inf:
            raise InputError(f"learning_rates={rate} must be greater than 0")
    with mendable():
        for name in request.methods:
            check_choice("method", name.replace("_", "-"), METHODS)


def _write_predictions(path: Path, rows: Blocks, one: Contender, escape: bool) -> None:
    said = (lambda cell: quoted(cell)) if escape else (lambda cell: cell)
    judged = np.flatnonzero(rows.part == 2)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "target", "predicted", "probability", *(f"{said(name)}_is_right" for name in rows.x)])
        for place, row in enumerate(judged.tolist()):
            code = int(one.probabilities[place].argmax())
            alone = (int(right[place]) for right in one.right_alone.values())
            shown = (said(rows.classes[rows.y[row]]), said(rows.classes[code]))
            writer.writerow([row, *shown, f"{one.probabilities[place, code]:.6g}", *alone])


def _report(
    request: FuseRequest, rows: Blocks, found: Mapping[str, Contender], chosen: str, notes: Sequence[str]
) -> FusionReport:
    best = found[chosen]
    sizes = np.bincount(rows.part, minlength=3).tolist()
    return FusionReport(
        title=f"{request.target} from {' and '.join(rows.x)}",
        facts=(
            ", ".join(f"{name} of {x.shape[1]:,} features" for name, x in rows.x.items()),
            f"{len(rows.classes):,} classes",
            f"{sizes[0]:,} rows to learn from, {sizes[1]:,} to choose by, {sizes[2]:,} to judge by",
        ),
        blocks=tuple(rows.x),
        chosen=chosen,
        judged=[
            JudgedFusion(
                name,
                accuracy(one.right),
                None if one is best else ahead(best.right, one.right),
                [accuracy(right) for right in one.right_alone.values()],
                one.validation,
                one.learning_rate,
            )
            for name, one in found.items()
        ],
        notes=list(notes),
        level=LEVEL,
    )


def _summary(
    request: FuseRequest, rows: Blocks, report: FusionReport, found: Mapping[str, Contender]
) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {
        "request": asked,
        "chosen": report.chosen,
        "classes": list(rows.classes),
        "blocks": {name: x.shape[1] for name, x in rows.x.items()},
        "methods": {
            one.name: {
                "validation": one.validation,
                "test": one.value,
                "behind_the_chosen": one.behind,
                "alone": dict(zip(report.blocks, one.alone, strict=True)),
                "learning_rate": one.learning_rate,
                "history": [asdict(each) for each in found[one.name].history],
            }
            for one in report.judged
        },
        "notes": list(report.notes),
    }
