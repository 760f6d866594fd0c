"""Batches of different identities with a sample of each of two modalities, for losses that match modalities."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Integer
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Count, Whole
from equipoise.data.sampling.batches import DealtBatches, replicas_and_rank
from equipoise.data.sampling.labels import Labels, class_codes

_Others: TypeAlias = Annotated[Integer[Tensor, " m"] | Bool[Tensor, " m"], ClassIndex(None)] | NDArray[Any]


class PairedIdentityBatchSampler(DealtBatches):
    """B different identities a batch, with one random row of each modality; no identity twice in an epoch.

    A batch is a list of [row of the first modality, row of the second], both of the same identity, in an order shuffled
    by (seed, epoch). Identities that fill no batch wait for another epoch, and those that one modality lacks are left
    out. For a dataset that takes such pairs as its keys, `DataLoader(dataset, batch_sampler=sampler)`. Shards,
    resuming and `set_epoch` are those of the other samplers.

    Args:
        first: identity of each row of the first modality, shape (n,), integers from 0.
        second: identity of each row of the second, shape (m,).
        batch_size: B, identities of a batch on one process.
        seed: the batches of an epoch are a function of (seed, epoch).
        num_replicas: processes that share the epoch; by default those of `torch.distributed`, if it is initialised.
        rank: which of them this is, likewise.

    Raises:
        ValueError: if there are fewer identities in both modalities than a batch on every process takes.

    >>> faces, voices = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([2, 1, 0, 5])
    >>> list(PairedIdentityBatchSampler(faces, voices, batch_size=2))
    [[[3, 0], [1, 2]]]
    """

    @checked
    def __init__(
        self,
        first: Labels,
        second: _Others,
        batch_size: Count,
        *,
        seed: Whole = 0,
        num_replicas: Count | None = None,
        rank: Whole | None = None,
    ) -> None:
        self._sides = _codes("first", first), _codes("second", second)
        replicas, own = replicas_and_rank(num_replicas, rank)
        self._shared = np.intersect1d(*self._sides)
        batches = len(self._shared) // batch_size
        batches -= batches % replicas
        if not batches:
            raise ValueError(
                f"first and second share {len(self._shared)} identities, fewer than batch_size={batch_size} on each of "
                f"{replicas} processes"
            )
        self._batch_size = batch_size
        seats = np.full(batches, batch_size, dtype=np.int64)
        super().__init__(np.concatenate(self._sides), seats, batches, seed=seed, num_replicas=replicas, rank=own)

    def _deal(self) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng((self._seed, self.epoch))
        chosen = generator.permutation(self._shared)[: self._num_batches * self._batch_size]
        rows = []
        for codes in self._sides:
            # A row of each identity: the first after a shuffle.
            shuffled = generator.permutation(len(codes))
            known, place = np.unique(codes[shuffled], return_index=True)
            rows.append(shuffled[place[np.searchsorted(known, chosen)]])
        return np.split(np.stack(rows, 1), self._num_batches)

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "batch_size": self._batch_size}


def _codes(name: str, labels: Labels) -> NDArray[np.int64]:
    try:
        return class_codes(labels)
    except ValueError as error:
        raise ValueError(str(error).replace("target", name, 1)) from None
