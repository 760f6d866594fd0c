"""Which objects, which style and whether a patch a picture of the shapes world shows, read off its pixels by rules.

No training: a pixel is ink where it is close to a colour of the palette, bright, and colourful or white; connected ink
of one colour is an object; its soft outline is compared with drawn templates of every shape at many sizes and places.
Two objects of one colour that touch are taken for one. Styles are undone and a patch is left out before objects are
looked for, so that they are found in every picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.core.validate import check_probabilities
from equipoise.data.shapes.captions import Request
from equipoise.data.shapes.render import _cover, check_size
from equipoise.data.shapes.scene import CELLS, COLOURS, SHAPES, Object

_NEAR, _BRIGHT, _COLOURFUL = 0.36, 0.5, 0.3
_FEWEST_PIXELS = 4
_STRIPES, _DOTS, _CHECKS = 1.35, 0.2, 0.5
_DARKER, _LIGHTER = 0.55, 0.35
_RADII = np.geomspace(0.115, 0.33, 10)
_OFFSETS = np.linspace(-0.375, 0.375, 4)
_TURN = {"center": 0.24, "corner": 0.165}
_PALETTE = torch.tensor(list(COLOURS.values()))
_NAMES = tuple(COLOURS)
_AT_ONCE = 256


@dataclass(frozen=True)
class SeenObject:
    """One object found in a picture.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: "small" or "large", as radii of its cell go.
        cell: the nearest of `CELLS`.
        middle: (x, y) in sides of the picture, y downwards.
        radius: in sides of the picture.
        misfit: root mean square difference from the best template, in terms of that template's root mean square.
    """

    shape: str
    colour: str
    size: str
    cell: str
    middle: tuple[float, float]
    radius: float
    misfit: float

    @property
    def name(self) -> str:
        """Colour and shape, as a caption has them."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Seen:
    """What a picture shows.

    Attributes:
        objects: from the upper left to the lower right.
        style: one of `STYLES`.
        patch: whether the checkerboard stands in the lower right corner.
    """

    objects: tuple[SeenObject, ...]
    style: str = "plain"
    patch: bool = False

    def meets(self, request: Request) -> bool:
        """Whether each object asked for is seen, each another one, and style and patch are as asked for.

        There may be more objects than asked for, as in `Request.is_met`, which does this for scenes.
        """
        if (self.style, self.patch) != (request.style, request.patch):
            return False
        choices = permutations(self.objects, len(request.objects))
        return any(all(map(_fits, chosen, request.objects)) for chosen in choices)

    def record(self) -> dict[str, Any]:
        """What is seen as plain dictionaries and lists, for JSON."""
        return asdict(self)


def _fits(one: SeenObject, asked: Mapping[str, str]) -> bool:
    return all(getattr(one, part) == word for part, word in asked.items() if part != "concept")


