"""Output folders that are whole or not there: written aside, and moved into place when everything is written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equipoise.workflows.errors import InputError


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """The folder to write, after saying before the work begins whether it can be written.

    Raises:
        InputError: if it is a file, or holds something and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"output {path} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(f"output folder {path} is not empty; name another with --output, or pass --overwrite")
    return path


@contextmanager
def staged_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` if the block ends well and vanishes if it does not.

    Raises:
        InputError: as `check_output`.
    """
    check_output(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield stage
        if path.exists():
            shutil.rmtree(path)
        stage.chmod(0o755)
        stage.rename(path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
