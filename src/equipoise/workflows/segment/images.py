"""Images with their label maps, read at one size and divided into parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipoise.workflows.errors import InputError
from equipoise.workflows.label_maps import class_names, label_map_files, read_label_map
from equipoise.workflows.segment.request import SegmentRequest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PARTS = ("train", "val", "test")
_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Labelled:
    """What was read.

    Attributes:
        stems: of the images that have a label map.
        files: of the images.
        truth: files of the label maps.
        images: (3, h, w) uint8, each resized so that its longer side is the request's size.
        labels: (h, w) int64, resized by the nearest pixel.
        part: (n,) 0 to learn from, 1 to choose by, 2 to judge by.
        names: of the classes.
        white: what the second class is called in the files: 255 in masks of black and white, else 1.
        notes: what was decided.
    """

    stems: tuple[str, ...]
    files: tuple[Path, ...]
    truth: tuple[Path, ...]
    images: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    part: np.ndarray
    names: tuple[str, ...]
    white: int
    notes: tuple[str, ...]

    def of(self, part: str) -> list[int]:
        """Places of the images of a part."""
        return np.flatnonzero(self.part == PARTS.index(part)).tolist()

    def pixels(self, part: str, ignore_index: int) -> Tensor:
        """(C,) pixels of each class in a part."""
        total = torch.zeros(len(self.names), dtype=torch.long)
        for k in self.of(part):
            held = self.labels[k][self.labels[k] != ignore_index]
            total += torch.bincount(held, minlength=len(self.names))
        return total


def image_files(folder: Path) -> dict[str, Path]:
    """The images of a folder by their stems, in the order of these.

    Raises:
        InputError: if there is no such folder, no image in it, or two of one stem.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name a folder of images")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            if path.stem in found:
                raise InputError(f"{folder} holds two images called {path.stem!r}; keep one")
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no image; wanted files that end in {', '.join(SUFFIXES)}")
    return found


def read_image(path: Path, size: int) -> tuple[Tensor, tuple[int, int]]:
    """An image (3, h, w) uint8 with sides that are multiples of 32, and its own height and width.

    Raises:
        InputError: if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error
    own = upright.height, upright.width
    height, width = resized_sides(own, size)
    small = upright.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).movedim(-1, 0), own


def resized_sides(own: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width with the longer one `size` and the other the nearest multiple of 32.

    >>> resized_sides((360, 480), 256)
    (192, 256)
    """
    scale = size / max(own)
    height, width = (max(_BLOCK, round(side * scale / _BLOCK) * _BLOCK) for side in own)
    return height, width


def read_labelled(images: Path, masks: Path, request: SegmentRequest) -> Labelled:
    """Read the images that have a label map, and divide them by chance.

    Raises:
        InputError: if folders do not match, a label is no class, or there are too few images.
    """
    pictures, truths = image_files(images), label_map_files(masks)
    stems = [stem for stem in pictures if stem in truths]
    notes = []
    if lone := len(pictures) - len(stems):
        notes.append(f"{lone} images have no label map of the same stem and were left out.")
    if lone := len(truths) - len(stems):
        notes.append(f"{lone} label maps have no image of the same stem and were left out.")
    if len(stems) < 5:
        raise InputError(
            f"{len(stems)} images of {images} have a label map of the same stem in {masks}, wanted 5 or more"
        )
    read = [read_image(pictures[stem], request.size) for stem in stems]
    labels = []
    for stem, (_, own) in zip(stems, read, strict=True):
        label = read_label_map(truths[stem])
        if tuple(label.shape) != own:
            raise InputError(
                f"{truths[stem]} has {label.shape[1]} × {label.shape[0]} pixels, and its image {own[1]} × {own[0]}"
            )
        labels.append(label)
    labels, names, white, said = _named(labels, request)
    small = [_nearest(label, image.shape[-2:]) for label, (image, _) in zip(labels, read, strict=True)]
    return Labelled(
        tuple(stems),
        tuple(pictures[stem] for stem in stems),
        tuple(truths[stem] for stem in stems),
        tuple(image for image, _ in read),
        tuple(small),
        _parts(len(stems), request),
        names,
        white,
        (*notes, *said),
    )


def _named(labels: list[Tensor], request: SegmentRequest) -> tuple[list[Tensor], tuple[str, ...], int, list[str]]:
    """Labels from 0, the names of the classes, what the second is called in the files, and what was decided."""
    held = {int(value) for label in labels for value in label.unique()}
    said, white = [], 1
    if held == {0, 255}:
        # Masks of black and white: nothing is ignored in them.
        labels = [label // 255 for label in labels]
        held, white = {0, 1}, 255
        said.append("The label maps hold 0 and 255 alone: 255 is the second class, and no pixel is ignored for it.")
    held -= {request.ignore_index}
    if request.classes is None:
        if held and max(held) > 4095:
            raise InputError(f"a label map holds the label {max(held)}; name the classes with --classes")
        names = [f"class {k}" for k in range(max(2, max(held, default=0) + 1))]
    else:
        names = class_names(request.classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"--classes names {len(names)} classes; at least 2 are needed, each once, in their order")
    wrong = sorted(value for value in held if not 0 <= value < len(names))
    if wrong:
        raise InputError(
            f"a label map holds the label {wrong[0]}, and there are {len(names)} classes; see --classes and "
            "--ignore-index"
        )
    if len(held) < 2:
        raise InputError(f"the label maps hold {len(held)} class beside the ignored label; at least two are needed")
    return labels, tuple(names), white, said


def _nearest(label: Tensor, sides: Sequence[int]) -> Tensor:
    rows, columns = (
        ((torch.arange(small) + 0.5) * own / small).long() for own, small in zip(label.shape, sides, strict=True)
    )
    return label[rows][:, columns]


def _parts(count: int, request: SegmentRequest) -> np.ndarray:
    order = np.random.default_rng(request.seed).permutation(count)
    test, val = (max(1, round(share * count)) for share in (request.test_size, request.val_size))
    if test + val >= count:
        raise InputError(f"val_size and test_size leave none of {count} images to learn from; make them smaller")
    part = np.zeros(count, dtype=np.int64)
    part[order[:test]], part[order[test : test + val]] = 2, 1
    return part
