"""What makes pictures, seen from outside: prompts and seeds in, or pictures and seeds in; pictures out.

Real models are adapted in `equipoise.integrations`, small ones for a processor stand in `equipoise.data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class TextToImage(Protocol):
    """Pictures of prompts."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1], one for every prompt; the same prompt and seed give the same picture."""
        ...


@runtime_checkable
class ImageToImage(Protocol):
    """Pictures of pictures: restored, sharpened, translated."""

    def __call__(self, images: Float[Tensor, "n c h w"], seed: int = 0) -> Float[Tensor, "n c h w"]:
        """Pictures in the range of those given; the same picture and seed give the same picture."""
        ...
