"""A weak view and several strong ones of every sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Probability

Augmentation: TypeAlias = Callable[[Tensor, Generator], Tensor]
"""(batch (n, ...), generator) → a view of each sample, (n, ...)."""


class Views(NamedTuple):
    """Views of a batch.

    Attributes:
        weak: (n, ...).
        strong: (K, n, ...).
    """

    weak: Tensor
    strong: Tensor


class MultiViewSampler:
    """A weak view and K strong views of each sample of a batch, the strong ones by one call.

    Args:
        weak: a function of (batch, generator), such as `ImageAugmentation.weak()` or one of yours.
        strong: the same, for the strong views; it is given all K copies of the batch at once.
        variants: K, how many strong views.
        variant_probs: probabilities of 1, 2, … strong views, drawn anew for every batch; None gives always K. The
            authors' code has (.5, .3, .2), which is 1.7 views on average.

    Raises:
        ValueError: if there are more probabilities than views, they do not sum to 1, or a view changes the number of
            samples.

    >>> sampler = MultiViewSampler(lambda u, generator: u, lambda u, generator: u + 1, variants=3)
    >>> views = sampler(torch.zeros(5, 2), Generator())
    >>> views.weak.shape, views.strong.shape
    (torch.Size([5, 2]), torch.Size([3, 5, 2]))
    """

    @checked
    def __init__(
        self,
        weak: Callable[[Tensor, Generator], Tensor],
        strong: Callable[[Tensor, Generator], Tensor],
        variants: Count = 3,
        variant_probs: Sequence[Probability] | None = None,
    ) -> None:
        if variant_probs is not None:
            check_variant_probs(variant_probs, variants)
        self.weak, self.strong, self.variants, self.variant_probs = weak, strong, variants, variant_probs

    @checked
    def __call__(self, batch: Tensor, generator: Generator) -> Views:
        """Views of a batch (n, ...)."""
        weak, count = self.weak_view(batch, generator), self._count(generator)
        copies = batch.repeat(count, *(1 for _ in batch.shape[1:]))
        strong = _checked_view("strong", self.strong(copies, generator), len(copies))
        return Views(weak, strong.unflatten(0, (count, len(batch))))

    @checked
    def weak_view(self, batch: Tensor, generator: Generator) -> Tensor:
        """Weak views alone, (n, ...), as labelled samples are given."""
        return _checked_view("weak", self.weak(batch, generator), len(batch))

    def _count(self, generator: Generator) -> int:
        if self.variant_probs is None:
            return self.variants
        weights = torch.tensor(self.variant_probs, dtype=torch.float64, device=generator.device)
        return 1 + int(torch.multinomial(weights, 1, generator=generator))


def check_variant_probs(variant_probs: Sequence[float], variants: int) -> None:
    """Raise `ValueError` unless there are at most as many probabilities as views, and they sum to 1."""
    if not 0 < len(variant_probs) <= variants:
        raise ValueError(f"variant_probs has {len(variant_probs)} probabilities, wanted 1 to variants={variants}")
    if not math.isclose(sum(variant_probs), 1, abs_tol=1e-6):
        raise ValueError(f"variant_probs={tuple(variant_probs)} must sum to 1, got {sum(variant_probs):g}")


def _checked_view(name: str, view: Tensor, samples: int) -> Tensor:
    if not isinstance(view, Tensor) or not view.ndim or len(view) != samples:
        shape = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
        raise ValueError(f"{name} must give a tensor of {samples} views, one of each sample it was given, got {shape}")
    return view
