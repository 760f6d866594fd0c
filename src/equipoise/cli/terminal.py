"""What the commands share: consoles, the command as typed, and how request objects become options."""

from __future__ import annotations

import shlex
from pathlib import Path

from cyclopts import Parameter, default_name_transform
from rich.console import Console

console = Console()
errors = Console(stderr=True)
arguments: list[str] = []

# Options whose name differs from that of the Python argument.
_NAMES = {"all_claims": "all", "models": "model", "open_world": "open", "time_column": "time"}


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


def print_path(what: str, path: Path) -> None:
    """One line that says where something was written."""
    console.print(f"{what}: {path}", soft_wrap=True, highlight=False)
