"""New pictures of an identity from those it has: turned, shifted, recoloured, blurred, each drawn anew.

"Hybrid Generative Fusion", ICCV workshops 2025: the list of changes, their ranges and chances as in the authors' code;
the order of colour changes is fixed here, hue is turned in the plane of the two colour differences (YIQ), and what a
turn uncovers repeats the border.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

from equipoise.core.settings import HasSettings
from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty, NonNegative, Probability, ProperFraction, Range

Pictures: TypeAlias = Annotated[Float[Tensor, "n 3 h w"], Range(0, 1), MayBeEmpty()]
_GREY = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class IdentityAugmentation(HasSettings):
    """Changed copies of pictures that show whom the picture shows.

    Args:
        flip: chance of a mirror image.
        jitter: chance of other colours.
        colours: most change of brightness, contrast and saturation, as a factor of 1 ± this, and of hue, in turns.
        grey: chance of a grey picture.
        affine: chance of a turn, shift, scale and shear at once.
        degrees: most turn of it.
        shift: most shift of it, as a share of each side.
        scale: least and largest factor of it.
        shear: most shear of it, in degrees.
        rotate: chance of another turn by at most `turn`.
        turn: in degrees.
        blur: chance of a Gaussian blur over 3 × 3 pixels.
        sigma: least and largest standard deviation of it, in pixels.
        halve: chance of being scaled to half the size and back.

    >>> pictures = torch.rand(2, 3, 8, 8, generator=Generator().manual_seed(0))
    >>> IdentityAugmentation()(pictures, Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """

    @checked
    def __init__(
        self,
        flip: Probability = 0.5,
        jitter: Probability = 0.8,
        colours: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
        grey: Probability = 0.2,
        affine: Probability = 0.5,
        degrees: NonNegative = 10.0,
        shift: ProperFraction = 0.05,
        scale: Sequence[float] = (0.95, 1.05),
        shear: NonNegative = 5.0,
        rotate: Probability = 0.5,
        turn: NonNegative = 5.0,
        blur: Probability = 1.0,
        sigma: Sequence[float] = (0.1, 2.0),
        halve: Probability = 1.0,
    ) -> None:
        if len(colours) != 4 or not all(0 <= each <= 1 for each in colours):
            raise ValueError(f"colours={colours!r} must be four numbers in [0, 1]")
        for name, pair in (("scale", scale), ("sigma", sigma)):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] < math.inf:
                raise ValueError(f"{name}={pair!r} must be two numbers with 0 < least <= largest")
        self.flip, self.jitter, self.colours, self.grey = flip, jitter, colours, grey
        self.affine, self.degrees, self.shift, self.scale, self.shear = affine, degrees, shift, scale, shear
        self.rotate, self.turn, self.blur, self.sigma, self.halve = rotate, turn, blur, sigma, halve

    @checked
    def __call__(self, images: Pictures, generator: Generator | None = None) -> Pictures:
        """A changed copy of each picture, drawn for each by itself.

        Args:
            images: (n, 3, h, w) in [0, 1].
            generator: of the draws, on the processor.

        Raises:
            ValueError: if the pictures have another form, or values outside of [0, 1].
        """
        if not len(images):
            return images
        draw = _Draws(len(images), images, generator)
        x = draw.some(self.flip, images, lambda x: x.flip(-1))
        x = draw.some(self.jitter, x, lambda x: _jittered(x, draw, self.colours))
        x = draw.some(self.grey, x, lambda x: _grey(x).expand_as(x))
        scale = draw.between(*self.scale)
        moved = [draw.around(each) for each in (self.degrees, self.shear, self.shift, self.shift)]
        x = draw.some(self.affine, x, lambda x: _warped(x, moved[0], moved[1], moved[2], moved[3], scale))
        none, same = torch.zeros_like(scale), torch.ones_like(scale)
        turned = draw.around(self.turn)
        x = draw.some(self.rotate, x, lambda x: _warped(x, turned, none, none, none, same))
        sigma = draw.between(*self.sigma)
        x = draw.some(self.blur, x, lambda x: _blurred(x, sigma))
        x = draw.some(self.halve, x, _halved)
        return x.clamp(0, 1)

    def one(self, image: Float[Tensor, "3 h w"], seed: int) -> Float[Tensor, "3 h w"]:
        """A changed copy of one picture, the same for the same seed: an augmenter of `IdentityDatasetBuilder`."""
        return self(image[None], Generator().manual_seed(seed))[0]


class _Draws:
    """Random numbers, one for each picture, in its dtype and on its device."""

    def __init__(self, n: int, like: Tensor, generator: Generator | None) -> None:
        self.n, self.like, self.generator = n, like, generator

    def between(self, low: float, high: float) -> Tensor:
        drawn = torch.rand(self.n, generator=self.generator, dtype=torch.float64)
        return (low + (high - low) * drawn).to(self.like)

    def around(self, most: float) -> Tensor:
        return self.between(-most, most)

    def some(self, chance: float, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Changed pictures where a draw falls below the chance, the others as they are."""
        chosen = self.between(0.0, 1.0) < chance
        return torch.where(chosen[:, None, None, None], change(x), x)


def _grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)


