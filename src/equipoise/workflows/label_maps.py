"""Folders of label maps: PNG, BMP or TIFF with an index for each pixel, or NumPy arrays of integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.workflows.errors import InputError

_SUFFIXES = (".png", ".npy", ".bmp", ".tif", ".tiff")


def label_map_files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their stems, in the order of these.

    Raises:
        InputError: if there is no such folder, no label map in it, or two of one stem.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name a folder of label maps")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            if path.stem in found:
                raise InputError(f"{folder} holds two label maps of {path.stem!r}; keep one")
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no label map; wanted files that end in {', '.join(_SUFFIXES)}")
    return found


def class_names(given: Sequence[str]) -> list[str]:
    """The names of classes, which may stand in a file, one a line.

    Raises:
        InputError: if the one name given is that of a text file, and there is none.
    """
    names = list(given)
    if len(names) == 1 and Path(names[0]).suffix and not Path(names[0]).is_file():
        raise InputError(
            f"--classes: there is no file {names[0]}; name a text with a class on each line, or the classes"
        )
    if len(names) == 1 and Path(names[0]).is_file():
        names = [line.strip() for line in Path(names[0]).read_text(encoding="utf-8").splitlines() if line.strip()]
    return names


def read_label_map(path: Path) -> torch.Tensor:
    """The labels (height, width) of a file, int64.

    Raises:
        InputError: if it cannot be read, or holds colours.
    """
    array: NDArray[Any]
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            from PIL import Image

            with Image.open(path) as picture:
                array = np.asarray(picture)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as a label map: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise InputError(
            f"{path} has shape {array.shape} of {array.dtype}; a label map has one whole number per pixel, so save "
            "class indices, not colours"
        )
    return torch.from_numpy(array.astype(np.int64))
