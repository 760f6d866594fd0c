"""Models that are trained here once and kept on disk, under a name that holds the hash of their recipe."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept_folder(name: str, write: Callable[[Path], None], cache_dir: str | Path | None = None) -> Path:
    """A folder in the cache; it is written if it is not there yet.

    Args:
        name: of the folder, with a hash of all that decides what is in it.
        write: fills an empty folder.
        cache_dir: where models are kept; by default `equipoise` in the user's cache folder (`XDG_CACHE_HOME`, or
            `~/.cache`).

    Returns:
        The folder. A run that is cut off, or a second one beside it, leaves no half of one.

    Raises:
        OSError: if the folder cannot be written.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equipoise"
    folder = Path(cache_dir or root) / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix="writing-"))
        try:
            write(aside)
            os.replace(aside, folder)
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if not (isinstance(error, OSError) and folder.exists()):
                raise
    return folder
