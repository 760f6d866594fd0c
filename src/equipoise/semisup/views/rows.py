"""Random views of signals and of rows of tables, all of a batch at once and on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Probability, ProperFraction
from equipoise.semisup.views.draws import normal, part_of, symmetric, uniform


@checked
@dataclass(frozen=True)
class SignalAugmentation:
    """A random view of each signal, drawn independently; what is 0 is not done.

    Attributes:
        shift: in time, at most by so large a share of the length to either side; the end values fill what is left.
        scale: factor of a whole signal in 1 ± scale.
        noise: standard deviation of Gaussian noise, in that of the signal (over time, by channel).
        mask: share of the length that is set to the signal's mean, in one piece at a random place.

    Raises:
        ValueError: if a setting is out of range.

    >>> signals = torch.randn(5, 2, 100, generator=Generator().manual_seed(0))
    >>> SignalAugmentation.strong()(signals, Generator().manual_seed(0)).shape
    torch.Size([5, 2, 100])
    """

    shift: ProperFraction = 0.0
    scale: NonNegative = 0.0
    noise: NonNegative = 0.0
    mask: Probability = 0.0

    @classmethod
    def weak(cls) -> SignalAugmentation:
        """Shift by 2 % of the length, noise of .05 standard deviations."""
        return cls(shift=0.02, noise=0.05)

    @classmethod
    @checked
    def strong(cls, level: Probability = 0.6) -> SignalAugmentation:
        """All of it, growing with the level in [0, 1]: shift by .2, scale by .5, noise of .5, mask of .3 times it."""
        return cls(shift=0.2 * level, scale=0.5 * level, noise=0.5 * level, mask=0.3 * level)

    @checked
    def __call__(self, batch: Float[Tensor, "n *channels t"], generator: Generator) -> Float[Tensor, "n *channels t"]:
        """Views of signals (n, t), or (n, channels, t) whose channels move together."""
        n, length = len(batch), batch.shape[-1]
        one = (n, *(1 for _ in batch.shape[1:]))
        time = torch.arange(length, device=batch.device)
        if self.shift:
            by = (symmetric(self.shift, one, batch, generator) * length).round().long()
            batch = batch.gather(-1, (time - by).clamp(0, length - 1).expand(batch.shape))
        mean, deviation = batch.mean(-1, keepdim=True), batch.std(-1, keepdim=True, correction=0)
        if self.scale:
            batch = batch * (1 + symmetric(self.scale, one, batch, generator))
        if self.noise:
            batch = batch + self.noise * deviation * normal(batch.shape, batch, generator)
        if self.mask:
            width = part_of(length, self.mask)
            start = (uniform(one, batch, generator) * (length - width + 1)).long().clamp_max(length - width)
            batch = torch.where((time >= start) & (time < start + width), mean, batch)
        return batch


@checked
@dataclass(frozen=True)
class TableAugmentation:
    """A random view of each row of a table of standardised columns; what is 0 is not done.

    Attributes:
        noise: standard deviation of Gaussian noise on every cell, in that of its column.
        mask: probability of a cell to be set to 0, its column's mean.
        swap: probability of a cell to be taken from another row of the batch.

    Raises:
        ValueError: if a setting is out of range.

    >>> rows = torch.randn(5, 3, generator=Generator().manual_seed(0))
    >>> TableAugmentation.strong()(rows, Generator().manual_seed(0)).shape
    torch.Size([5, 3])
    """

    noise: NonNegative = 0.0
    mask: Probability = 0.0
    swap: Probability = 0.0

    @classmethod
    def weak(cls) -> TableAugmentation:
        """Noise of .05 standard deviations."""
        return cls(noise=0.05)

    @classmethod
    @checked
    def strong(cls, level: Probability = 0.6) -> TableAugmentation:
        """All of it, growing with the level in [0, 1]: noise of .5, mask and swap of .25 times it."""
        return cls(noise=0.5 * level, mask=0.25 * level, swap=0.25 * level)

    @checked
    def __call__(self, batch: Float[Tensor, "n d"], generator: Generator) -> Float[Tensor, "n d"]:
        """Views of rows (n, columns)."""
        if self.swap:
            other = (uniform(batch.shape, batch, generator) * len(batch)).long().clamp_max(len(batch) - 1)
            batch = torch.where(uniform(batch.shape, batch, generator) < self.swap, batch.gather(0, other), batch)
        if self.noise:
            batch = batch + self.noise * normal(batch.shape, batch, generator)
        if self.mask:
            batch = batch.masked_fill(uniform(batch.shape, batch, generator) < self.mask, 0.0)
        return batch
