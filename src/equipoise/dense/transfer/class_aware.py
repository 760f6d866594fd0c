"""A texture for every class: each class of a labelled image takes the look that it has in another domain.

    x_c = T(x, q_c) for every class c with textures,      x'(p) = x_{y(p)}(p) for every pixel p

The stylizer sees the whole image for each class, and the label mask picks. The labels stay valid, and (x', y) is a
training pair of a domain of which nobody has labelled an image.

Source: the strategy diagram of PL23K/IceHrNet ("advanced style transfer learning strategy"); no code of it was
released, so that stylizers and edge cases are reconstructed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from equipoise.core.signature import check_finite, checked
from equipoise.core.types import Positive
from equipoise.dense.transfer.stylizers import MomentStylizer, MongeStylizer, PyramidStylizer
from equipoise.dense.transfer.types import Image, LabelMap, Maps, Stylizer

StylizerName: TypeAlias = Literal["moment", "monge", "pyramid"]
Styles: TypeAlias = Mapping[int, Tensor | Sequence[Tensor]]

_NAMED: dict[str, Callable[..., Stylizer]] = {
    "moment": MomentStylizer,
    "monge": MongeStylizer,
    "pyramid": PyramidStylizer,
}


def named_stylizer(stylizer: StylizerName | Stylizer, **settings: Any) -> Stylizer:
    """The stylizer of a name, with its settings, or what was given.

    >>> named_stylizer("monge", eps=0.1)
    MongeStylizer(eps=0.1)
    """
    return _NAMED[stylizer](**settings) if isinstance(stylizer, str) else stylizer


def checked_textures(name: str, textures: Any, channels: int | None = None) -> tuple[Tensor, ...]:
    """Textures (C, h, w) from one or from a sequence of them.

    Raises:
        ValueError: if there is none, or one is no finite floating image in [0, 1], or has other channels.
    """
    given = (textures,) if isinstance(textures, Tensor) and textures.ndim == 3 else textures
    if not isinstance(given, Sequence | Tensor) or isinstance(given, str):
        raise ValueError(f"{name} must be a texture (C, h, w) or a list of them, got {type(textures).__name__}")
    if len(given) == 0:
        raise ValueError(f"{name} is an empty list; give at least one texture, or leave the class out")
    for place, each in enumerate(given):
        at = f"{name}[{place}]"
        if not isinstance(each, Tensor) or not each.is_floating_point() or each.ndim != 3 or not each.numel():
            shown = f"{each.dtype} of shape {tuple(each.shape)}" if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(f"{at} must be a floating tensor (C, h, w), got {shown}")
        if channels is not None and len(each) != channels:
            raise ValueError(f"{at} has {len(each)} channels, wanted {channels} as the image has")
        check_finite(at, each)
        least, most = (float(end) for end in each.aminmax())
        if least < 0 or most > 1:
            raise ValueError(
                f"{at} must lie in [0, 1], got {least if least < 0 else most:g}; divide 8-bit values by 255"
            )
    return tuple(given)


def checked_styles(styles: Any, channels: int | None = None) -> dict[int, tuple[Tensor, ...]]:
    """Class → its textures.

    Raises:
        ValueError: if it is no mapping from whole numbers to textures.
    """
    if not isinstance(styles, Mapping):
        raise ValueError(f"styles must be a mapping from classes to textures, got {type(styles).__name__}")
    wrong = [c for c in styles if isinstance(c, bool) or not isinstance(c, int)]
    if wrong:
        raise ValueError(f"styles has the key {wrong[0]!r}; classes must be whole numbers")
    return {c: checked_textures(f"styles[{c}]", given, channels) for c, given in styles.items()}


@checked
def merge_by_label(label: LabelMap, images: Mapping[int, Tensor], default: Maps) -> Maps:
    """Image that is composed of several, each pixel from the image of its class.

    Args:
        label: classes (..., H, W).
        images: class → image (..., C, H, W).
        default: image of the pixels whose class has none.

    Returns:
        (..., C, H, W).

    Raises:
        ValueError: if sizes differ.

    >>> merge_by_label(torch.tensor([[0, 1, 7]]), {1: torch.ones(1, 1, 3)}, torch.zeros(1, 1, 3))
    tensor([[[0., 1., 0.]]])
    """
    merged = default
    for c, image in images.items():
        if not isinstance(image, Tensor) or image.shape != default.shape:
            shown = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
            raise ValueError(f"images[{c}] has {shown}, wanted {tuple(default.shape)} as default has")
        merged = torch.where((label == c).unsqueeze(-3), image.to(default.dtype), merged)
    return merged


@checked
def class_aware_stylize(
    image: Image,
    label: LabelMap,
    styles: Styles,
    stylizer: StylizerName | Stylizer = "moment",
    eps: Positive = 1e-5,
    *,
    clip: bool = True,
    ignore_index: int | None = None,
    strict: bool = False,
    generator: torch.Generator | None = None,
) -> Maps:
    """Image in which every class has a texture of its own, by its label map.

    Args:
        image: (..., C, H, W) in [0, 1].
        label: classes (..., H, W).
        styles: class → one texture (C, h, w) in [0, 1], or several of which one is drawn at random. Every look of a
            class, such as bare and snowy ice, needs at least one.
        stylizer: "moment", "monge", "pyramid", or a callable (content, style) → image.
        eps: of a stylizer that is named.
        clip: whether stylized pixels are cut to [0, 1].
        ignore_index: label of pixels that belong to no class; they keep their pixels, without a warning.
        strict: whether a class without textures is an error; otherwise its pixels are kept, with a warning.
        generator: of the drawn textures; None draws from torch's global generator.

    Returns:
        Image of the shape of the one given. Classes that are not in the label map are not stylized.

    Raises:
        ValueError: if sizes or channels differ, values lie outside [0, 1], a list of textures is empty, or, if
            `strict`, a class has no textures.

    >>> image, label = torch.rand(3, 8, 8), torch.arange(8).expand(8, 8) // 4
    >>> water, ice = torch.full((3, 4, 4), 0.2), [torch.full((3, 4, 4), 0.9)]
    >>> class_aware_stylize(image, label, {0: water, 1: ice})[0, 0].round(decimals=2)
    tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.9000, 0.9000, 0.9000, 0.9000])
    """
    textures = checked_styles(styles, image.shape[-3])
    transfer = named_stylizer(stylizer, eps=eps)
    label = label.long()
    present = [c for c in label.unique().tolist() if c != ignore_index]
    missing = [c for c in present if c not in textures]
    if missing:
        what = f"label holds the class {missing[0]}, of which styles has no texture"
        if strict:
            raise ValueError(f"{what}; add one, or name the label of pixels without a class as ignore_index")
        warnings.warn(f"{what}; its pixels stay as they are in the source", stacklevel=3)
    stylized = {}
    for c in present:
        if c in textures:
            moved = transfer(image, drawn(textures[c], generator))
            stylized[c] = moved.clamp(0, 1) if clip else moved
    return merge_by_label(label, stylized, image)


def drawn(textures: Sequence[Tensor], generator: torch.Generator | None) -> Tensor:
    """One of the textures, at random; of one alone, without drawing."""
    if len(textures) == 1:
        return textures[0]
    return textures[int(torch.randint(len(textures), (), generator=generator))]