def _jittered(x: Tensor, draw: _Draws, colours: Sequence[float]) -> Tensor:
    brightness, contrast, saturation, hue = (draw.around(each)[:, None, None, None] for each in colours)
    x = (x * (1 + brightness)).clamp(0, 1)
    mean = _grey(x).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * (1 + contrast)).clamp(0, 1)
    x = (_grey(x) + (x - _grey(x)) * (1 + saturation)).clamp(0, 1)
    to_yiq = torch.tensor(_TO_YIQ, dtype=torch.float64)
    y, i, q = torch.einsum("ab,nbhw->anhw", to_yiq.to(x), x)
    cos, sin = torch.cos(2 * math.pi * hue[:, 0]), torch.sin(2 * math.pi * hue[:, 0])
    turned = torch.stack([y, cos * i - sin * q, sin * i + cos * q], 1)
    return torch.einsum("ab,nbhw->nahw", torch.linalg.inv(to_yiq).to(x), turned).clamp(0, 1)


def _warped(x: Tensor, degrees: Tensor, shear: Tensor, right: Tensor, down: Tensor, scale: Tensor) -> Tensor:
    """Pictures sheared and turned by degrees, shifted by shares of their sides and scaled, about their centre."""
    height, width = x.shape[-2:]
    angle, slant = torch.deg2rad(degrees), torch.tan(torch.deg2rad(shear))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # In pixels, from a place of the new picture to the one it is taken from.
    first = torch.stack([cos + slant * sin, sin - slant * cos], 1) / scale[:, None]
    second = torch.stack([-sin, cos], 1) / scale[:, None]
    matrix = torch.stack([first, second], 1)
    moved = torch.stack([right * width, down * height], 1)
    offset = -(matrix @ moved[:, :, None])
    sides = x.new_tensor([width / 2, height / 2])
    theta = torch.cat([matrix * sides[None, None, :] / sides[None, :, None], offset / sides[None, :, None]], 2)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    side = torch.exp(-0.5 / sigma**2)
    kernel = torch.stack([side, torch.ones_like(side), side], 1)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = pad(x, (1, 1, 1, 1), mode="replicate").reshape(1, -1, x.shape[-2] + 2, x.shape[-1] + 2)
    groups = flat.shape[1]
    across = conv2d(flat, kernel[:, None, None, :], groups=groups)
    return conv2d(across, kernel[:, None, :, None], groups=groups).reshape(x.shape)


def _halved(x: Tensor) -> Tensor:
    size = max(1, x.shape[-2] // 2), max(1, x.shape[-1] // 2)
    small = interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    return interpolate(small, size=tuple(x.shape[-2:]), mode="bilinear", align_corners=False)
