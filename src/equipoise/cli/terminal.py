"""What the commands share: consoles, the command as typed, and how request objects become options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclopts import Parameter, default_name_transform
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

# Control characters but the end of a line, what turns the direction of text, and half characters.
_HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with every character that a terminal would obey written out.

    >>> visible("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _PlainStatus(Status):
    """What is being done, in one line of text; Rich would read markup in it whatever its console does."""

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(_one_line(status), **options)


def _one_line(words: RenderableType | None) -> Any:
    return Text(words.replace("\n", "\\n")) if isinstance(words, str) else words


class _VisibleConsole(Console):
    """A console to which names from data are text only: no markup, no control characters."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def status(self, status: RenderableType, **options: Any) -> Status:
        return _PlainStatus(_one_line(status), console=self, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


console = _VisibleConsole()
errors = _VisibleConsole(stderr=True)
arguments: list[str] = []

# Options whose name differs from that of the Python argument.
_NAMES = {
    "all_claims": "all",
    "dims": "dim",
    "lams": "lam",
    "models": "model",
    "open_world": "open",
    "time_column": "time",
}


def option_name(argument: str) -> str:
    """The option of a Python argument, without its dashes."""
    return default_name_transform(_NAMES.get(argument, argument))


EVERYWHERE = Parameter(name_transform=option_name, negative="", consume_multiple=True)
FIELDS = Parameter(name="*")
"""Annotates a request object whose fields are the options."""


def command_line() -> str:
    """What the user typed, for reports."""
    return shlex.join(["equipoise", *arguments])


def one_thread() -> None:
    """Small networks train faster on one thread than on several that wait for each other; boosters use all."""
    import torch

    torch.set_num_threads(1)


def print_problem(words: str) -> None:
    """One line on standard error."""
    errors.print("equipoise: " + words.replace("\n", "\\n"), style="red", soft_wrap=True, highlight=False)


def print_notice(words: str) -> None:
    """One line on standard error, of what is worth knowing and stops nothing."""
    errors.print("notice: " + words.replace("\n", "\\n"), style="yellow", soft_wrap=True, highlight=False)


def print_path(what: str, path: Path) -> None:
    """One line that says where something was written."""
    console.print(f"{what}: {path}", soft_wrap=True, highlight=False)
