"""The pictures that are kept, as a folder of folders of links or copies; originals are never touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from equipoise.workflows.errors import InputError


def check_export(place: Path, folder: Path, output: Path) -> None:
    """Raise `InputError` unless a folder of pictures can be made at a place."""
    where, source, result = place.resolve(), folder.resolve(), output.resolve()
    here = Path.cwd().resolve()
    if where in (here, *here.parents):
        raise InputError(f"{place} is or holds the folder you work in; name a new folder for the pictures")
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise InputError(f"{place} exists already; name a new folder for the pictures")
    for other, what in ((source, f"the pictures {folder}"), (result, f"the output {output}")):
        if where == other or other in where.parents or where in other.parents:
            raise InputError(f"{place} and {what} lie in each other; name a folder beside it")


def export_pictures(place: Path, folder: Path, kept: Sequence[str], *, link: bool) -> None:
    """Make a folder with the pictures kept, each at its name below it, whole or not at all.

    Raises:
        InputError: if it cannot be made.
    """
    aside = place.with_name(f".{place.name}.equipoise-pictures")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        for name in kept:
            new, old = aside / name, (folder / name).resolve()
            new.parent.mkdir(parents=True, exist_ok=True)
            if link:
                os.symlink(old, new)
            else:
                shutil.copy2(old, new)
        aside.mkdir(exist_ok=True)
        if place.exists():
            place.rmdir()
        aside.rename(place)
    except OSError as error:
        raise InputError(f"{place} cannot be written: {error.strerror} ({error.filename})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
