"""The types of images, textures and stylizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.types import Range

Maps: TypeAlias = Float[Tensor, "*batch channels height width"]
StyleMaps: TypeAlias = Float[Tensor, "channels style_height style_width"]
Image: TypeAlias = Annotated[Float[Tensor, "*batch channels height width"], Range(0, 1)]
Texture: TypeAlias = Annotated[Float[Tensor, "channels style_height style_width"], Range(0, 1)]
LabelMap: TypeAlias = Integer[Tensor, "*batch height width"] | Bool[Tensor, "*batch height width"]
Stylizer: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(content (..., C, H, W), texture (C, h, w)) → image of the content's shape with the look of the texture."""
