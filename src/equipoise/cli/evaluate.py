"""`equipoise evaluate`: one command for a binary target, with --open for class scores and unknown samples, and with
--saliency for maps and masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, TypeVar

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, option_name, print_notice, print_path
from equipoise.workflows.errors import InputError
from equipoise.workflows.request import Request
from equipoise.workflows.saliency.request import SaliencyRequest
from equipoise.workflows.scores.requests import EvaluateRequest, OpenRequest

Kind = TypeVar("Kind", bound=Request)


@dataclass(frozen=True, kw_only=True)
class _Options(SaliencyRequest, OpenRequest, EvaluateRequest):
    """The options of all requests.

    Attributes:
        target: The column of true labels.
        score: The columns of scores, higher meaning more positive; several are compared.
    """

    target: str = ""
    score: Sequence[str] = ()


_DEFAULTS = _Options()
_OF_MAPS = sorted(
    {field.name for field in fields(SaliencyRequest)}
    - {field.name for kind in (OpenRequest, EvaluateRequest) for field in fields(kind)}
)


def evaluate(
    scores: Path,
    masks: Path | None = None,
    /,
    *,
    options: Annotated[_Options, FIELDS] = _DEFAULTS,
    open_world: bool = False,
    saliency: bool = False,
) -> None:
    """Judge a file of scores: every curve, intervals, and thresholds for a wanted rate.

    With --open the scores are those of classes, and some samples belong to none of them: is a sample known, which class
    is it, and both at once.

    With --saliency two folders of images are compared, maps and masks of the same names: 'equipoise evaluate --saliency
    MAPS MASKS'. Every measure is taken over pixels, and over objects whatever their size.

    Parameters
    ----------
    scores: Path
        A CSV, TSV or Parquet file with a column of true labels and one or more of scores; of Parquet also a folder of
        parts or a pattern such as 'scores/*.parquet'. With --saliency a folder of saliency maps.
    masks: Path
        With --saliency, the folder of masks.
    open_world: bool
        Judge a model that meets unknown classes: --score then names a column for each class, or a pattern such as
        'score_*', and --target the true classes by name or position (or a pattern of label columns of 0 and 1).
    saliency: bool
        Judge saliency maps by masks.
    """
    if saliency:
        _refuse_others(options, SaliencyRequest, "{} belongs to a file of scores and has no meaning with --saliency")
        if masks is None or open_world:
            raise InputError("give --saliency two folders, of maps and of masks, and no --open")
        _judge_maps(scores, masks, _part(options, SaliencyRequest))
        return
    if masks is not None:
        raise InputError(
            f"{str(masks)!r} is a second path; only --saliency takes two, a folder of maps and one of masks"
        )
    for name in _OF_MAPS:
        if getattr(options, name) != getattr(_DEFAULTS, name):
            raise InputError(f"--{option_name(name)} needs --saliency")
    missing = [name for name in ("target", "score") if not getattr(options, name)]
    if missing:
        raise InputError(f"--{missing[0]} is needed: {_MEANING[missing[0]]}")
    if open_world:
        _refuse_others(options, OpenRequest, "{} belongs to a binary target and has no meaning with --open")
        _judge_open(scores, _part(options, OpenRequest))
    else:
        _refuse_others(options, EvaluateRequest, "{} needs --open")
        _judge_binary(scores, _part(options, EvaluateRequest))


_MEANING = {"target": "the column of true labels", "score": "one or more columns of scores"}


def _refuse_others(options: _Options, kind: type[Request], sentence: str) -> None:
    """Refuse an option that was given and is none of this kind of request."""
    own = {field.name for field in fields(kind)}
    for field in fields(options):
        if field.name not in own and getattr(options, field.name) != field.default:
            raise InputError(sentence.format(f"--{option_name(field.name)}"))


def _part(options: _Options, kind: type[Kind]) -> Kind:
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


def _judge_maps(maps: Path, masks: Path, request: SaliencyRequest) -> None:
    from equipoise.report.numbers import with_interval
    from equipoise.report.saliency_page import size_verdict
    from equipoise.workflows.saliency.evaluating import evaluate_saliency

    with console.status("reading") as status:
        outcome = evaluate_saliency(
            maps, masks, request, command=command_line(), notice=print_notice, progress=status.update
        )
    console.print(", ".join(outcome.page.facts), highlight=False)
    table = Table("measure", "over pixels", "over objects", box=None, header_style="dim", pad_edge=False)
    for row in outcome.page.measures:
        table.add_row(row.title, with_interval(row.whole), with_interval(row.frames))
    console.print(table)
    if words := size_verdict(outcome.page.sizes):
        console.print(words, highlight=False)
    print_path("report", outcome.folder / "report.html")
