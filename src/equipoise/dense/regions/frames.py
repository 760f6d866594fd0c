"""Masks to frames: the bounding box of every object, and what lies in none of them.

An object is a connected region of a mask, or one id of a map of instances. Boxes are half-open, (top, bottom, left,
right), and may overlap; the background frame is the complement of their union.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Int64, Integer
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Whole
from equipoise.dense.regions.types import SalientMask

Boxes: TypeAlias = NDArray[np.int64]
"""(K, 4) boxes, rows of (top, bottom, left, right)."""
Connectivity: TypeAlias = Literal[4, 8]
Crop: TypeAlias = tuple[slice, slice]


class MaskObjects(NamedTuple):
    """The objects of one mask.

    Attributes:
        boxes: (K, 4).
        areas: (K,) pixels of each object.
    """

    boxes: Boxes
    areas: NDArray[np.int64]


@checked
def object_frames(mask: SalientMask, min_area: Whole = 0, connectivity: Connectivity = 4) -> Int64[Tensor, "objects 4"]:
    """Bounding boxes of the connected objects of a mask.

    Args:
        mask: (height, width) in {0, 1} or boolean.
        min_area: objects of fewer pixels are dropped; if all are, the largest stays, or the largest where several are.
        connectivity: 4 where pixels touch at their sides, 8 where corners count too.

    Returns:
        (K, 4) half-open boxes (top, bottom, left, right), in the order of each object's first pixel, row by row. No
        rows where the mask is empty. An object within the box of another has a box of its own.

    Needs scipy.

    >>> mask = torch.zeros(6, 8, dtype=torch.long)
    >>> mask[1:3, 1:5] = 1
    >>> mask[4, 6] = 1
    >>> object_frames(mask)
    tensor([[1, 3, 1, 5],
            [4, 5, 6, 7]])

    Source: Li et al. (ICML 2024), Section 4; connectivity as in the authors' code (reconstructed: the rule for masks of
    small objects only).
    """
    found = find_objects(mask.detach().cpu().numpy() > 0, min_area, connectivity)
    return torch.from_numpy(found.boxes).to(mask.device)


@checked
def instance_frames(instances: Integer[Tensor, "height width"], min_area: Whole = 0) -> Int64[Tensor, "objects 4"]:
    """Bounding boxes of the instances of a map of ids, where touching objects are told apart.

    Args:
        instances: (height, width) 0 for background, any positive id for the pixels of one object.
        min_area: as in `object_frames`.

    Returns:
        (K, 4) half-open boxes (top, bottom, left, right), by increasing id. Parts of one id share a box.

    Raises:
        ValueError: if an id is negative.

    Needs scipy.

    >>> instance_frames(torch.tensor([[7, 7, 3], [0, 7, 3]]))
    tensor([[0, 2, 2, 3],
            [0, 2, 0, 2]])
    """
    if int(instances.min()) < 0:
        raise ValueError(f"instances holds the id {int(instances.min())}; 0 is background and ids are positive")
    ids, labels = np.unique(instances.cpu().numpy(), return_inverse=True)
    labels = labels.reshape(instances.shape) + (0 if ids[0] == 0 else 1)
    return torch.from_numpy(_labelled(labels, min_area).boxes).to(instances.device)


def find_objects(mask: NDArray[np.bool_], min_area: int = 0, connectivity: int = 4) -> MaskObjects:
    """`object_frames` of a boolean array, with areas."""
    from scipy import ndimage

    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return _labelled(np.zeros((1, 1), dtype=np.int64), min_area)
    # Nothing lies outside of the box of all objects.
    top, left = int(rows[0]), int(columns[0])
    inside = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    labels, _ = ndimage.label(inside, structure=None if connectivity == 4 else np.ones((3, 3)))
    boxes, areas = _labelled(labels, min_area)
    return MaskObjects(boxes + np.array([top, top, left, left]), areas)


def crops(boxes: Boxes) -> list[Crop]:
    """The slices of boxes."""
    return [(slice(top, bottom), slice(left, right)) for top, bottom, left, right in boxes.tolist()]


def _labelled(labels: NDArray[np.integer], min_area: int) -> MaskObjects:
    """Boxes and areas of labels 1..K, all of which occur."""
    from scipy import ndimage

    areas = np.bincount(labels.ravel())[1:]
    if not len(areas):
        return MaskObjects(np.zeros((0, 4), dtype=np.int64), areas)
    boxes = np.array([(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(labels)], dtype=np.int64)
    kept = areas >= min_area
    if not kept.any():
        kept = areas == areas.max()
    return MaskObjects(boxes[kept], areas[kept])
