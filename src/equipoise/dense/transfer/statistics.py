"""Transfer of statistics: of each channel, of all channels together, and the Gram matrix of feature maps.

    adain    (x − μ_x) / √(σ²_x + ε) · √(σ²_q + ε) + μ_q, for every channel                    population variances
    Monge    A (x − μ_x) + μ_q,  A = C_x^−½ (C_x^½ C_q C_x^½)^½ C_x^−½                         C + ε I in place of C
    Gram     G = F Fᵀ / (C H W), with the maps F as C × HW

The Monge map is the linear map of least squared displacement that takes a Gaussian with covariance C_x to one with C_q:
A C_x A = C_q. It is computed in float64 by the eigenvectors of symmetric matrices, whatever the dtype of the image.

Source: adaptive instance normalisation (Huang and Belongie, ICCV 2017), Gram matrices (Gatys et al., CVPR 2016), linear
optimal transport of colours (Pitié and Kokaram, 2007); the paper of `icehrnet` does not say which stylizer it has.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Positive
from equipoise.dense.transfer.types import Maps, StyleMaps

GramScale: TypeAlias = Literal["chw", "hw", "none"]
T = TypeVar("T")


class ChannelMoments(NamedTuple):
    """Mean and population variance of every channel, (..., C, 1, 1)."""

    mean: Tensor
    variance: Tensor


class ColourGaussian(NamedTuple):
    """Mean (..., C) and population covariance (..., C, C) of the channels over all pixels, in float64."""

    mean: Tensor
    covariance: Tensor


def channel_moments(maps: Tensor) -> ChannelMoments:
    """Mean and population variance of every channel.

    >>> channel_moments(torch.tensor([[[1.0, 3.0]]])).variance
    tensor([[[1.]]])
    """
    variance, mean = torch.var_mean(maps, (-2, -1), correction=0, keepdim=True)
    return ChannelMoments(mean, variance)


def with_moments(content: Tensor, style: ChannelMoments, eps: float) -> Tensor:
    """The content with the mean and the variance of a style, see the module."""
    own = channel_moments(content)
    return (content - own.mean) / (own.variance + eps).sqrt() * (style.variance + eps).sqrt() + style.mean


@checked
def adain(content: Maps, style: StyleMaps, eps: Positive = 1e-5) -> Maps:
    """Maps with the mean and the standard deviation of a style in every channel (adaptive instance normalisation).

    Args:
        content: pixels or features (..., C, H, W).
        style: (C, h, w), of any size.
        eps: added to both variances; a constant channel becomes the style's mean.

    Returns:
        Maps of the content's shape.

    Raises:
        ValueError: if the style has another number of channels, or a value is not finite.

    >>> adain(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[5.0, 5.0, 9.0, 9.0]]]))
    tensor([[[5.0000, 9.0000]]])
    """
    return with_moments(content, channel_moments(style), eps)


@checked
def gram_matrix(features: Maps, normalize: GramScale = "chw") -> Float[Tensor, "*batch channels channels"]:
    """Inner products of all pairs of feature maps, which say what occurs together and not where.

    Args:
        features: (..., C, H, W).
        normalize: what the products are divided by: C·H·W, H·W, or nothing.

    Returns:
        Symmetric (..., C, C).

    Raises:
        ValueError: for anything but floating maps.

    >>> gram_matrix(torch.tensor([[[1.0, 1.0]], [[0.0, 2.0]]]), "hw")
    tensor([[1., 1.],
            [1., 2.]])
    """
    flat = features.flatten(-2)
    sizes = {"chw": flat.shape[-2] * flat.shape[-1], "hw": flat.shape[-1], "none": 1}
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.mT / sizes[normalize]


def colour_gaussian(maps: Tensor) -> ColourGaussian:
    """Mean and population covariance of the channels, in float64.

    Raises:
        ValueError: if they overflow.
    """
    flat = maps.double().flatten(-2)
    mean = flat.mean(-1, keepdim=True)
    centred = flat - mean
    covariance = centred @ centred.mT / flat.shape[-1]
    if not bool(torch.isfinite(covariance).all()):
        raise ValueError("the covariance of the channels is not finite; scale the images to [0, 1]")
    return ColourGaussian(mean.squeeze(-1), covariance)


def _root(symmetric: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp_min(0).pow(power).unsqueeze(-2)) @ vectors.mT


def monge_matrix(content: Tensor, style: Tensor, eps: float) -> Tensor:
    """The symmetric matrix A of the module, of two covariances (..., C, C).

    >>> monge_matrix(torch.eye(2), 4 * torch.eye(2), 1e-12)
    tensor([[2., 0.],
            [0., 2.]])
    """
    identity = eps * torch.eye(content.shape[-1], dtype=content.dtype, device=content.device)
    own, wanted = content + identity, style + identity
    root, inverse = _root(own, 0.5), _root(own, -0.5)
    return inverse @ _root(root @ wanted @ root, 0.5) @ inverse


def with_colours(content: Tensor, style: ColourGaussian, eps: float) -> Tensor:
    """The content with the mean and the covariance of a style, see the module."""
    own = colour_gaussian(content)
    centred = content.double().flatten(-2) - own.mean.unsqueeze(-1)
    moved = monge_matrix(own.covariance, style.covariance, eps) @ centred + style.mean.unsqueeze(-1)
    return moved.view(content.shape).to(content.dtype)


@checked
def monge_color_transfer(content: Maps, style: StyleMaps, eps: Positive = 1e-6, *, clip: bool = False) -> Maps:
    """Image with the colours of a style, by the linear map of least displacement between two Gaussians.

    Unlike `adain` it also carries over how the channels vary together, such as a bluish shade of what is dark.

    Args:
        content: (..., C, H, W).
        style: (C, h, w), of any size.
        eps: added to the diagonals of both covariances.
        clip: whether the result is cut to [0, 1].

    Returns:
        Image of the content's shape and dtype.

    Raises:
        ValueError: if the style has another number of channels, or a covariance is not finite.

    >>> image = torch.tensor([[[0.0, 2.0, 0.0, 2.0]], [[0.0, 0.0, 2.0, 2.0]]])
    >>> monge_color_transfer(image, torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]]), eps=1e-9).round(decimals=2)
    tensor([[[0., 4., 0., 4.]],
    <BLANKLINE>
            [[1., 1., 1., 1.]]])
    """
    moved = with_colours(content, colour_gaussian(style), eps)
    return moved.clamp(0, 1) if clip else moved


class TextureMemory:
    """What was computed of a texture, kept for as long as the texture lives and is not written to.

    >>> memory, texture = TextureMemory(), torch.rand(3, 4, 4)
    >>> memory.of(texture, channel_moments) is memory.of(texture, channel_moments)
    True
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[Tensor], int, dict[Hashable, Any]]] = {}

    def of(self, texture: Tensor, compute: Callable[[Tensor], T], key: Hashable = None) -> T:
        """`compute(texture)`, or what it was the last time under this key."""
        if texture.requires_grad or texture.is_inference():
            return compute(texture)
        name = id(texture)
        held = self._kept.get(name)
        if held is None or held[0]() is not texture or held[1] != texture._version:
            gone = weakref.ref(texture, lambda _: self._kept.pop(name, None))
            held = self._kept[name] = (gone, texture._version, {})
        if key not in held[2]:
            with torch.no_grad():
                held[2][key] = compute(texture)
        found: T = held[2][key]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: another process has other textures."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._kept = {}
