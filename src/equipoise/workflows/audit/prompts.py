"""Prompts to audit with: a text with one on each line, or a table with a group for each."""

from __future__ import annotations

import csv
from pathlib import Path

from equipoise.workflows.errors import InputError

_TABLES = {".csv": ",", ".tsv": "\t"}


def read_prompts(path: Path) -> tuple[list[str], list[str] | None]:
    """The prompts of a file in UTF-8, and their groups where it has a column of them.

    Raises:
        InputError: if the file cannot be read or holds no prompt.
    """
    groups: list[str] | None = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix.lower() in _TABLES:
                reader = csv.DictReader(stream, delimiter=_TABLES[path.suffix.lower()])
                names = reader.fieldnames or []
                if "prompt" not in names:
                    raise InputError(f"{path} has no column prompt, only {', '.join(names)}")
                rows = [row for row in reader if (row["prompt"] or "").strip()]
                prompts = [row["prompt"].strip() for row in rows]
                if "group" in names:
                    groups = [(row["group"] or "").strip() or "other" for row in rows]
            else:
                prompts = [line.strip() for line in stream if line.strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not prompts:
        raise InputError(f"{path} holds no prompt; write one on each line, or a table with the column prompt")
    return prompts, groups
