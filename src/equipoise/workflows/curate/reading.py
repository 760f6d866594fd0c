"""Pictures in folders of identities, and files of their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.workflows.array_file import opened_arrays
from equipoise.workflows.errors import InputError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
_SIDE = 24


@dataclass(frozen=True)
class Pictures:
    """A folder of pictures.

    Attributes:
        folder: it.
        of: identity → names of its pictures, relative to the folder, with "/".
        loose: names of pictures that lie in no identity's folder.
    """

    folder: Path
    of: Mapping[str, tuple[str, ...]]
    loose: tuple[str, ...]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings from a file.

    Attributes:
        values: (n, d).
        files: names of pictures, or None.
        identity: names of identities, or None.
    """

    values: Tensor
    files: tuple[str, ...] | None
    identity: tuple[str, ...] | None


def find_pictures(folder: Path) -> Pictures:
    """The pictures below a folder, those of an identity in a folder of its name, however deep; hidden ones are left.

    Raises:
        InputError: if there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name a folder that holds a folder of pictures for each identity")
    of: dict[str, list[str]] = {}
    loose = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in _SUFFIXES or any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if len(parts) == 1:
            loose.append(parts[0])
        else:
            of.setdefault(parts[0], []).append("/".join(parts))
    if not of and not loose:
        raise InputError(f"{folder} holds no picture ({', '.join(sorted(_SUFFIXES))})")
    return Pictures(folder, {name: tuple(files) for name, files in of.items()}, tuple(loose))


def read_embeddings(path: Path) -> Embeddings:
    """Embeddings with the names of their pictures.

    An npz file holds `embeddings` (n, d), and perhaps `files` (n,) and `identity` (n,). A Parquet file holds a column
    `embedding` of lists, or numbers in every column but `file` and `identity`.

    Raises:
        InputError: if the file is not of this form.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        found = _from_parquet(path) if path.suffix.lower() == ".parquet" else _from_npz(path)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a file of embeddings: {error}") from error
    values, files, identity = found
    if values.ndim != 2 or not len(values) or values.dtype.kind not in "fiu":
        raise InputError(f"{path} must hold embeddings (n, d) as numbers, got {values.dtype} of shape {values.shape}")
    for name, column in (("files", files), ("identity", identity)):
        if column is not None and len(column) != len(values):
            raise InputError(f"{path} holds {len(values)} embeddings and {len(column)} {name}; they must be as many")
    tensor = torch.from_numpy(
        np.ascontiguousarray(values, dtype=np.float64 if values.dtype == np.float64 else np.float32)
    )
    if not bool(torch.isfinite(tensor).all()) or bool((tensor == 0).all(1).any()):
        raise InputError(f"{path} holds embeddings with NaN or infinity, or rows of zeros; leave them out")
    return Embeddings(tensor, files, identity)


def small_copies(paths: Sequence[Path]) -> tuple[Tensor, dict[int, str]]:
    """Grey copies of 24 × 24 pixels less their mean, one a row, and why some pictures have none.

    Two pictures are alike by them where light and dark lie alike; they know nothing of who is shown.
    """
    from PIL import Image, ImageOps

    rows, wrong = np.zeros((len(paths), _SIDE**2), dtype=np.float32), {}
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(upright.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)
        except Exception as error:  # a broken file fails in whatever way its decoder does
            wrong[number] = f"cannot be read as an image: {error}"
            continue
        rows[number] = (pixels - pixels.mean()).ravel() / 255
        if float(np.abs(rows[number]).max()) < 1e-4:
            wrong[number] = "is of one colour"
    return torch.from_numpy(rows), wrong


def _from_npz(path: Path) -> tuple[NDArray[Any], tuple[str, ...] | None, tuple[str, ...] | None]:
    with opened_arrays(path) as held:
        if "embeddings" not in held.files:
            raise InputError(f"{path} has no array 'embeddings', only {', '.join(map(repr, held.files))}")
        columns = [held[name].tolist() if name in held.files else None for name in ("files", "identity")]
        files, identity = (None if column is None else tuple(map(str, column)) for column in columns)
        return held["embeddings"], files, identity


def _from_parquet(path: Path) -> tuple[NDArray[Any], tuple[str, ...] | None, tuple[str, ...] | None]:
    import pandas as pd

    frame = pd.read_parquet(path)
    names = [tuple(map(str, frame[name])) if name in frame else None for name in ("file", "identity")]
    if "embedding" in frame:
        return np.stack(frame["embedding"].to_list()), names[0], names[1]
    return frame.drop(columns=["file", "identity"], errors="ignore").to_numpy(), names[0], names[1]
