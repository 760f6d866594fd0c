"""Learn many tasks alone and together, say what togetherness is worth, and draw how tasks and features group."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval
from equipoise.core.validate import check_choice
from equipoise.crowd import TFCL
from equipoise.report.pictures import draw_structure
from equipoise.report.tasks_page import JudgedTasks, TasksReport, tasks_page
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.multitask.contest import LEVEL, METHODS, Contender, compete, over_tasks
from equipoise.workflows.multitask.request import MultitaskRequest
from equipoise.workflows.multitask.table import Scaled, TaskTable, read_tasks_table, scaled
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.spreadsheet import quoted

_log = logging.getLogger(__name__)
_ALONE = "alone"
_MOST, _MOST_SEED = 2**31 - 1, 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class MultitaskOutcome:
    """What `fit_tasks` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        contenders: every way to learn, by name.
    """

    folder: Path
    report: TasksReport
    contenders: Mapping[str, Contender]


def fit_tasks(
    table: str | Path,
    request: MultitaskRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> MultitaskOutcome:
    """Compare ways to learn the tasks of a table on held-out rows of each, and write the best.

    Args:
        table: a file that `equipoise.data.tables.reading.read_table` reads.
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

    with staged_folder(request.output, overwrite=request.overwrite, inputs=[table]) as stage:
        progress("reading")
        with mendable():
            rows = read_tasks_table(table, request)
            learned, whole = (scaled(rows, rows.part < until) for until in (1, 2))
        if not learned.names:
            raise InputError(f"no column of {table} but {request.task!r} and {request.target!r} varies; add features")
        for words in rows.notes:
            noted(words)
        if rows.left_out:
            noted(f"{rows.left_out:,} rows are of tasks with fewer rows than --min-rows and are left out")
        names = _methods(request, rows, learned, noted)
        with mendable():
            found = {name: compete(name, rows, learned, whole, _blocks(request, learned), progress) for name in names}
        chosen = max(found, key=lambda name: found[name].value)
        undefined = int(np.isnan(found[chosen].test).sum())
        if undefined:
            noted(f"{undefined} of {len(rows.names)} tasks have one class among the rows to judge by and have no AUROC")
        progress("writing")
        escape = request.escape_formulas
        _write_tasks(stage / "tasks.csv", rows, found, escape)
        _write_weights(stage / "weights.csv", found[chosen].fitted.weight, whole, rows, escape)
        shown = "tfcl" if "tfcl" in found else chosen
        groups = _draw(stage / "structure.png", found[shown], rows, whole)
        _save(stage / "model", found[chosen], rows, whole)
        report = _report(request, rows, found, chosen, shown, groups, notes, stage / "structure.png")
        report = replace(report, provenance=provenance(command, request.seed, time.perf_counter() - started))
        (stage / "report.html").write_text(tasks_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, rows, report, found))
    return MultitaskOutcome(folder=request.output, report=report, contenders=found)


def _check(request: MultitaskRequest) -> None:
    for name in ("methods", "blocks"):
        if not len(getattr(request, name)):
            raise InputError(f"name at least one of the {name}")
    if not 0 < request.test_size < 0.5:
        raise InputError(f"test_size={request.test_size} must lie between 0 and 0.5")
    if not 0 <= request.seed <= _MOST_SEED:
        raise InputError(f"seed={request.seed} must be at least 0 and at most {_MOST_SEED}")
    if not 1 <= request.min_rows <= _MOST:
        raise InputError(f"min_rows={request.min_rows} must be at least 1")
    for k in request.blocks:
        if not 1 <= k <= _MOST:
            raise InputError(f"blocks={k} must be at least 1")
    with mendable():
        for name in request.methods:
            check_choice("method", name.replace("_", "-"), METHODS)
        import matplotlib  # noqa: F401


def _methods(
    request: MultitaskRequest, rows: TaskTable, learned: Scaled, notice: Callable[[str], None]
) -> tuple[str, ...]:
    """What can be compared on this table."""
    names = tuple(dict.fromkeys(name.replace("_", "-") for name in request.methods))
    left_out = set()
    if rows.classes is None:
        left_out.add("multitask-auc")
        if names == ("multitask-auc",):
            raise InputError(
                f"target {request.target!r} is a number, and multitask-auc ranks two values; see --positive"
            )
    else:
        both = [set(rows.y[(rows.task == k) & (rows.part == 0)]) == {0.0, 1.0} for k in range(len(rows.names))]
        if not any(both):
            raise InputError("no task has both classes among its rows to learn from; lower --test-size")
        if not all(both):
            notice(
                f"{both.count(False)} of {len(both)} tasks have rows of one class only to learn from; what they share "
                "with others is all that is known of them"
            )
    if min(learned.x.shape[1], len(rows.names)) < 2:
        left_out.add("tfcl")
        notice("tfcl needs two features at least and is left out")
    found = tuple(name for name in names if name not in left_out)
    if not found:
        raise InputError("no method is left to compare; name others with --methods")
    return found


def _blocks(request: MultitaskRequest, learned: Scaled) -> tuple[int, ...]:
    """Numbers of blocks that features and tasks allow."""
    most = learned.x.shape[1] + len(learned.centre) - 1
    return tuple(dict.fromkeys(min(k, most) for k in request.blocks))


