"""Batches of P classes with K samples each, for losses that compare embeddings (metric learning, retrieval)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from equipoise.core.signature import checked
from equipoise.core.types import Count, Range, Whole
from equipoise.data.sampling.batches import DealtBatches, class_members, replicas_and_rank
from equipoise.data.sampling.labels import Labels


class IdentityBatchSampler(DealtBatches):
    """P classes a batch, K different samples of each, no sample twice in an epoch ("PK" batches).

    Each class is cut into groups of K by a shuffle of (seed, epoch); what does not fill a group, and groups for which
    no P different classes are left, wait for another epoch. Classes with the most groups left go first, which gives as
    many batches as there can be. Shards, resuming and `set_epoch` are those of the other samplers.

    Args:
        target: class of each sample, shape (n,), integers from 0.
        num_ids: P, classes of a batch.
        num_per_id: K, samples of each class, at least 2 so that every sample has a companion.
        seed: the batches of an epoch are a function of (seed, epoch).
        num_replicas: processes that share the epoch; by default those of `torch.distributed`, if it is initialised.
        rank: which of them this is, likewise.

    Raises:
        ValueError: if fewer than P classes have K samples, or there are fewer batches than processes.

    >>> target = torch.arange(12) % 3
    >>> [sorted(target[batch].tolist()) for batch in IdentityBatchSampler(target, num_ids=2, num_per_id=2)]
    [[0, 0, 1, 1], [0, 0, 2, 2], [1, 1, 2, 2]]
    """

    @checked
    def __init__(
        self,
        target: Labels,
        num_ids: Annotated[int, Range(2)],
        num_per_id: Annotated[int, Range(2)],
        *,
        seed: Whole = 0,
        num_replicas: Count | None = None,
        rank: Whole | None = None,
    ) -> None:
        labels, members = class_members(target)
        replicas, own = replicas_and_rank(num_replicas, rank)
        groups = members // num_per_id
        if (groups > 0).sum() < num_ids:
            raise ValueError(
                f"{int((groups > 0).sum())} classes have {num_per_id} samples, wanted num_ids={num_ids} in a batch; "
                "lower num_ids or num_per_id"
            )
        batches = len(_distinct_classes(groups, num_ids, np.random.default_rng(seed)))
        batches -= batches % replicas
        if not batches:
            raise ValueError(f"there are fewer batches than the {replicas} processes that share the epoch")
        self._num_ids, self._num_per_id = num_ids, num_per_id
        seats = groups * num_per_id
        super().__init__(labels, seats, batches, seed=seed, num_replicas=replicas, rank=own)

    def _deal(self) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng((self._seed, self.epoch))
        members = [generator.permutation(np.flatnonzero(self._target == c)) for c in range(len(self._seats))]
        used = np.zeros(len(members), dtype=np.int64)
        batches = []
        for chosen in _distinct_classes(self._seats // self._num_per_id, self._num_ids, generator):
            batches.append(np.concatenate([members[c][used[c] : used[c] + self._num_per_id] for c in chosen]))
            used[chosen] += self._num_per_id
        # Frequent classes were served first; a run should not meet them first.
        return [batches[k] for k in generator.permutation(len(batches))[: self._num_batches]]

    def _identity(self) -> dict[str, int]:
        return {**super()._identity(), "num_ids": self._num_ids, "num_per_id": self._num_per_id}


def _distinct_classes(
    groups: NDArray[np.int64], num_ids: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Batches of different classes, those with most groups left first, ties at random: a fixed number."""
    left = groups.copy()
    batches: list[NDArray[np.int64]] = []
    while True:
        tie_break = generator.random(len(left))
        chosen = np.lexsort((tie_break, -left))[:num_ids]
        if left[chosen[-1]] < 1:
            return batches
        left[chosen] -= 1
        batches.append(chosen)
