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


def part_of(length: int, share: float) -> int:
    """So many of a length as a share of it is: a half is rounded up, and a share above 0 is at least one.

    >>> part_of(12, 0.375), part_of(4, 0.1), part_of(4, 0.0)
    (5, 1, 0)
    """
    return max(1, int(share * length + 0.5)) if share else 0


def normal(shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Standard normal."""
    return torch.randn(list(shape), generator=generator, device=generator.device).to(like)