def _draw(path: Path, one: Contender, rows: TaskTable, whole: Scaled) -> list[tuple[list[str], list[str]]]:
    """The picture of weights in the order of groups; the groups that hold both features and tasks."""
    weight, names = one.fitted.weight, rows.names
    model = one.fitted.model
    if isinstance(model, TFCL):
        features, tasks = model.groups_
        tasks = tasks[[model.tasks_.index(k) for k in range(len(names))]]
    else:
        features, tasks = np.zeros(len(weight), dtype=np.int64), np.zeros(weight.shape[1], dtype=np.int64)
    right = np.linalg.svd(weight, full_matrices=False)[2][0]
    down = np.lexsort((-np.abs(weight).sum(1), features))
    across = np.lexsort((right, tasks))
    cuts = [np.flatnonzero(np.diff(of[order])) + 1 for of, order in ((features, down), (tasks, across))]
    draw_structure(
        path,
        weight[np.ix_(down, across)],
        [whole.names[k] for k in down],
        [names[k] for k in across],
        (cuts[0].tolist(), cuts[1].tolist()),
    )
    if not isinstance(model, TFCL):
        return []
    both = [group for group in np.unique(features).tolist() if (tasks == group).any()]
    return [
        (
            [whole.names[k] for k in np.flatnonzero(features == group)],
            [names[k] for k in np.flatnonzero(tasks == group)],
        )
        for group in both
    ]


def _write_tasks(path: Path, rows: TaskTable, found: Mapping[str, Contender], escape: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["task", "learned", "chosen_by", "judged_by", *(name.replace("-", "_") for name in found)])
        for number, name in enumerate(rows.names):
            parts = np.bincount(rows.part[rows.task == number], minlength=3).tolist()
            values = (one.test[number] for one in found.values())
            shown = quoted(name) if escape else name
            writer.writerow([shown, *parts, *("" if np.isnan(value) else f"{value:.6g}" for value in values)])


def _write_weights(path: Path, weight: NDArray[np.float64], whole: Scaled, rows: TaskTable, escape: bool) -> None:
    """Of the standardised features, a row each and a column per task."""
    said = (lambda name: str(quoted(name))) if escape else str
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["feature", "mean", "scale", *map(said, rows.names)])
        for number, name in enumerate(whole.names):
            numbers = (whole.mean[number], whole.scale[number], *weight[number])
            writer.writerow([said(name), *(f"{value:.6g}" for value in numbers)])


def _save(folder: Path, one: Contender, rows: TaskTable, whole: Scaled) -> None:
    """The encoder of the columns, the weights of standardised features, and what turns scores into the target."""
    from safetensors.numpy import save_file

    from equipoise.workflows.tables.encoder_file import write_encoder

    folder.mkdir()
    about: dict[str, Any] = {"method": one.name, "tasks": rows.names, "features": whole.names, "spread": whole.spread}
    if rows.classes is not None:
        about["classes"] = [str(value) for value in rows.classes]
    (folder / "tasks.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    tensors = {"weight": one.fitted.weight, "mean": whole.mean, "scale": whole.scale, "centre": whole.centre}
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "weights.safetensors")
    write_encoder(whole.encoder, folder)


def _report(
    request: MultitaskRequest,
    rows: TaskTable,
    found: Mapping[str, Contender],
    chosen: str,
    shown: str,
    groups: Sequence[tuple[Sequence[str], Sequence[str]]],
    notes: Sequence[str],
    picture: Path,
) -> TasksReport:
    best = found[chosen]

    def behind(one: Contender) -> Interval | None:
        return None if one is best else over_tasks(best.test - one.test, request.seed)

    sizes = np.bincount(rows.part, minlength=3).tolist()
    metric = "R²" if rows.classes is None else "AUROC"
    gain = behind(found[_ALONE]) if _ALONE in found else None
    return TasksReport(
        title=f"{len(rows.names):,} tasks of {request.target}",
        facts=(
            f"{len(rows.names):,} tasks of {request.task}",
            f"{sizes[0]:,} rows to learn from, {sizes[1]:,} to choose by, {sizes[2]:,} to judge by",
        ),
        metric=metric,
        chosen=chosen,
        baseline=_ALONE,
        gain=gain,
        judged=[
            JudgedTasks(
                name,
                over_tasks(one.test, request.seed),
                behind(one),
                float(np.nanmin(one.test)) if np.isfinite(one.test).any() else float("nan"),
                one.value,
                ", ".join(f"{key} {value:.3g}" for key, value in one.setting.items() if not isinstance(value, str)),
            )
            for name, one in found.items()
        ],
        tasks=[
            (name, int((rows.task == number).sum()), [float(one.test[number]) for one in found.values()])
            for number, name in enumerate(rows.names)
        ],
        shown=shown,
        structure=picture,
        groups=groups,
        notes=list(notes),
        level=LEVEL,
    )


def _summary(
    request: MultitaskRequest, rows: TaskTable, report: TasksReport, found: Mapping[str, Contender]
) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {
        "request": asked,
        "chosen": report.chosen,
        "metric": report.metric,
        "tasks": len(rows.names),
        "classes": None if rows.classes is None else [str(value) for value in rows.classes],
        "methods": {
            one.name: {
                "validation": one.validation,
                "test": one.value,
                "behind_the_chosen": one.behind,
                "worst_task": one.worst,
                "setting": dict(found[one.name].setting),
            }
            for one in report.judged
        },
        "groups": [{"features": list(features), "tasks": list(tasks)} for features, tasks in report.groups],
        "notes": list(report.notes),
    }
