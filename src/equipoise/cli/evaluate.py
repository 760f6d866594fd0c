"""`equipoise evaluate`: one command for a binary target, for class scores and unknown samples, and for label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, TypeVar

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, option_name, print_path
from equipoise.workflows.errors import InputError
from equipoise.workflows.scores.requests import EvaluateRequest, JudgeRequest, OpenRequest, SegmentationRequest

Request = TypeVar("Request", bound=JudgeRequest)


@dataclass(frozen=True, kw_only=True)
class _Options(SegmentationRequest, OpenRequest, EvaluateRequest):
    """The options of all requests; what a file of scores needs is looked for there."""

    target: str = ""
    score: Sequence[str] = ()


_NOTHING_ASKED = _Options()


def evaluate(
    scores: Path | None = None,
    /,
    *,
    options: Annotated[_Options, FIELDS] = _NOTHING_ASKED,
    open_world: bool = False,
    segmentation: tuple[Path, Path] | None = None,
) -> None:
    """Judge a file of scores: every curve, intervals, and thresholds for a wanted rate.

    With --open the scores are those of classes, and some samples belong to none of them: is a sample known, which class
    is it, and both at once.

    Parameters
    ----------
    scores: Path
        A CSV, TSV or Parquet file with a column of true labels and one or more of scores; of Parquet also a folder of
        parts or a pattern such as 'scores/*.parquet'.
    open_world: bool
        Judge a model that meets unknown classes: --score then names a column for each class, or a pattern such as
        'score_*', and --target the true classes by name or position (or a pattern of label columns of 0 and 1).
    segmentation: tuple[Path, Path]
        Judge label maps instead: a folder of predictions and one of true label maps, matched by the stems of files.
    """
    if segmentation is not None:
        if scores is not None or open_world:
            raise InputError("--segmentation names both folders, and takes neither a file of scores nor --open")
        _refuse_others(options, SegmentationRequest, "{} has no meaning with --segmentation")
        _judge_segmentation(*segmentation, _part(options, SegmentationRequest))
        return
    if scores is None or not options.target or not options.score:
        lacking = "a file of scores" if scores is None else "--score" if options.target else "--target"
        raise InputError(f"{lacking} is missing; name it, or judge two folders with --segmentation")
    if open_world:
        _refuse_others(options, OpenRequest, "{} belongs to a binary target and has no meaning with --open")
        _judge_open(scores, _part(options, OpenRequest))
    else:
        _refuse_others(options, EvaluateRequest, "{} needs --open")
        _judge_binary(scores, _part(options, EvaluateRequest))


def _refuse_others(options: _Options, kind: type[JudgeRequest], sentence: str) -> None:
    own = {field.name for field in fields(kind)}
    for field in fields(options):
        if field.name not in own and getattr(options, field.name) != field.default:
            maps = field.name in SegmentationRequest.__dataclass_fields__
            words = "{} needs --segmentation" if maps else sentence
            raise InputError(words.format(f"--{option_name(field.name)}"))


def _part(options: _Options, kind: type[Request]) -> Request:
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})


def _judge_binary(scores: Path, request: EvaluateRequest) -> None:
    from equipoise.report import terminal_table
    from equipoise.workflows.scores.evaluate import evaluate_scores

    outcome = evaluate_scores(scores, request, command=command_line())
    console.print(terminal_table(outcome.report))
    for name, bounds in outcome.certified.items():
        table = Table(f"certain for {name}", "at least", "at most", box=None, header_style="dim", pad_edge=False)
        for metric, found in bounds.items():
            table.add_row(metric, f"{found.lower:.7f}", f"{found.upper:.7f}")
        console.print(table)
    print_path("report", outcome.folder / "report.html")


def _judge_open(scores: Path, request: OpenRequest) -> None:
    from equipoise.report.open_page import open_tables
    from equipoise.workflows.scores.evaluate_open import evaluate_open

    outcome = evaluate_open(scores, request, command=command_line())
    console.print(open_tables(outcome.report))
    print_path("report", outcome.folder / "report.html")


def _judge_segmentation(predictions: Path, truth: Path, request: SegmentationRequest) -> None:
    from equipoise.report.segmentation_page import segmentation_table
    from equipoise.workflows.scores.segmentation import evaluate_segmentation

    outcome = evaluate_segmentation(predictions, truth, request, command=command_line())
    console.print(segmentation_table(outcome.report))
    print_path("report", outcome.folder / "report.html")
