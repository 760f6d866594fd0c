"""Corrupted copies of images, made offline, to judge models on shifted data.

Every corruption takes images (n, ..., height, width) with values in [0, 1] and a severity from 1 to 5, and gives images
of the same shape in [0, 1]. They follow the kinds of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations", ICLR 2019; their strengths are our own, chosen for small pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.core.signature import checked
from equipoise.core.types import Range, Whole

Images: TypeAlias = Annotated[Float[Tensor, "n *channels height width"], Range(0, 1)]
Kind: TypeAlias = Literal["gaussian_noise", "salt_and_pepper", "blur", "occlusion", "contrast", "brightness"]
Severity: TypeAlias = Literal[1, 2, 3, 4, 5]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

_NOISE = (0.08, 0.16, 0.25, 0.35, 0.5)
_SALT = (0.02, 0.05, 0.1, 0.17, 0.27)
# Widths of a box filter, in pixels; between two odd ones the pictures are mixed half and half.
_BLUR = (2, 3, 4, 5, 7)
_HIDDEN = (0.2, 0.3, 0.4, 0.5, 0.6)
_CONTRAST = (0.75, 0.6, 0.45, 0.3, 0.15)
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)


@checked
def corrupt(images: Images, kind: Kind, severity: Severity, generator: torch.Generator | None = None) -> Images:
    """Corrupt images.

    Args:
        images: (n, ..., height, width) in [0, 1].
        kind: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5.
        generator: of random kinds.

    >>> corrupt(torch.full((1, 2, 2), 0.5), "brightness", 2)
    tensor([[[0.7000, 0.7000],
             [0.7000, 0.7000]]])
    """
    return CORRUPTIONS[kind](images, severity - 1, generator).clamp(0, 1)


@checked
def corrupted_sets(
    images: Images,
    *,
    kinds: Sequence[Kind] | None = None,
    severities: Sequence[Severity] = SEVERITIES,
    seed: Whole = 0,
) -> Iterator[tuple[str, int, Images]]:
    """Every kind at every severity, as (kind, severity, images); the same for the same seed, whichever are asked for.

    >>> [(kind, severity) for kind, severity, _ in corrupted_sets(torch.zeros(1, 4, 4), severities=(1,))][:2]
    [('gaussian_noise', 1), ('salt_and_pepper', 1)]
    """
    for kind in get_args(Kind) if kinds is None else kinds:
        for severity in severities:
            place = list(CORRUPTIONS).index(kind)
            generator = torch.Generator().manual_seed(seed * 1009 + place * 10 + severity)
            yield kind, severity, corrupt(images, kind, severity, generator)


def _random(images: Tensor, generator: torch.Generator | None, *, normal: bool) -> Tensor:
    # Drawn on the CPU, so that a seed gives the same pictures on every device.
    draw = torch.randn if normal else torch.rand
    return draw(images.shape, generator=generator).to(images)


def _gaussian_noise(images: Tensor, level: int, generator: torch.Generator | None) -> Tensor:
    return images + _NOISE[level] * _random(images, generator, normal=True)


def _salt_and_pepper(images: Tensor, level: int, generator: torch.Generator | None) -> Tensor:
    draw = _random(images, generator, normal=False)
    share = _SALT[level]
    return torch.where(draw < share / 2, 0.0, torch.where(draw > 1 - share / 2, 1.0, images))


def _blur(images: Tensor, level: int, generator: torch.Generator | None) -> Tensor:
    width = _BLUR[level]
    if width % 2:
        return _box(images, width)
    return (_box(images, width - 1) + _box(images, width + 1)) / 2


def _box(images: Tensor, width: int) -> Tensor:
    height, length = images.shape[-2:]
    flat = images.reshape(-1, 1, height, length)
    # The mean over what lies inside the picture.
    return F.avg_pool2d(flat, width, stride=1, padding=width // 2, count_include_pad=False).reshape(images.shape)


def _occlusion(images: Tensor, level: int, generator: torch.Generator | None) -> Tensor:
    height, width = images.shape[-2:]
    side = [max(1, round(_HIDDEN[level] * size)) for size in (height, width)]
    places = [
        torch.randint(0, size - s + 1, (len(images),), generator=generator)
        for size, s in zip((height, width), side, strict=True)
    ]
    rows = (torch.arange(height) - places[0][:, None]).clamp(-1, side[0])
    columns = (torch.arange(width) - places[1][:, None]).clamp(-1, side[1])
    hidden = ((rows >= 0) & (rows < side[0]))[:, :, None] & ((columns >= 0) & (columns < side[1]))[:, None]
    hidden = hidden.view(len(images), *[1] * (images.ndim - 3), height, width).to(images.device)
    return images.masked_fill(hidden, 0.0)


def _contrast(images: Tensor, level: int, generator: torch.Generator | None) -> Tensor:
    middle = images.mean((-2, -1), keepdim=True)
    return middle + _CONTRAST[level] * (images - middle)


def _brightness(images: Tensor, level: int, generator: torch.Generator | None) -> Tensor:
    return images + _BRIGHTNESS[level]


CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator | None], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "salt_and_pepper": _salt_and_pepper,
    "blur": _blur,
    "occlusion": _occlusion,
    "contrast": _contrast,
    "brightness": _brightness,
}
