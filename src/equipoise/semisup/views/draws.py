"""Random numbers for views: drawn on the generator's device, given on the batch's and in its dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def uniform(shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(list(shape), generator=generator, device=generator.device).to(like)


def symmetric(width: float, shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Uniform in [−width, width)."""
    return width * (2 * uniform(shape, like, generator) - 1)


def normal(shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Standard normal."""
    return torch.randn(list(shape), generator=generator, device=generator.device).to(like)
