"""Types of masks and maps: what every picture-shaped argument of the room must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.types import MayBeEmpty, Range, Values

_OBJECT = Values(((0, "background"), (1, "object; divide a mask of 0 and 255 by 255, or compare it with a threshold")))

SalientMask: TypeAlias = Annotated[
    Integer[Tensor, "height width"] | Bool[Tensor, "height width"] | Float[Tensor, "height width"], _OBJECT
]
SalientMasks: TypeAlias = Annotated[
    Integer[Tensor, "n height width"]
    | Bool[Tensor, "n height width"]
    | Float[Tensor, "n height width"]
    | Integer[Tensor, "n 1 height width"]
    | Bool[Tensor, "n 1 height width"]
    | Float[Tensor, "n 1 height width"],
    _OBJECT,
]
SaliencyMap: TypeAlias = Annotated[Float[Tensor, "height width"], Range(0, 1)]
"""Probabilities; of logits take the sigmoid first."""
SaliencyMaps: TypeAlias = (
    Annotated[Float[Tensor, "n _height _width"] | Float[Tensor, "n 1 _height _width"], Range(0, 1)]
    | Sequence[Annotated[Float[Tensor, "_height _width"], Range(0, 1)]]
)
"""Maps of a batch, or a list of maps of any size."""
MaskList: TypeAlias = Sequence[
    Annotated[
        Integer[Tensor, "_height _width"] | Bool[Tensor, "_height _width"] | Float[Tensor, "_height _width"], _OBJECT
    ]
]
"""Masks of any size."""
Frames: TypeAlias = Annotated[Integer[Tensor, "_objects 4"], MayBeEmpty()]
"""Half-open boxes, a row (top, bottom, left, right) each."""
