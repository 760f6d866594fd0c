"""`equipoise adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from equipoise.cli.distill import print_learning
from equipoise.cli.terminal import FIELDS, command_line, console, print_notice, print_path
from equipoise.workflows.adapt.request import AdaptRequest

_DEFAULTS = AdaptRequest()


def adapt(model: str, data: Path, /, *, request: Annotated[AdaptRequest, FIELDS] = _DEFAULTS) -> None:
    """Fine-tune a language model on texts by a small adapter, its own weights left as they are.

    Parameters
    ----------
    model: str
        A folder with a causal language model and its tokenizer, or the name of one that is on this machine already.
    data: Path
        A .txt file of running text, or a .jsonl file whose rows have text, messages, prompt and completion, instruction
        and output, or question and answer; perhaps with .gz behind it.
    """
    from equipoise.workflows.adapt.adapting import adapt_model

    with console.status("loading") as status:
        outcome = adapt_model(model, data, request, command=command_line(), notice=print_notice, progress=status.update)
    print_learning(outcome.report)
    print_path("adapter", outcome.folder / "adapter")
    print_path("report", outcome.folder / "report.html")
