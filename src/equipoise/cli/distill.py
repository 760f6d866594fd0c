"""`equipoise distill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, print_notice, print_path
from equipoise.workflows.distill.request import DistillRequest

if TYPE_CHECKING:
    from equipoise.report.language_page import LanguageReport

_DEFAULTS = DistillRequest()


def distill(
    teacher: str, student: str, data: Path, /, *, request: Annotated[DistillRequest, FIELDS] = _DEFAULTS
) -> None:
    """Train a small language model to say what a large one would.

    Parameters
    ----------
    teacher: str
        A folder with a causal language model and its tokenizer, or the name of one that is on this machine already.
    student: str
        Likewise; or sizes of one that is made anew in the teacher's form, such as 'layers=4,hidden=256'.
    data: Path
        A .txt file of running text, or a .jsonl file whose rows have text, messages, prompt and completion, instruction
        and output, or question and answer; perhaps with .gz behind it.
    """
    from equipoise.workflows.distill.distilling import distill_student

    with console.status("loading") as status:
        outcome = distill_student(
            teacher, student, data, request, command=command_line(), notice=print_notice, progress=status.update
        )
    print_learning(outcome.report)
    print_path(outcome.saved, outcome.folder / outcome.saved)
    print_path("report", outcome.folder / "report.html")


def print_learning(report: LanguageReport) -> None:
    """The measures before and after, and what they come to."""
    from equipoise.report.language_page import learning_verdict
    from equipoise.report.numbers import estimate, interval

    table = Table("on held-out texts", "before", "after", "change", "", box=None, header_style="dim", pad_edge=False)
    for one in report.measures:
        change = estimate(one.change, signed=True), interval(one.change, signed=True)
        table.add_row(one.name, estimate(one.before), estimate(one.after), *change)
    console.print(table)
    console.print(learning_verdict(report), highlight=False)
