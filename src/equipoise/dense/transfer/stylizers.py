"""Stylizers without networks: the moments of colours, their covariance, or the bands of a pyramid.

The pyramid takes an image apart into bands of ever coarser detail and a rest: with a_0 the image and a_{l+1} the mean
of 2 × 2 pixels, band l is a_l − up(a_{l+1}), `up` bilinear. The rest takes the style's mean and variance as in `adain`,
and a band b becomes

    (b − mean b) / e · std(style band) + mean(style band),    e = √(5 × 5 mean of (b − mean b)² + 1e-8)

Dividing by the local energy e gives flat regions as much texture as others have. Reconstructed: the paper does not name
its stylizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive
from equipoise.dense.transfer.statistics import (
    ChannelMoments,
    TextureMemory,
    channel_moments,
    colour_gaussian,
    with_colours,
    with_moments,
)
from equipoise.dense.transfer.types import Image, Maps, Texture

_LEAST_ENERGY, _BOX = 1e-8, 5


@checked
@dataclass(frozen=True)
class MomentStylizer:
    """Stylizer that gives each channel the texture's mean and standard deviation: `adain` on pixels.

    Attributes:
        eps: added to the variances.

    >>> import torch
    >>> image, texture = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.4, 0.6]]])
    >>> MomentStylizer()(image, texture).round(decimals=2)
    tensor([[[0.4000, 0.6000]]])
    """

    eps: Positive = 1e-5
    _memory: TextureMemory = field(default_factory=TextureMemory, init=False, repr=False, compare=False)

    @checked
    def __call__(self, content: Image, style: Texture) -> Maps:
        """Stylized image of the content's shape, not cut to [0, 1].

        Args:
            content: (..., C, H, W) in [0, 1].
            style: texture (C, h, w) in [0, 1].
        """
        return with_moments(content, self._memory.of(style, channel_moments), self.eps)


@checked
@dataclass(frozen=True)
class MongeStylizer:
    """Stylizer that gives the image the texture's colours and how they vary together: `monge_color_transfer`.

    Attributes:
        eps: added to the diagonals of the covariances.

    >>> import torch
    >>> image, texture = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.4, 0.6]]])
    >>> MongeStylizer()(image, texture).round(decimals=2)
    tensor([[[0.4000, 0.6000]]])
    """

    eps: Positive = 1e-6
    _memory: TextureMemory = field(default_factory=TextureMemory, init=False, repr=False, compare=False)

    @checked
    def __call__(self, content: Image, style: Texture) -> Maps:
        """Stylized image of the content's shape, not cut to [0, 1].

        Args:
            content: (..., C, H, W) in [0, 1].
            style: texture (C, h, w) in [0, 1].
        """
        return with_colours(content, self._memory.of(style, colour_gaussian), self.eps)


class _PyramidMoments(NamedTuple):
    bands: tuple[ChannelMoments, ...]
    rest: ChannelMoments


@checked
@dataclass(frozen=True)
class PyramidStylizer:
    """Stylizer that gives every band of a Laplacian pyramid the strength that it has in the texture.

    Carries over how coarse and how strong a texture is, which moments and colours of pixels do not tell. Fewer levels
    are used where the image or the texture has less than 2^levels pixels on a side.

    Attributes:
        levels: number of bands.
        eps: added to the variances of what is left below the bands.

    >>> import torch
    >>> image, texture = torch.zeros(1, 9, 7), torch.rand(1, 16, 16)
    >>> PyramidStylizer()(image, texture).shape
    torch.Size([1, 9, 7])
    """

    levels: Count = 3
    eps: Positive = 1e-5
    _memory: TextureMemory = field(default_factory=TextureMemory, init=False, repr=False, compare=False)

    @checked
    def __call__(self, content: Image, style: Texture) -> Maps:
        """Stylized image of the content's shape, cut to [0, 1].

        Args:
            content: (..., C, H, W) in [0, 1].
            style: texture (C, h, w) in [0, 1].
        """
        least = min(*content.shape[-2:], *style.shape[-2:])
        levels = min(self.levels, least.bit_length() - 1)
        wanted = self._memory.of(style, partial(_pyramid_moments, levels=levels), levels)
        bands, rest = laplacian_pyramid(content.reshape(-1, *content.shape[-3:]), levels)
        image = with_moments(rest, wanted.rest, self.eps)
        for band, moments in zip(reversed(bands), reversed(wanted.bands), strict=True):
            image = _up(image, band) + _with_energy(band, moments)
        return image.clamp(0, 1).reshape(content.shape)


def laplacian_pyramid(images: Tensor, levels: int) -> tuple[list[Tensor], Tensor]:
    """The bands of images (B, C, H, W) from fine to coarse, and what is left.

    An odd side is halved upwards, its last pixels averaged over those that there are.

    >>> bands, rest = laplacian_pyramid(torch.rand(1, 1, 5, 6), 2)
    >>> [tuple(each.shape[-2:]) for each in (*bands, rest)]
    [(5, 6), (3, 3), (2, 2)]
    """
    bands = []
    for _ in range(levels):
        coarse = avg_pool2d(images, 2, ceil_mode=True)
        bands.append(images - _up(coarse, images))
        images = coarse
    return bands, images


def _up(coarse: Tensor, like: Tensor) -> Tensor:
    return interpolate(coarse, like.shape[-2:], mode="bilinear", align_corners=False)


def _pyramid_moments(style: Tensor, levels: int) -> _PyramidMoments:
    bands, rest = laplacian_pyramid(style[None], levels)
    return _PyramidMoments(tuple(map(channel_moments, bands)), channel_moments(rest))


def _with_energy(band: Tensor, style: ChannelMoments) -> Tensor:
    centred = band - band.mean((-2, -1), keepdim=True)
    # Outside of the image there is nothing, so that a box at the border is a mean over fewer pixels.
    energy = avg_pool2d(centred**2, _BOX, 1, _BOX // 2, count_include_pad=False)
    return centred / (energy + _LEAST_ENERGY).sqrt() * style.variance.sqrt() + style.mean
