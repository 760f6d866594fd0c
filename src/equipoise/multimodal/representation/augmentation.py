"""Views of an image that keep what is in it: what both of two embeddings of one image must agree on.

Colour jitter, flips and random crops, drawn for each image of a batch at once and applied to pixels in [0, 1], before
they are normalised for an encoder.

The strengths are those of the authors' code, but for two things. It jitters pixels that are normalised already, and the
clamp to [0, 1] inside takes most negative values away. And it flips up and down, which changes what an oriented detail
means: `vertical_flip` is off here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from equipoise.core.signature import checked
from equipoise.core.types import Fraction, NonNegative, Positive, ProperFraction, Range

Pixels: TypeAlias = Annotated[Float[Tensor, "n c h w"], Range(0, 1)]
HalfTurn: TypeAlias = Annotated[float, Range(0, 0.5)]


@checked
@dataclass(frozen=True, kw_only=True)
class DetailAugmentation:
    """A random view of each image; what is 0 or False is not done.

    Attributes:
        jitter: brightness, contrast and saturation by factors in 1 ± jitter.
        hue: turned by at most this share of the circle to either side, in [0, .5].
        flip: left and right with probability one half.
        vertical_flip: up and down with probability one half.
        least_crop: the crop's share of the area is between this and 1.
        ratio: width by height of the crop, each as a share of the image's, is between 1 / ratio and ratio.
        noise: standard deviation of Gaussian noise.

    Raises:
        ValueError: if a setting is out of range.

    >>> images = torch.rand(5, 3, 8, 8, generator=Generator().manual_seed(0))
    >>> DetailAugmentation()(images, Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """

    jitter: ProperFraction = 0.1
    hue: HalfTurn = 0.05
    flip: bool = True
    vertical_flip: bool = False
    least_crop: Fraction = 0.9
    ratio: Positive = 1.1
    noise: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise ValueError(f"ratio={self.ratio:g} must be at least 1, where crops have the shape of the image")

    @checked
    def __call__(self, images: Pixels, generator: Generator) -> Float[Tensor, "n c h w"]:
        """Views (n, c, h, w) in [0, 1] of images in [0, 1].

        Raises:
            ValueError: if a pixel is outside [0, 1]; saturation and hue of images that do not have 3 channels are left.
        """
        if self.jitter:
            images = self._jittered(images, generator)
        if self.hue and images.shape[1] == 3:
            turn = self.hue * (2 * _uniform((len(images), 1, 1), images, generator) - 1)
            images = turn_hue(images, turn)
        if self.flip or self.vertical_flip or self.least_crop < 1 or self.ratio > 1:
            images = self._moved(images, generator)
        if self.noise:
            drawn = torch.randn(images.shape, generator=generator, device=generator.device)
            images = images + self.noise * drawn.to(images)
        return images.clamp(0, 1)

    def _jittered(self, images: Tensor, generator: Generator) -> Tensor:
        factors = 1 + self.jitter * (2 * _uniform((3, len(images), 1, 1, 1), images, generator) - 1)
        images = (images * factors[0]).clamp(0, 1)
        grey = _grey(images)
        images = torch.lerp(grey.mean((2, 3), keepdim=True), images, factors[1]).clamp(0, 1)
        if images.shape[1] == 3:
            images = torch.lerp(_grey(images), images, factors[2]).clamp(0, 1)
        return images

    def _moved(self, images: Tensor, generator: Generator) -> Tensor:
        n = len(images)
        drawn = _uniform((6, n), images, generator)
        area = self.least_crop + (1 - self.least_crop) * drawn[0]
        ratio = torch.exp(math.log(self.ratio) * (2 * drawn[1] - 1))
        width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
        # A side that would be longer than the image is cut, but never to less than the least area.
        height = torch.maximum(height, (self.least_crop / width).clamp_max(1))
        width = torch.maximum(width, self.least_crop / height)
        left, top = (1 - width) * (2 * drawn[2] - 1), (1 - height) * (2 * drawn[3] - 1)
        side = torch.where((drawn[4] < 0.5) & torch.tensor(self.flip, device=images.device), -1.0, 1.0)
        up = torch.where((drawn[5] < 0.5) & torch.tensor(self.vertical_flip, device=images.device), -1.0, 1.0)
        zero = torch.zeros_like(width)
        matrix = torch.stack(
            [torch.stack([width * side, zero, left], 1), torch.stack([zero, height * up, top], 1)], 1
        ).to(images)
        grid = affine_grid(matrix, list(images.shape), align_corners=False)
        return grid_sample(images, grid, align_corners=False, padding_mode="border")


@checked
@dataclass(frozen=True)
class PixelNorm:
    """Pixels in [0, 1] as a network was trained to see them, (x − mean) / std by channel.

    Attributes:
        mean: of each channel, or one number for all.
        std: of each channel, or one number for all.

    Raises:
        ValueError: if a standard deviation is not above 0, or there are not as many as means.

    >>> PixelNorm()(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)).flatten()
    tensor([-1.,  0.,  1.])
    """

    mean: Sequence[float] = (0.5,)
    std: Sequence[Positive] = (0.5,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"std has {len(self.std)} channels, mean has {len(self.mean)}; one or more of each")

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalised images."""
        mean, std = (images.new_tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (images - mean) / std


def clip_pixels() -> PixelNorm:
    """What OpenAI's CLIP models were trained to see.

    >>> clip_pixels().std
    (0.26862954, 0.26130258, 0.27577711)
    """
    return PixelNorm((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def turn_hue(images: Float[Tensor, "n 3 h w"], turn: Float[Tensor, "n 1 1"]) -> Float[Tensor, "n 3 h w"]:
    """Images whose hue is turned by a share of the circle; lightest and darkest channel keep their values.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    >>> turn_hue(red, torch.tensor(1 / 3).reshape(1, 1, 1)).round(decimals=4).flatten()
    tensor([0., 1., 0.])
    """
    most, least = images.amax(1), images.amin(1)
    spread = most - least
    safe = torch.where(spread > 0, spread, 1.0)
    red, green, blue = images.unbind(1)
    sector = torch.where(
        most == red,
        (green - blue) / safe,
        torch.where(most == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = (sector + 6 * turn) % 6
    # The triangle wave of each channel over the circle of hues, 1 where the channel is the lightest.
    offsets = images.new_tensor([0.0, 4.0, 2.0])[:, None, None]
    wave = (((sector[:, None] + offsets) % 6 - 3).abs() - 1).clamp(0, 1)
    return least[:, None] + spread[:, None] * wave


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(like)