def see(images: Float[Tensor, "n 3 size size"]) -> list[Seen]:
    """What pictures of the shapes world show, found without their scenes.

    Args:
        images: (n, 3, size, size) in [0, 1], the side a multiple of 16.

    Returns:
        Of every picture its objects with shape, colour, size and cell, its style, and whether it has a patch.

    Raises:
        ValueError: if pictures are not square, the side is no positive multiple of 16, or values are not in [0, 1].

    >>> from equipoise.data.shapes import Object, Scene, parse, render
    >>> scene = Scene((Object("circle", "red", "small"),), "striped")
    >>> picture = torch.from_numpy(render(scene, None, 32).image)
    >>> (seen,) = see(picture[None])
    >>> seen.style, [(one.size, one.name) for one in seen.objects], seen.meets(parse("striped red circle"))
    ('striped', [('small', 'red circle')], True)
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must have shape (n, 3, size, size), got {tuple(images.shape)}")
    size = images.shape[-1]
    check_size(size)
    check_probabilities("images", images)
    found: list[Seen] = []
    for part in images.detach().float().cpu().split(_AT_ONCE):
        found += _see(part, size)
    return found


def _see(images: Float32[Tensor, "n 3 s s"], size: int) -> list[Seen]:
    patched = patch_contrast(images) > _CHECKS
    hidden = patched[:, None, None] & _grids(size).corner
    # Dots lie on the light stripes, so that they are looked for first.
    dotted = dot_contrast(images) > _DOTS
    striped = ~dotted & (stripe_ratio(images) > _STRIPES)
    images = torch.where((striped[:, None, None] & _grids(size).stripes)[:, None], images / _DARKER, images)
    # Where a dot met the top of the range it is left there: what was under it is unknown, and bright.
    undone = (dotted[:, None, None] & _grids(size).dots)[:, None] & (images < 1)
    images = torch.where(undone, images - _LIGHTER, images).clamp(0, 1)
    objects = _objects(images, hidden, size)
    styles = np.where(striped.numpy(), "striped", np.where(dotted.numpy(), "dotted", "plain")).tolist()
    return [Seen(tuple(those), style, bool(p)) for those, style, p in zip(objects, styles, patched, strict=True)]


def patch_contrast(images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, " n"]:
    """How much lighter the light fields of a checkerboard in the lower right corner are than its dark ones."""
    grids = _grids(images.shape[-1])
    grey = images.mean(1)
    light, dark = grids.corner & grids.light, grids.corner & ~grids.light
    return grey[:, light].mean(1) - grey[:, dark].mean(1)


def stripe_ratio(images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, " n"]:
    """Mean of the stripes that would be left alone over that of those that would be darkened, no patch counted."""
    grids = _grids(images.shape[-1])
    grey = images.mean(1)
    odd, even = grids.stripes & ~grids.corner, ~grids.stripes & ~grids.corner
    return grey[:, even].mean(1) / grey[:, odd].mean(1).clamp(min=1e-6)


def dot_contrast(images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, " n"]:
    """How much lighter dots would be than the median of their block, in the median block, no patch counted."""
    size = images.shape[-1]
    grids, block = _grids(size), size // 4
    grey = images.mean(1).unfold(1, block, block).unfold(2, block, block).flatten(3)
    at = grids.dots[:block, :block].flatten()
    lighter = grey[..., at].mean(3) - grey.median(3).values
    hidden = grids.corner.unfold(0, block, block).unfold(1, block, block).flatten(2).any(2)
    return lighter[:, ~hidden].median(1).values


class _Grids(NamedTuple):
    """(size, size) masks of where styles and the patch act."""

    stripes: Tensor
    dots: Tensor
    corner: Tensor
    light: Tensor


@lru_cache(maxsize=8)
def _grids(size: int) -> _Grids:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    step, side = size // 16, 3 * size // 16
    stripes = ((x + y) // (size // 8)) % 2 == 1
    dots = (x % (size // 4) < step) & (y % (size // 4) < step)
    corner = (x >= size - side) & (y >= size - side)
    light = ((x - size + side) // step + (y - size + side) // step) % 2 == 1
    return _Grids(stripes, dots, corner, light)


def _objects(images: Float32[Tensor, "n 3 s s"], hidden: Tensor, size: int) -> list[list[SeenObject]]:
    """The objects of every picture; `hidden` (n, s, s) marks pixels that nothing is read from."""
    gaps = (images[:, None] - _PALETTE[:, :, None, None]).square().sum(2).sqrt()
    nearest, colour = gaps.min(1)
    high, low = images.amax(1), images.amin(1)
    ink = (
        (nearest < _NEAR) & (high > _BRIGHT) & ((high - low > _COLOURFUL) | (colour == _NAMES.index("white"))) & ~hidden
    )
    planes = (colour[:, None] == torch.arange(len(_NAMES))[:, None, None]) & ink[:, None]
    codes = _connected(planes).flatten(0, 1).long()
    # A number for every group of pixels in every plane, 0 for no group.
    names = torch.where(codes > 0, codes + (size * size + 1) * torch.arange(len(codes))[:, None, None], 0)
    groups, counts = names.unique(return_counts=True)
    groups = groups[(groups > 0) & (counts >= _FEWEST_PIXELS * (size / 16) ** 2)]
    found: list[list[SeenObject]] = [[] for _ in range(len(images))]
    if not len(groups):
        return found
    plane = groups // (size * size + 1)
    masks = names[plane] == groups[:, None, None]
    picture, tint = plane // len(_NAMES), plane % len(_NAMES)
    for where, hue, one in zip(
        picture.tolist(), tint.tolist(), _fit(images, ink, hidden, masks, picture, tint), strict=True
    ):
        shape, middle, radius, misfit = one
        cell = min(CELLS, key=lambda name: math.dist(CELLS[name], middle))
        size_name = "large" if radius > _TURN["center" if cell == "center" else "corner"] else "small"
        found[where].append(SeenObject(shape, _NAMES[hue], size_name, cell, middle, radius, misfit))
    for those in found:
        those.sort(key=lambda one: (round(one.middle[1] * 3), one.middle[0]))
    return found


def _connected(planes: Tensor) -> Tensor:
    """Each set pixel with a number that it shares with the set pixels of its plane that it is connected to."""
    size = planes.shape[-1]
    labels = torch.arange(1.0, size * size + 1).view(size, size) * planes
    while True:
        spread = F.max_pool2d(labels, 3, 1, 1) * planes
        if torch.equal(spread, labels):
            return labels
        labels = spread


def _grown(masks: Tensor) -> Tensor:
    return F.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0] > 0


class _Templates(NamedTuple):
    """Drawn shapes in the middle of a window, with where their own middle is from the window's, in pixels."""

    flat: Tensor
    squares: Tensor
    shapes: list[str]
    radii: list[float]
    middles: list[tuple[float, float]]
    window: int


