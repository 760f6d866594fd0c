"""Pictures with the subject kept and the rest faded, so that embeddings tell attribute values apart by the subject.

    x' = m x + (1 − m) b          m: map of the foreground, at most 1;  b: the picture's mean colour, or black

Maps are a mask where the truth is known, or the cross-attention of the subject's word, averaged over steps and layers.

Source: LightFair, NeurIPS 2025. Reconstructed: the overview figure shows foregrounds weighted by cross-attention; how
maps are averaged and what takes the place of the background is inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from equipoise.core.signature import checked
from equipoise.core.types import Count, Range

Background: TypeAlias = Literal["mean", "black"]
ForegroundMap: TypeAlias = Annotated[Float[Tensor, "n rows columns"], Range(0)]
AttentionMap: TypeAlias = Annotated[Float[Tensor, "n _rows _columns"], Range(0)]


@checked
def weigh_foreground(
    images: Float[Tensor, "n c height width"], foreground: ForegroundMap, background: Background = "mean"
) -> Float[Tensor, "n c height width"]:
    """Pictures whose background is faded.

    Args:
        images: (n, channels, height, width) in [0, 1].
        foreground: (n, rows, columns) nonnegative maps of any resolution and scale; the largest value of each becomes
            1. A map of zeros says nothing, and its picture is left as it is.
        background: what takes the place of the background: the "mean" colour of the picture, or "black".

    Returns:
        Pictures of the same shape.

    Raises:
        ValueError: if sizes do not fit or a map holds a negative value.

    >>> image, mask = torch.ones(1, 3, 2, 2), torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
    >>> weigh_foreground(image, mask, "black")[0, 0]
    tensor([[1., 0.],
            [0., 1.]])
    """
    share = _resized(foreground, images.shape[-2], images.shape[-1])
    most = share.amax((1, 2), keepdim=True)
    share = torch.where(most > 0, share / most.clamp_min(torch.finfo(share.dtype).tiny), torch.ones_like(share))
    share = share[:, None].to(images.dtype)
    behind = images.mean((2, 3), keepdim=True) if background == "mean" else torch.zeros_like(images[:, :, :1, :1])
    return share * images + (1 - share) * behind


@checked
def attention_foreground(
    maps: Sequence[AttentionMap], height: Count, width: Count
) -> Float[Tensor, "n _height _width"]:
    """One map for each picture from the cross-attention of its subject's words, as steps and layers give it.

    Args:
        maps: (n, rows, columns) attention to the words, averaged over heads and words, of each step and layer; their
            resolutions may differ.
        height: of the pictures.
        width: of the pictures.

    Returns:
        (n, height, width), the largest value of each picture 1.

    Raises:
        ValueError: if there is no map, they are of different numbers of pictures, or one holds a negative value.

    >>> coarse, fine = torch.ones(1, 2, 2), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    >>> attention_foreground([coarse, fine], 2, 2)[0]
    tensor([[0.5000, 1.0000],
            [1.0000, 0.5000]])
    """
    if not maps:
        raise ValueError("maps is empty; record the attention of at least one layer and step")
    if len({len(each) for each in maps}) > 1:
        raise ValueError(f"maps are of different numbers of pictures: {[len(each) for each in maps]}")
    mean = torch.stack([_resized(each.float(), height, width) for each in maps]).mean(0)
    return mean / mean.amax((1, 2), keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    if maps.shape[1:] == (height, width):
        return maps
    return interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
