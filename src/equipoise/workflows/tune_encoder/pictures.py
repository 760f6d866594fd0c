"""Pictures of a folder with what is known of them: classes by subfolder, details by a table; or the shapes world."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipoise.data.shapes import COLOURS, SHAPES, SIZES, SceneDistribution, ShapesWorld
from equipoise.workflows.errors import InputError

SHAPES_WORLD = "shapes"
_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
_LEAST, _OF_WORLD = 16, 1500
# The tiny models are trained on pictures of the first seeds.
_UNSEEN = 1_000_000


@dataclass(frozen=True)
class Pictures:
    """What is tuned on and judged by.

    Attributes:
        images: (n, 3, side, side) in [0, 1].
        classes: names of the classes; empty where there are not two of them.
        label: (n,) class of each picture; None without classes.
        factors: name → (n,) number of its value in each picture.
        values: name → the values by number.
    """

    images: Tensor
    classes: Sequence[str] = ()
    label: Tensor | None = None
    factors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)


def shapes_pictures(seed: int) -> Pictures:
    """Plain single objects of the shapes world: classes are shapes, details are colour and size."""
    plain = SceneDistribution(layout="single", p_concept=0.0, p_style=0.0)
    world = ShapesWorld(_OF_WORLD, seed=_UNSEEN + seed, returns=("image", "scene"), scenes=plain).tensors()
    objects = [scene.objects[0] for scene in world["scene"]]
    colours = list(COLOURS)
    return Pictures(
        world["image"],
        SHAPES,
        torch.tensor([SHAPES.index(each.shape) for each in objects]),
        {
            "colour": torch.tensor([colours.index(each.colour) for each in objects]),
            "size": torch.tensor([SIZES.index(each.size) for each in objects]),
        },
        {"colour": colours, "size": list(SIZES)},
    )


def read_pictures(folder: Path, side: int, table: Path | None) -> Pictures:
    """All pictures below a folder, each fitted into a square: the shorter side scaled, the longer one cut.

    Raises:
        InputError: if there are too few, one cannot be read, or the table does not go with them.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise InputError("Pillow is not installed; run `pip install 'equipoise[all]'`") from error
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of pictures; name one, or '{SHAPES_WORLD}' for the shapes world")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())
    if len(files) < _LEAST:
        raise InputError(
            f"{folder} holds {len(files)} pictures ({', '.join(sorted(_ENDINGS))}); at least {_LEAST} are needed"
        )
    images = np.empty((len(files), side, side, 3), np.float32)
    for place, file in enumerate(files):
        try:
            with Image.open(file) as picture:
                fitted = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
                images[place] = np.asarray(fitted, np.float32) / 255
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{file} cannot be read as a picture: {error}") from error
    names = [file.relative_to(folder).parts[0] if file.parent != folder else "" for file in files]
    classes = sorted(set(names))
    held = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    label = torch.tensor([classes.index(name) for name in names]) if len(classes) > 1 and "" not in classes else None
    factors, values = ({}, {}) if table is None else _read_factors(table, folder, files)
    return Pictures(held, classes if label is not None else (), label, factors, values)


def _read_factors(table: Path, folder: Path, files: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table} cannot be read: {error}") from error
    first = text.partition("\n")[0]
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in first else ","))
    if not rows or "file" not in rows[0]:
        raise InputError(f"{table} must have a column file, with names below {folder}, and rows")
    columns = [name for name in rows[0] if name not in ("file", None)]
    by_name = {str(row["file"]).replace("\\", "/"): row for row in rows}
    found = [by_name.get(file.relative_to(folder).as_posix()) for file in files]
    if missing := sum(row is None for row in found):
        absent = files[found.index(None)].relative_to(folder).as_posix()
        raise InputError(f"{table} has no row for {missing} of {len(files)} pictures, such as {absent!r}")
    factors, values = {}, {}
    for name in columns:
        cells = [str((row or {}).get(name) or "").strip() for row in found]
        if "" in cells:
            raise InputError(f"column {name!r} of {table} is empty for {cells.count('')} pictures; fill it or drop it")
        kinds = sorted(set(cells))
        if not 2 <= len(kinds) <= len(cells) // 2:
            raise InputError(
                f"column {name!r} of {table} has {len(kinds)} values in {len(cells)} pictures; a detail has two or "
                "more, each several times"
            )
        factors[name], values[name] = torch.tensor([kinds.index(cell) for cell in cells]), kinds
    return factors, values
