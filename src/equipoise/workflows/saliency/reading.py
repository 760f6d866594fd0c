"""Two folders of images: which map belongs to which mask, and their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.workflows.errors import InputError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


@dataclass(frozen=True)
class Pair:
    """A map and its mask.

    Attributes:
        name: what both files are called, without their endings.
        pred: file of the map.
        mask: file of the mask.
    """

    name: str
    pred: Path
    mask: Path


@dataclass(frozen=True)
class Matched:
    """What two folders hold.

    Attributes:
        pairs: by name.
        lone_maps: names of maps without a mask.
        lone_masks: names of masks without a map.
    """

    pairs: tuple[Pair, ...]
    lone_maps: tuple[str, ...]
    lone_masks: tuple[str, ...]


def match_files(maps: Path, masks: Path) -> Matched:
    """Match the images of two folders by their names without endings.

    Raises:
        InputError: if a folder is missing, holds no image or two of one name, or if nothing matches.
    """
    found, truth = _images(maps), _images(masks)
    common = sorted(found.keys() & truth.keys())
    if not common:
        raise InputError(
            f"no image of {maps} is called like one of {masks}, such as {next(iter(found))!r} and "
            f"{next(iter(truth))!r}; a map and its mask must have the same name but for the ending"
        )
    return Matched(
        tuple(Pair(name, found[name], truth[name]) for name in common),
        tuple(sorted(found.keys() - truth.keys())),
        tuple(sorted(truth.keys() - found.keys())),
    )


def read_map(path: Path) -> NDArray[np.float64]:
    """The grey values of an image, (height, width) in [0, 1].

    Raises:
        InputError: if it cannot be read or is out of range.
    """
    pixels = _pixels(path)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float64)
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise InputError(f"{path} holds values outside of [0, 1]; store probabilities")
        return pixels.astype(np.float64)
    return pixels / (255 if pixels.dtype == np.uint8 else 65535)


def read_mask(path: Path) -> tuple[NDArray[np.bool_], bool]:
    """A mask, and whether it holds two values at most.

    The larger value of two is the object, so that masks of 0 and 1 and of 0 and 255 read alike; of one value, anything
    but 0. An image of more values is cut at half of its range.
    """
    pixels = _pixels(path)
    if pixels.dtype == np.bool_:
        return pixels, True
    low, high = pixels.min(), pixels.max()
    if bool(((pixels == low) | (pixels == high)).all()):
        return pixels > (low if low < high else 0), True
    whole = 1 if pixels.dtype.kind == "f" else 255 if pixels.dtype == np.uint8 else 65535
    return pixels > whole / 2, False


def stamp(paths: Sequence[Path]) -> str:
    """Names, sizes and times of change of files."""
    stats = [path.stat() for path in paths]
    return " ".join(
        f"{path.resolve()}:{each.st_size}:{each.st_mtime_ns}" for path, each in zip(paths, stats, strict=True)
    )


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name a folder of images")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise InputError(f"{folder} holds both {found[path.stem].name!r} and {path.name!r}; leave one of them")
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(sorted(_SUFFIXES))})")
    return found


def _pixels(path: Path) -> NDArray[Any]:
    """One channel: booleans, uint8, uint16 or floating point."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode in ("1", "F", "L"):
                return np.array(image)
            if image.mode.startswith("I"):
                return np.array(image).astype(np.uint16)
            return np.array(image.convert("L"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error
