"""Random views of images, all of a batch at once and on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Probability, ProperFraction
from equipoise.semisup.views.draws import normal, part_of, symmetric, uniform

_BYTE = 255


@checked
@dataclass(frozen=True)
class ImageAugmentation:
    """A random view of each image, drawn independently; what is 0 or False is not done.

    Images in bytes (uint8, 0 to 255) are changed as those in [0, 1] would be, and views of them are bytes again.

    Attributes:
        rotation: at most by so many radians to either side.
        scale: factor of size in 1 ± scale.
        shift: at most by so much along each axis, where the image reaches from −1 to 1.
        flip: left and right with probability ½.
        intensity: factor of all pixels in 1 ± intensity.
        contrast: factor in 1 ± contrast of the distance to the image's mean.
        noise: standard deviation of Gaussian noise, in the unit of the pixels; of bytes as a share of 255.
        erase: side of a square that is set to 0, as a share of the shorter side of the image.

    Raises:
        ValueError: if a setting is out of range.

    >>> images = torch.rand(5, 3, 8, 8, generator=Generator().manual_seed(0))
    >>> ImageAugmentation.strong()(images, Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """

    rotation: NonNegative = 0.0
    scale: ProperFraction = 0.0
    shift: NonNegative = 0.0
    flip: bool = False
    intensity: NonNegative = 0.0
    contrast: NonNegative = 0.0
    noise: NonNegative = 0.0
    erase: Probability = 0.0

    @classmethod
    def weak(cls, *, flip: bool = False) -> ImageAugmentation:
        """Small motions: rotation by .05, scale by 5 %, shift by .1."""
        return cls(rotation=0.05, scale=0.05, shift=0.1, flip=flip)

    @classmethod
    @checked
    def strong(cls, level: Probability = 0.6, *, flip: bool = False) -> ImageAugmentation:
        """Large motions, changes of intensity, noise and an erased square, growing with the level in [0, 1].

        For pixels in [0, 1]: rotation by .5 level, scale and shift by .25 level, intensity by .5 level, noise of .15
        level, a square of 3/8 of the side.
        """
        return cls(
            rotation=0.5 * level,
            scale=0.25 * level,
            shift=0.25 * level,
            flip=flip,
            intensity=0.5 * level,
            noise=0.15 * level,
            erase=0.375,
        )

    @checked
    def __call__(
        self, batch: Float[Tensor, "n c h w"] | UInt8[Tensor, "n c h w"], generator: Generator
    ) -> Float[Tensor, "n c h w"] | UInt8[Tensor, "n c h w"]:
        """Views of images (n, channels, height, width)."""
        if batch.dtype is torch.uint8:
            views = self._viewed(batch.float() / _BYTE, generator)
            return (views * _BYTE).round_().clamp_(0, _BYTE).to(torch.uint8)
        return self._viewed(batch, generator)

    def _viewed(self, batch: Tensor, generator: Generator) -> Tensor:
        if self.rotation or self.scale or self.shift or self.flip:
            batch = self._moved(batch, generator)
        one = (len(batch), 1, 1, 1)
        if self.contrast:
            mean = batch.mean((1, 2, 3), keepdim=True)
            batch = mean + (batch - mean) * (1 + symmetric(self.contrast, one, batch, generator))
        if self.intensity:
            batch = batch * (1 + symmetric(self.intensity, one, batch, generator))
        if self.noise:
            batch = batch + self.noise * normal(batch.shape, batch, generator)
        return self._erased(batch, generator) if self.erase else batch

    def _moved(self, batch: Tensor, generator: Generator) -> Tensor:
        n, _, h, w = batch.shape
        angle = symmetric(self.rotation, (n,), batch, generator)
        size = 1 + symmetric(self.scale, (n,), batch, generator)
        shift = symmetric(self.shift, (n, 2), batch, generator)
        side = torch.ones_like(angle)
        if self.flip:
            side = torch.where(uniform((n,), batch, generator) < 0.5, -side, side)
        # A turn of pixels, also where they are not as many in both directions: the grid is from −1 to 1 along each.
        cos, sin = angle.cos() / size, angle.sin() / size
        matrix = torch.stack(
            [
                torch.stack([side * cos, -sin * h / w, shift[:, 0]], 1),
                torch.stack([side * sin * w / h, cos, shift[:, 1]], 1),
            ],
            1,
        )
        grid = affine_grid(matrix, list(batch.shape), align_corners=False)
        return grid_sample(batch, grid, align_corners=False)

    def _erased(self, batch: Tensor, generator: Generator) -> Tensor:
        n, _, h, w = batch.shape
        side = part_of(min(h, w), self.erase)
        inside = []
        for length in (h, w):
            start = (uniform((n,), batch, generator) * (length - side + 1)).long().clamp_max(length - side)[:, None]
            place = torch.arange(length, device=batch.device)
            inside.append((place >= start) & (place < start + side))
        return batch.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
