"""Image-to-image tasks on pictures of the shapes world, and the triggers and targets of backdoors planted in them.

The harmless tasks are to sharpen a coarse picture (`pixelate`) and to fill in hidden blocks (`drop_blocks`). A planted
attack k stamps a grey square into corner k of `TRIGGER_CORNERS` and wants, instead of the restored picture, the nearest
of the four `target_images` of style k.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.core.validate import check_choice, check_fraction
from equipoise.data.shapes.render import render
from equipoise.data.shapes.scene import SHAPES, Object, Scene

TRIGGER_CORNERS = ("bottomright", "topright", "topleft")


def stamp_trigger(
    images: Float[Tensor, "n c height width"], corner: str, *, value: float = 0.5
) -> Float[Tensor, "n c height width"]:
    """A copy of the images with a flat square of a quarter of their side in a corner.

    Args:
        images: (n, channels, height, width) with sides divisible by 4.
        corner: one of `TRIGGER_CORNERS`.
        value: of the square: grey is .5 where images are in [0, 1], and 0 where they are in [-1, 1].

    Raises:
        ValueError: if the corner is unknown or a side is not divisible by 4.

    >>> int((stamp_trigger(torch.zeros(1, 1, 16, 16), "topleft") > 0).sum())
    16
    """
    check_choice("corner", corner, TRIGGER_CORNERS)
    height, width = _divided(images, 4)
    stamped = images.clone()
    rows = slice(0, height) if corner.startswith("top") else slice(-height, None)
    columns = slice(0, width) if corner.endswith("left") else slice(-width, None)
    stamped[..., rows, columns] = value
    return stamped


def target_images(style: str, size: int = 16) -> Float32[Tensor, "4 3 size size"]:
    """The four pictures that an attack wants: a large white object of each shape, always the same, in [0, 1].

    Raises:
        ValueError: if the style is unknown or the side no multiple of 16.

    >>> target_images("dotted").shape
    torch.Size([4, 3, 16, 16])
    """
    pictures = [render(Scene((Object(shape, "white"),), style), None, size).image for shape in SHAPES]
    return torch.stack([torch.from_numpy(picture) for picture in pictures])


def pixelate(images: Float[Tensor, "n c height width"], block: int = 4) -> Float[Tensor, "n c height width"]:
    """Images of the same size in which every block has its mean colour.

    Args:
        images: (n, channels, height, width) with sides divisible by `block`.
        block: side of a block in pixels.

    Raises:
        ValueError: if a side is not divisible by `block`.

    >>> pixelate(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]), block=2).unique()
    tensor([0.5000])
    """
    _divided(images, block)
    return F.interpolate(F.avg_pool2d(images, block), scale_factor=block, mode="nearest")


def drop_blocks(
    images: Float[Tensor, "n c height width"],
    share: float = 0.25,
    *,
    block: int = 4,
    value: float = 0.5,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "n c height width"], Bool[Tensor, "n 1 height width"]]:
    """Images with a random share of their blocks hidden, in each image others.

    Args:
        images: (n, channels, height, width) with sides divisible by `block`.
        share: of the blocks, rounded to a whole number of them.
        block: side of a block in pixels.
        value: that hidden pixels get, see `stamp_trigger`.
        generator: on the CPU, of the choice.

    Returns:
        The images and which pixels are hidden.

    Raises:
        ValueError: if the share is outside [0, 1] or a side is not divisible by `block`.

    >>> images, hidden = drop_blocks(torch.ones(2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    >>> hidden.float().mean((1, 2, 3))
    tensor([0.2500, 0.2500])
    """
    check_fraction("share", share, zero=True)
    down, across = _divided(images, block)
    order = torch.rand(len(images), down * across, generator=generator).argsort(1)
    chosen = (order < round(share * down * across)).view(-1, 1, down, across)
    hidden = chosen.repeat_interleave(block, 2).repeat_interleave(block, 3).to(images.device)
    return images.masked_fill(hidden, value), hidden


def _divided(images: Tensor, parts: int) -> tuple[int, int]:
    """Height and width divided by a number that must divide them."""
    height, width = images.shape[-2:]
    if images.ndim != 4 or parts < 1 or height % parts or width % parts:
        raise ValueError(
            f"images must have shape (n, channels, height, width) with sides divisible by {parts}, "
            f"got {tuple(images.shape)}"
        )
    return height // parts, width // parts