@lru_cache(maxsize=4)
def _templates(size: int) -> _Templates:
    window = 2 * math.ceil(size * (_RADII[-1] + 0.02)) + 3
    pictures, shapes, radii, middles = [], [], [], []
    for shape in SHAPES:
        for radius in _RADII.tolist():
            # A triangle's box reaches further up from its middle than down.
            lower = 0.125 * radius * size if shape == "triangle" else 0.0
            for dy in _OFFSETS.tolist():
                for dx in _OFFSETS.tolist():
                    shift = (dx / window, (dy + lower) / window)
                    one = Object(shape, "red", scale=radius * size / window / 0.30, shift=shift)
                    # Drawn twice as fine as pictures are: on their own grid templates would miss every other width.
                    pictures.append(_cover(one, 2 * window).reshape(window, 2, window, 2).mean((1, 3)))
                    shapes.append(shape)
                    radii.append(radius)
                    middles.append((dx, dy + lower))
    flat = torch.from_numpy(np.stack(pictures)).float().flatten(1)
    return _Templates(flat, flat.square(), shapes, radii, middles, window)


def _fit(
    images: Tensor, ink: Tensor, hidden: Tensor, masks: Tensor, picture: Tensor, tint: Tensor
) -> list[tuple[str, tuple[float, float], float, float]]:
    """Shape, middle, radius and misfit of every mask (m, s, s), by least squares over templates and shifts."""
    size = images.shape[-1]
    bank = _templates(size)
    ground = _ground(images, ink | hidden)[picture]
    ray = _PALETTE[tint] - ground
    alpha = ((images[picture] - ground[:, :, None, None]) * ray[:, :, None, None]).sum(1)
    alpha = (alpha / ray.square().sum(1)[:, None, None]).clamp(0, 1) * _grown(masks)
    others = ink[picture] & ~masks
    weight = (~((_grown(others) & ~masks) | hidden[picture])).float()
    half = bank.window // 2
    pad = [half + 1] * 4
    alpha, weight = F.pad(alpha * weight, pad), F.pad(weight, pad, value=1.0)
    rows, columns = _middles(masks.any(2)), _middles(masks.any(1))
    shifts = torch.tensor([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    at = torch.stack([rows, columns], 1)[:, None] + shifts + 1
    which = torch.arange(len(masks))[:, None]
    a, w = (
        each.unfold(1, bank.window, 1).unfold(2, bank.window, 1)[which, at[..., 0], at[..., 1]].flatten(2)
        for each in (alpha, weight)
    )
    error = a.square().sum(2, keepdim=True) - 2 * a @ bank.flat.T + w @ bank.squares.T
    least, best = error.flatten(1).min(1)
    fits = []
    for k, (value, one) in enumerate(zip(least.tolist(), best.tolist(), strict=True)):
        shift, t = divmod(one, len(bank.shapes))
        dy, dx = (int(step) for step in shifts[shift])
        mx, my = bank.middles[t]
        middle = ((int(columns[k]) + dx + mx + 0.5) / size, (int(rows[k]) + dy + my + 0.5) / size)
        misfit = math.sqrt(max(value, 0.0) / float(bank.squares[t].sum()))
        fits.append((bank.shapes[t], middle, bank.radii[t], misfit))
    return fits


def _ground(images: Tensor, left_out: Tensor) -> Tensor:
    """(n, 3) median colour of what is neither ink nor hidden; of everything where that is nothing."""
    values = torch.where(left_out[:, None], torch.nan, images).flatten(2)
    middle = values.nanmedian(2).values
    return torch.where(middle.isnan(), images.flatten(2).median(2).values, middle)


def _middles(taken: Tensor) -> Tensor:
    """Of every row (m, s) the whole pixel in the middle between its first and its last set one."""
    length = taken.shape[1]
    first = taken.float().argmax(1)
    last = length - 1 - taken.flip(1).float().argmax(1)
    return (first + last) // 2
