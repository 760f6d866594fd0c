"""`equipoise evaluate`: one command for a binary target and, with --open, for class scores and unknown samples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, TypeVar

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, option_name, print_path
from equipoise.workflows.errors import InputError
from equipoise.workflows.scores.requests import EvaluateRequest, OpenRequest, ScoresRequest

Request = TypeVar("Request", bound=ScoresRequest)


@dataclass(frozen=True, kw_only=True)
class _Options(OpenRequest, EvaluateRequest):
    """The options of both requests."""


def evaluate(scores: Path, /, *, options: Annotated[_Options, FIELDS], open_world: bool = False) -> None:
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
    """
    if open_world:
        _refuse_others(options, OpenRequest, "{} belongs to a binary target and has no meaning with --open")
        _judge_open(scores, _part(options, OpenRequest))
    else:
        _refuse_others(options, EvaluateRequest, "{} needs --open")
        _judge_binary(scores, _part(options, EvaluateRequest))


def _refuse_others(options: _Options, kind: type[ScoresRequest], sentence: str) -> None:
    own = {field.name for field in fields(kind)}
    for field in fields(options):
        if field.name not in own and getattr(options, field.name) != field.default:
            raise InputError(sentence.format(f"--{option_name(field.name)}"))


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
