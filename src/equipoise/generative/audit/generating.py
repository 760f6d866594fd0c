"""Pictures asked of a model that is not trusted to give any."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.generators import TextToImage


class GeneratorError(RuntimeError):
    """A generator gave no picture of a prompt; an audit of it stays undecided."""


def generate(generator: TextToImage, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
    """Pictures of prompts, held to be pictures.

    Raises:
        GeneratorError: if the generator raises it.
        ValueError: if they are no (n, 3, height, width) finite floating values in [0, 1].

    >>> from equipoise.data.shapes import RenderedTextToImage
    >>> generate(RenderedTextToImage(), ["red circle"], [0]).shape
    torch.Size([1, 3, 16, 16])
    """
    images = generator(list(prompts), list(seeds))
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise ValueError(f"the generator must give a floating tensor of pictures, got {_kind(images)}")
    images = images.detach().float()
    if images.ndim != 4 or images.shape[:2] != (len(prompts), 3) or 0 in images.shape:
        raise ValueError(
            f"the generator must give pictures of shape ({len(prompts)}, 3, height, width), got {tuple(images.shape)}"
        )
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"the generator must give finite values in [0, 1], got values from {low:g} to {high:g}; "
            "clamp its pictures, or divide bytes by 255"
        )
    return images


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        ValueError: if it is no list of one or more prompts with a word in each.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(f"prompts must be a list of one or more prompts, got {prompts!r}")
    for prompt in prompts:
        check_prompt(prompt)
    return list(prompts)


def check_prompt(prompt: str) -> None:
    """Raise `ValueError` unless it is a string with a word in it."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt={prompt!r} must be a string with a word in it")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
