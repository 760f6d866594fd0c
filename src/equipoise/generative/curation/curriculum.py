"""Samples in an order that begins with synthetic ones, and moves on to the whole set.

    share(u) = base + (1 − base) max(0, 1 − u / u₀)        u = epoch / (epochs − 1)

"Hybrid Generative Fusion", ICCV workshops 2025: synthetic samples first as in the authors' list, which has an effect
only where the trainer does not shuffle; the share over epochs is inferred. That it helps is not claimed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, Probability, Whole
from equipoise.data.sampling.batches import replicas_and_rank


class CurriculumSampler(Sampler[int]):
    """Indices of an epoch, of which a share that falls from 1 to the base is of one source.

    A group that is asked for more than it has is gone through again from another shuffle. An epoch is a function of
    (seed, epoch), and as long as the data set; several processes draw equal parts of it.

    Args:
        source_of_sample: (n,) name of the source of each sample.
        first: the source that training begins with.
        base_share: share of draws from it in the end; its share of the samples by default.
        ramp: u₀, share of the epochs after which the base is reached, in (0, 1).
        epochs: that training has.
        seed: of the shuffles.
        num_replicas: processes that share the epoch; by default those of `torch.distributed`, if it is initialised.
        rank: which of them this is, likewise.

    Raises:
        ValueError: if no sample is of the first source, or all are and the base share is less than 1.

    >>> sampler = CurriculumSampler(["real", "real", "real", "synthetic"], epochs=3)
    >>> sorted(sampler), sampler.share
    ([3, 3, 3, 3], 1.0)
    >>> sampler.set_epoch(2)
    >>> sorted(sampler), sampler.share
    ([0, 1, 2, 3], 0.25)
    """

    @checked
    def __init__(
        self,
        source_of_sample: Sequence[Any],
        first: str = "synthetic",
        base_share: Probability | None = None,
        ramp: OpenFraction = 0.5,
        epochs: Count = 100,
        *,
        seed: Whole = 0,
        num_replicas: Count | None = None,
        rank: Whole | None = None,
    ) -> None:
        early = np.array([source == first for source in source_of_sample], dtype=bool)
        if not early.any():
            raise ValueError(f"source_of_sample holds no {first!r}; name the source that comes first")
        self._first, self._rest = np.flatnonzero(early), np.flatnonzero(~early)
        self.base_share = float(early.mean()) if base_share is None else float(base_share)
        if not len(self._rest) and self.base_share < 1:
            raise ValueError(f"base_share={base_share} leaves draws for other sources, and there is only {first!r}")
        self.ramp, self.epochs, self.seed, self.epoch = ramp, epochs, seed, 0
        self._replicas, self._rank = replicas_and_rank(num_replicas, rank)

    @checked
    def set_epoch(self, epoch: Whole) -> None:
        """Say which epoch comes next, from 0."""
        self.epoch = epoch

    @property
    def share(self) -> float:
        """The share of the first source in this epoch."""
        u = min(self.epoch / max(self.epochs - 1, 1), 1.0)
        return self.base_share + (1 - self.base_share) * max(0.0, 1 - u / self.ramp)

    def __len__(self) -> int:
        return (len(self._first) + len(self._rest)) // self._replicas

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        size = len(self._first) + len(self._rest)
        early = round(self.share * size)
        drawn = [_cycled(self._first, early, generator), _cycled(self._rest, size - early, generator)]
        order = generator.permutation(np.concatenate(drawn))
        # The same number for every process: what is left over is left out.
        return iter(order[self._rank :: self._replicas][: len(self)].tolist())


def _cycled(members: np.ndarray[Any, np.dtype[np.int64]], size: int, generator: np.random.Generator) -> Any:
    rounds = -(-size // len(members)) if len(members) else 0
    return np.concatenate([members[:0], *(generator.permutation(members) for _ in range(rounds))])[:size]
