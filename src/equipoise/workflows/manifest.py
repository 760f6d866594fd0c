"""The list of files that a program wrote into a folder, with their SHA-256: what is ours, and whether it is whole.

It tells a folder damaged by accident from a sound one, and a folder of ours from one of the user's. It is no signature:
whoever can change a file can change the list too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath

from equipoise import __version__
from equipoise.workflows.errors import InputError

MANIFEST = "manifest.json"
_DIGEST = "sha256"


def write_manifest(folder: Path) -> None:
    """List every file below the folder in its `manifest.json`."""
    files = {name: _digest(folder / name) for name in sorted(_files(folder) - {MANIFEST})}
    text = json.dumps({"equipoise": __version__, _DIGEST: files}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_manifest(folder: Path) -> None:
    """Hold the files against the list.

    Raises:
        InputError: if there is no list, it cannot be read, or a listed file is missing or has changed.
    """
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder / MANIFEST} is missing; copy the folder again")
    listed = _listed(folder)
    if listed is None:
        raise InputError(f"{folder / MANIFEST} is damaged; copy the folder again")
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing; copy the folder again")
        if _digest(folder / name) != digest:
            raise InputError(f"{folder / name} was changed or damaged since it was written; copy the folder again")


def foreign_files(folder: Path) -> list[str] | None:
    """The files below the folder that its list does not name; None where there is no list of this program."""
    listed = _listed(folder)
    return None if listed is None else sorted(_files(folder) - set(listed) - {MANIFEST})


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _listed(folder: Path) -> dict[str, str] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(found["equipoise"], str) and all(map(_inside, found[_DIGEST])):
            return dict(found[_DIGEST].items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return None


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
