"""Pixels of one class from another image, laid over an image and its label map.

The whole frame that holds them is resized and placed; everything but the class is transparent. Images are resized
bilinearly with centres of pixels at ½, masks by the pixel ⌊i · H' / h⌋ (code). A cut-out of the frame around the class
gives the same pixels where it reaches far enough for the interpolation at its rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Fraction, Whole


class Pasted(NamedTuple):
    """What a paste gives.

    Attributes:
        image: (channels, H, W).
        label: (H, W).
    """

    image: Tensor
    label: Tensor


@dataclass(frozen=True)
class Cutout:
    """A class cut out of a frame.

    Attributes:
        image: (channels, rows, columns), the part of the frame that its pixels need when resized.
        mask: (rows', columns') bool, the rectangle around the class, at the same upper left corner.
        top: row of that corner in the frame.
        left: column of it.
        height: of the frame.
        width: of the frame.
    """

    image: Tensor
    mask: Tensor
    top: int
    left: int
    height: int
    width: int

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(each.numel() * each.element_size() for each in (self.image, self.mask))


@checked
def paste_class_patch(
    image: Float[Tensor, "channels height width"] | UInt8[Tensor, "channels height width"],
    label: Integer[Tensor, "height width"],
    stored_image: Float[Tensor, "channels stored_height stored_width"]
    | UInt8[Tensor, "channels stored_height stored_width"],
    stored_mask: Bool[Tensor, "stored_height stored_width"] | Integer[Tensor, "stored_height stored_width"],
    class_id: Whole,
    resize_ratio: Fraction = 1.0,
    top: Whole = 0,
    left: Whole = 0,
) -> Pasted:
    """Lay the masked pixels of a stored frame over an image, and their class over its label map; nothing is changed.

    Args:
        image: (channels, H, W).
        label: (H, W) class indices.
        stored_image: (channels, H', W').
        stored_mask: (H', W') True or not 0 where the class is.
        class_id: what the label becomes there.
        resize_ratio: the frame is resized to ⌊ratio · H'⌋ × ⌊ratio · W'⌋, at least one and at most the image.
        top: row of the image where the resized frame begins.
        left: column of it.

    Raises:
        ValueError: if the frame does not fit there, or one image is of bytes (uint8) and the other is not.

    >>> image, label = torch.zeros(1, 2, 2), torch.zeros(2, 2, dtype=torch.long)
    >>> mask = torch.tensor([[True, False], [False, False]])
    >>> paste_class_patch(image, label, torch.ones(1, 2, 2), mask, 3).label
    tensor([[3, 0],
            [0, 0]])
    """
    if (image.dtype is torch.uint8) != (stored_image.dtype is torch.uint8):
        raise ValueError(
            f"image is {image.dtype} and stored_image {stored_image.dtype}, whose scale of pixels differs; convert one "
            "of them, such as image.float() / 255"
        )
    height, width = stored_mask.shape
    whole = Cutout(stored_image, stored_mask != 0, 0, 0, height, width)
    return paste_cutout(image, label, whole, class_id, resize_ratio, top, left)


def cut_out(image: Tensor, mask: Tensor, resize_ratio: float) -> Cutout:
    """The class of a mask that is somewhere True, copied, with the rim that resizing by the ratio needs.

    >>> mask = torch.zeros(5, 5, dtype=torch.bool)
    >>> mask[1:3, 2] = True
    >>> cut_out(torch.zeros(3, 5, 5), mask, 1.0).mask.shape
    torch.Size([2, 1])
    """
    spans, ends = [], []
    for axis in (1, 0):
        held = mask.any(axis).nonzero().squeeze(1)
        first, last = int(held[0]), int(held[-1]) + 1
        size = mask.shape[1 - axis]
        step = size / resized_length(size, resize_ratio, size)
        spans.append(slice(first, last))
        # The taps of a pixel begin up to (step − 1) / 2 behind the one that its mask is read at.
        ends.append(slice(first, min(size, last + int((step - 1) / 2) + 2)))
    return Cutout(
        image[:, ends[0], ends[1]].detach().clone(),
        mask[spans[0], spans[1]].clone(),
        spans[0].start,
        spans[1].start,
        *mask.shape,
    )


def resized_length(length: int, ratio: float, most: int) -> int:
    """How long a side becomes: rounded down, at least 1 and at most `most`.

    >>> resized_length(512, 0.4, 512)
    204
    """
    return min(max(1, int(ratio * length)), most)


def paste_cutout(
    image: Tensor, label: Tensor, cutout: Cutout, class_id: int, resize_ratio: float, top: int, left: int
) -> Pasted:
    """`paste_class_patch` of what was cut out of a frame.

    >>> mask = torch.tensor([[True, False], [False, False]])
    >>> cutout = cut_out(torch.ones(1, 2, 2), mask, 1.0)
    >>> paste_cutout(torch.zeros(1, 2, 2), torch.zeros(2, 2).long(), cutout, 3, 1.0, 1, 0)
    Traceback (most recent call last):
    ValueError: top=1 leaves 1 rows for a frame of 2; it may be 0 at most
    """
    sides = []
    for name, unit, start, length, size, first, span in (
        ("top", "rows", top, cutout.height, image.shape[1], cutout.top, cutout.mask.shape[0]),
        ("left", "columns", left, cutout.width, image.shape[2], cutout.left, cutout.mask.shape[1]),
    ):
        new = resized_length(length, resize_ratio, size)
        if start + new > size:
            raise ValueError(
                f"{name}={start} leaves {max(0, size - start)} {unit} for a frame of {new}; it may be {size - new} "
                "at most"
            )
        sides.append(_Side.of(length, new, first, span, start, image.device))
    rows, columns = sides
    image, label = image.clone(), label.clone()
    if not len(rows.near) or not len(columns.near):
        return Pasted(image, label)
    mask = cutout.mask.to(image.device)[rows.near][:, columns.near]
    source = cutout.image.to(image.device)
    source = source if source.is_floating_point() else source.float()
    source = columns.interpolated(rows.interpolated(source, 1), 2)
    if not image.is_floating_point():
        source = source.round()
    part = image[:, rows.place, columns.place]
    image[:, rows.place, columns.place] = torch.where(mask, source.to(image.dtype), part)
    label[rows.place, columns.place] = label[rows.place, columns.place].masked_fill(mask, class_id)
    return Pasted(image, label)


class _Side(NamedTuple):
    """One side of a resized cut-out: where it comes to lie, and what each new row or column is made of."""

    place: slice
    near: Tensor
    low: Tensor
    weight: Tensor

    @classmethod
    def of(cls, length: int, new: int, first: int, span: int, start: int, device: torch.device) -> _Side:
        """Of a frame's side of `length` that becomes `new` and begins at `start`, with the class from `first` on."""
        # Of i, ⌊i · length / new⌋ lies in the span.
        begin, end = -(-first * new // length), -(-(first + span) * new // length)
        at = torch.arange(begin, end, device=device)
        centre = ((at.double() + 0.5) * (length / new) - 0.5).clamp_min(0)
        low = centre.long().clamp_max(length - 1)
        return cls(slice(start + begin, start + end), at * length // new - first, low - first, centre - low)

    def interpolated(self, source: Tensor, dim: int) -> Tensor:
        last = source.shape[dim] - 1
        low, high = (source.index_select(dim, at.clamp_max(last)) for at in (self.low, self.low + 1))
        weight = self.weight.to(source.dtype).view(-1, *[1] * (source.ndim - 1 - dim))
        return low + (high - low) * weight
