"""`equipoise evaluate`: one command for a binary target, class scores with unknown samples, saliency and label maps."""

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
from equipoise.workflows.scores.requests import EvaluateRequest, OpenRequest, SegmentationRequest

Kind = TypeVar("Kind", bound=Request)


@dataclass(frozen=True, kw_only=True)
class _Options(SaliencyRequest, SegmentationRequest, OpenRequest, EvaluateRequest):
    """The options of all requests; what a file of scores needs is looked for there.

    Attributes:
        target: The column of true labels.
        score: The columns of scores, higher meaning more positive; several are compared.
    """

    target: str = ""
    score: Sequence[str] = ()


_NOTHING_ASKED = _Options()
_OF_FOLDERS = {"--saliency": SaliencyRequest, "--segmentation": SegmentationRequest}
_OF_SCORES = {field.name for kind in (OpenRequest, EvaluateRequest) for field in fields(kind)}


def evaluate(
    scores: Path | None = None,
    /,
    *,
    options: Annotated[_Options, FIELDS] = _NOTHING_ASKED,
    open_world: bool = False,
    saliency: tuple[Path, Path] | None = None,
    segmentation: tuple[Path, Path] | None = None,
) -> None:
    """Judge a file of scores: every curve, intervals, and thresholds for a wanted rate.

    With --open the scores are those of classes, and some samples belong to none of them: is a sample known, which class
    is it, and both at once. With --saliency or --segmentation two folders of images are compared, matched by the stems
    of files.

    Parameters
    ----------
    scores: Path
        A CSV, TSV or Parquet file with a column of true labels and one or more of scores; of Parquet also a folder of
        parts or a pattern such as 'scores/*.parquet'.
    open_world: bool
        Judge a model that meets unknown classes: --score then names a column for each class, or a pattern such as
        'score_*', and --target the true classes by name or position (or a pattern of label columns of 0 and 1).
    saliency: tuple[Path, Path]
        Judge saliency maps instead: a folder of maps and one of masks. Every measure is taken over pixels, and over
        objects whatever their size.
    segmentation: tuple[Path, Path]
        Judge label maps instead: a folder of predictions and one of true label maps.
    """
    folders = {"--saliency": saliency, "--segmentation": segmentation}
    asked = [name for name, given in folders.items() if given is not None]
    if asked:
        if len(asked) > 1:
            raise InputError("give either --saliency or --segmentation")
        if scores is not None or open_world:
            raise InputError(f"{asked[0]} names both folders, and takes neither a file of scores nor --open")
        _refuse_others(options, _OF_FOLDERS[asked[0]], f"{{}} has no meaning with {asked[0]}")
        if saliency is not None:
            _judge_maps(*saliency, _part(options, SaliencyRequest))
        elif segmentation is not None:
            _judge_segmentation(*segmentation, _part(options, SegmentationRequest))
        return
    if scores is None or not options.target or not options.score:
        lacking = "a file of scores" if scores is None else "--score" if options.target else "--target"
        raise InputError(f"{lacking} is missing; name it, or judge two folders with --saliency or --segmentation")
    if open_world:
        _refuse_others(options, OpenRequest, "{} belongs to a binary target and has no meaning with --open")
        _judge_open(scores, _part(options, OpenRequest))
    else:
        _refuse_others(options, EvaluateRequest, "{} needs --open")
        _judge_binary(scores, _part(options, EvaluateRequest))


def _refuse_others(options: _Options, kind: type[Request], sentence: str) -> None:
    """Refuse an option that was given and is none of this kind of request."""
    own = {field.name for field in fields(kind)}
    for field in fields(options):
        if field.name in own or getattr(options, field.name) == getattr(_NOTHING_ASKED, field.name):
            continue
        needed = [name for name, each in _OF_FOLDERS.items() if field.name in {own.name for own in fields(each)}]
        words = sentence if field.name in _OF_SCORES else f"{{}} needs {' or '.join(needed)}"
        raise InputError(words.format(f"--{option_name(field.name)}"))


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


def _judge_segmentation(predictions: Path, truth: Path, request: SegmentationRequest) -> None:
    from equipoise.report.segmentation_page import segmentation_table
    from equipoise.workflows.scores.segmentation import evaluate_segmentation

    outcome = evaluate_segmentation(predictions, truth, request, command=command_line())
    console.print(segmentation_table(outcome.report))
    print_path("report", outcome.folder / "report.html")
