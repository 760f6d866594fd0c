"""What estimators write: settings as JSON can hold them, and folders that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A setting without NumPy: scalars as Python's, arrays and tuples as lists, also inside a dictionary.

    >>> plain({"rounds": np.int64(3), "rates": np.array([0.5])})
    {'rounds': 3, 'rates': [0.5]}
    """
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


@contextmanager
def written_whole(folder: str | Path) -> Iterator[Path]:
    """A folder to write to; its files take their places in `folder` at the end, and none does where writing fails."""
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        yield Path(aside)
        folder.mkdir(exist_ok=True)
        for file in Path(aside).iterdir():
            os.replace(file, folder / file.name)
