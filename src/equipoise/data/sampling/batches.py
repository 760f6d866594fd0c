"""Batches in which every class has its seats: a rare class is met in every step, and no sample is forgotten.

Losses that compare classes learn nothing from a batch without positives. Both samplers here make the batches of an
epoch like a dealer: class by class, every class in an order shuffled by (seed, epoch), the samples are dealt round
robin to K batches. So a class with e_c seats in the epoch gets ⌊e_c / K⌋ or ⌈e_c / K⌉ of them in *every* batch, and all
batches have the same size up to one sample. K is the least number for which no batch exceeds `batch_size`; there is
no short batch at the end that would lack the rare class.

Only a class that is to have more seats than members is repeated: its shuffled order is gone through again and again,
so every member is used ⌊e_c / n_c⌋ or ⌈e_c / n_c⌉ times, and never twice in one batch unless the batch has more seats
for the class than the class has members. All other samples are used exactly once an epoch.

Many processes: `num_replicas` and `rank` mean what they mean for `torch.utils.data.DistributedSampler`, and
`batch_size` is that of one process. K is rounded up to a multiple of `num_replicas` and the batches are handed out in
turn: shards are disjoint, their union is the epoch, and every rank has the same number of batches. Where
`DistributedSampler` repeats samples to even out the shards, here batches shrink by a sample instead and nothing is
repeated. With `drop_last=True` every batch has exactly `batch_size` samples and the remainder is left out, others
every epoch. (Under Lightning with several processes, give the Trainer `use_distributed_sampler=False`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import Sampler

from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, Positive, Whole
from equipoise.data.sampling.labels import Labels, class_codes

Counts = NDArray[np.int64]


class DealtBatches(Sampler[list[int]]):
    """What the samplers share: dealing, shards, and the place in the epoch."""

    def __init__(
        self,
        target: NDArray[np.int64],
        seats: Counts,
        num_batches: int,
        *,
        seed: int,
        num_replicas: int,
        rank: int,
    ) -> None:
        self.epoch = 0
        self._target = target
        self._seats = seats
        self._num_batches = num_batches
        self._seed = seed
        self._num_replicas = num_replicas
        self._rank = rank
        self._start = 0
        self._handed_out = 0

    @property
    def sampler(self) -> DealtBatches:
        """Itself: Lightning looks for `batch_sampler.sampler.set_epoch` and calls it before every epoch."""
        return self

    def __len__(self) -> int:
        """Batches of an epoch on this rank, whether or not the epoch in progress was resumed."""
        return self._num_batches // self._num_replicas

    def __iter__(self) -> Iterator[list[int]]:
        # A resumed place holds for one pass only: a loop left early must not shorten the next one.
        start, self._start = self._start, 0
        self._handed_out = start
        return self._batches(start)

    def _batches(self, start: int) -> Iterator[list[int]]:
        for place, batch in enumerate(self._deal()[self._rank :: self._num_replicas]):
            if place >= start:
                self._handed_out = place + 1
                yield batch.tolist()

    def _deal(self) -> list[NDArray[np.int64]]:
        """All batches of the epoch, of all ranks."""
        generator = np.random.default_rng((self._seed, self.epoch))
        shuffled = generator.permutation(len(self._target))
        by_class = np.split(
            shuffled[np.argsort(self._target[shuffled], kind="stable")],
            np.cumsum(np.bincount(self._target, minlength=len(self._seats)))[:-1],
        )
        # Which classes get the odd seats of which batches must not be the same every epoch.
        classes = generator.permutation(len(self._seats))
        samples = np.concatenate([np.resize(by_class[c], self._seats[c]) for c in classes])
        dealt = generator.permutation(self._num_batches)[np.arange(len(samples)) % self._num_batches]
        # Batches take a class's samples in consecutive runs, so that a repeated sample comes back as late as it can:
        # the batch numbers are sorted inside each class (one sort of class * K + batch, for speed).
        runs = np.repeat(np.arange(len(classes)) * self._num_batches, self._seats[classes]) + dealt
        runs.sort()
        dealt = runs % self._num_batches
        order = np.argsort((dealt << 32) + generator.integers(1 << 32, size=len(dealt)))
        return np.split(samples[order], np.cumsum(np.bincount(dealt, minlength=self._num_batches))[:-1])

    @checked
    def set_epoch(self, epoch: Whole) -> None:
        """Say which epoch comes next; its batches are derived from (seed, epoch).

        A place loaded by `load_state_dict` is kept if it is of this epoch. Without a call every pass gives the same
        batches.

        Raises:
            ValueError: if `epoch` is negative.
        """
        if epoch != self.epoch:
            self.epoch = epoch
            self._start = self._handed_out = 0

    @checked
    def state_dict(self, batch: Whole | None = None) -> dict[str, int]:
        """The place in the epoch, as plain numbers.

        Args:
            batch: how many batches of this epoch have been trained on. By default the number handed out, which is
                ahead of training where a DataLoader with workers fetches beforehand.

        Raises:
            ValueError: if `batch` is not in 0..len(self).
        """
        place = self._handed_out if batch is None else batch
        if place > len(self):
            raise ValueError(f"batch={place} must lie in 0..{len(self)}, the batches of an epoch on this rank")
        return {"epoch": self.epoch, "batch": place, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a place: the next pass gives the remaining batches, the same as an unbroken run would get.

        Raises:
            ValueError: if the state is of a sampler with other data, another seed, other sizes or other replicas.
        """
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise ValueError(
                    f"the saved sampler has {name}={state.get(name)}, this one {name}={own}; make the sampler with the "
                    "arguments of the run that is to be resumed"
                )
        self.epoch = int(state["epoch"])
        self._start = self._handed_out = int(state["batch"])

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self._seed,
            "samples": len(self._target),
            "seats": int(self._seats.sum()),
            "batches": self._num_batches,
            "num_replicas": self._num_replicas,
        }


class StratifiedBatchSampler(DealtBatches):
    """Batches with the natural class rates, a chosen rate of positives, or a guaranteed number per class.

    At most one of the four settings is given; without any, every sample is used exactly once an epoch and every class
    is spread as evenly as possible (a class with fewer members than there are batches misses some of them).

    Args:
        target: class of each sample, shape (n,): 0/1 or booleans, or class indices 0..C-1.
        batch_size: the most samples in a batch of one process.
        positive_rate: binary; the share of positives in the epoch, met within one sample by every batch, each of which
            has at least one. The class that is too rare for it is repeated; each sample of the other is used once.
        positives_per_batch: binary; exactly this many positives in every batch. The class that is used up first is
            repeated (positives that do not divide evenly are filled up with a few of their own).
        min_per_class: at least this many samples of every class in every batch. Only classes that are too rare for it
            are repeated.
        class_shares: the share of every class in the epoch; only proportions count. As `positive_rate`, for any number
            of classes.
        seed: the batches of an epoch are a function of (seed, epoch).
        num_replicas: processes that share the epoch; by default those of `torch.distributed`, if it is initialised.
        rank: which of them this is, likewise.
        drop_last: leave out the remainder that does not fill a batch on every rank.

    Raises:
        ValueError: if a class has no members, batches are too small for what is asked, or settings contradict.

    >>> sampler = StratifiedBatchSampler(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 1, 0]), 5, seed=1)
    >>> [sum(index in (0, 8) for index in batch) for batch in sampler]
    [1, 1]
    >>> sampler = StratifiedBatchSampler(torch.tensor([1] + 9 * [0]), 4, positive_rate=0.25)
    >>> [batch.count(0) for batch in sampler]
    [1, 1, 1]
    """

    @checked
    def __init__(
        self,
        target: Labels,
        batch_size: Count,
        *,
        positive_rate: OpenFraction | None = None,
        positives_per_batch: Count | None = None,
        min_per_class: Count | None = None,
        class_shares: Sequence[Positive] | None = None,
        seed: Whole = 0,
        num_replicas: Count | None = None,
        rank: Whole | None = None,
        drop_last: bool = False,
    ) -> None:
        settings = {
            "positive_rate": positive_rate,
            "positives_per_batch": positives_per_batch,
            "min_per_class": min_per_class,
            "class_shares": class_shares,
        }
        given = [name for name, value in settings.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other; give one of them")
        labels, members = class_members(target)
        replicas, own = replicas_and_rank(num_replicas, rank)
        if given and given[0].startswith("positive") and len(members) != 2:
            raise ValueError(f"{given[0]} needs two classes, the target has {len(members)}; use class_shares")
        if given and not members.all():
            raise ValueError(
                f"class {int(np.argmin(members))} has no members among {len(labels)} targets, so {given[0]} cannot be "
                "met; drop the class and renumber the others"
            )
        if positives_per_batch is not None:
            if not 1 <= positives_per_batch < batch_size:
                raise ValueError(
                    f"positives_per_batch={positives_per_batch} must lie in 1..{batch_size - 1} to leave room for "
                    f"negatives in a batch of {batch_size}"
                )
            quotas = np.array([batch_size - positives_per_batch, positives_per_batch])
            seats, batches = _fixed_quotas(members, quotas, replicas, drop_last)
        elif positive_rate is not None:
            shares = np.array([1 - positive_rate, positive_rate])
            seats, batches = _shared(members, shares, batch_size, replicas, drop_last, "positive_rate")
        elif class_shares is not None:
            shares = np.asarray(class_shares, dtype=np.float64)
            if shares.shape != members.shape:
                raise ValueError(f"class_shares holds {len(shares)} numbers, wanted {len(members)}, one per class")
            seats, batches = _shared(members, shares / shares.sum(), batch_size, replicas, drop_last, "class_shares")
        elif min_per_class is not None:
            if min_per_class * len(members) > batch_size:
                raise ValueError(
                    f"min_per_class={min_per_class} with {len(members)} classes needs batches of at least "
                    f"{min_per_class * len(members)}, got batch_size={batch_size}"
                )
            seats, batches = _lifted(members, batch_size, min_per_class, replicas, drop_last)
        else:
            seats, batches = _lifted(members, batch_size, 0, replicas, drop_last)
        super().__init__(labels, seats, batches, seed=seed, num_replicas=replicas, rank=own)


class ClassBalancedBatchSampler(DealtBatches):
    """Batches in which every class has the same number of samples, up to one.

    The members of the largest class are used exactly once an epoch; those of the others are repeated to match.

    Args:
        target: class of each sample, shape (n,), 0..C-1 (or booleans), every class with at least one member.
        batch_size: the most samples in a batch of one process, at least C.
        seed: the batches of an epoch are a function of (seed, epoch).
        num_replicas: processes that share the epoch; by default those of `torch.distributed`, if it is initialised.
        rank: which of them this is, likewise.
        drop_last: leave out the remainder that does not fill a batch on every rank.

    Raises:
        ValueError: if a class has no members or `batch_size` is smaller than the number of classes.

    >>> target = torch.tensor([0, 0, 0, 0, 1, 2])
    >>> [sorted(target[batch].tolist()) for batch in ClassBalancedBatchSampler(target, 6)]
    [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]]
    """

    @checked
    def __init__(
        self,
        target: Labels,
        batch_size: Count,
        *,
        seed: Whole = 0,
        num_replicas: Count | None = None,
        rank: Whole | None = None,
        drop_last: bool = False,
    ) -> None:
        labels, members = class_members(target)
        replicas, own = replicas_and_rank(num_replicas, rank)
        if not members.all():
            raise ValueError(
                f"class {int(np.argmin(members))} has no members among {len(labels)} targets; drop the class and "
                "renumber the others"
            )
        if batch_size < len(members):
            raise ValueError(f"batch_size={batch_size} is smaller than the number of classes, {len(members)}")
        equal = np.full(len(members), 1 / len(members))
        seats, batches = _shared(members, equal, batch_size, replicas, drop_last, "an equal share")
        super().__init__(labels, seats, batches, seed=seed, num_replicas=replicas, rank=own)


def class_members(target: Labels) -> tuple[NDArray[np.int64], Counts]:
    """The class of each sample and the number of members of each class."""
    labels = class_codes(target)
    # Booleans name both classes even where one is absent.
    members = np.bincount(labels, minlength=2)
    if (members > 0).sum() < 2:
        raise ValueError(
            f"all {len(labels)} targets are of class {labels[0]}; a stratified sampler needs at least two classes"
        )
    return labels, members


def replicas_and_rank(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """How many processes share the epoch and which of them this is, by default those of `torch.distributed`."""
    running = distributed.is_available() and distributed.is_initialized()
    replicas = num_replicas if num_replicas is not None else distributed.get_world_size() if running else 1
    own = rank if rank is not None else distributed.get_rank() if running else 0
    if own >= replicas:
        raise ValueError(f"rank={own} must be less than num_replicas={replicas}")
    return replicas, own


def _shared(
    members: Counts, shares: NDArray[np.float64], batch_size: int, replicas: int, drop_last: bool, name: str
) -> tuple[Counts, int]:
    """Seats in proportion to `shares`: the class with most members for its share sets the length of the epoch."""
    rarest = int(np.argmin(shares))
    if shares[rarest] * batch_size < 1 - 1e-9:
        raise ValueError(
            f"{name} gives class {rarest} a share of {shares[rarest]:g}, less than one sample in a batch of "
            f"{batch_size}; raise the share to at least {1 / batch_size:g} or batch_size to "
            f"{int(np.ceil(1 / shares[rarest]))}"
        )
    seats = np.maximum(np.rint((members / shares).max() * shares).astype(np.int64), members)
    return _lifted(seats, batch_size, 1, replicas, drop_last)


def _lifted(seats: Counts, batch_size: int, least: int, replicas: int, drop_last: bool) -> tuple[Counts, int]:
    """The fewest batches that hold all seats, once every class has at least `least` in each of them."""
    batches = -(-int(seats.sum()) // batch_size)
    # Lifting a class takes room from the others, which may need more batches, which may lift further classes.
    while np.maximum(seats, least * batches).sum() > batch_size * batches:
        lifted = seats < least * batches
        batches = -(-int(seats[~lifted].sum()) // (batch_size - least * int(lifted.sum())))
    if drop_last:
        full = np.maximum(seats, least * batches).sum() == batch_size * batches
        batches = _whole_rounds(batches if full else batches - 1, replicas, batch_size, int(seats.sum()))
        spare = _apportion(np.maximum(seats - least * batches, 0), (batch_size - least * len(seats)) * batches)
        return least * batches + spare, batches
    batches = -(-batches // replicas) * replicas
    seats = np.maximum(seats, least * batches)
    if seats.sum() < batches:
        raise ValueError(
            f"{seats.sum()} samples cannot fill {batches} batches, the same number on each of {replicas} replicas; use "
            "a larger batch_size, fewer replicas or drop_last=True"
        )
    return seats, batches


def _fixed_quotas(members: Counts, quotas: Counts, replicas: int, drop_last: bool) -> tuple[Counts, int]:
    """Seats for exactly quotas[1] positives a batch; the class that lasts longer sets the length of the epoch."""
    lasting = int(np.argmax(members / quotas))
    if drop_last:
        batches = _whole_rounds(
            int(members[lasting] // quotas[lasting]), replicas, int(quotas.sum()), int(members.sum())
        )
        return quotas * batches, batches
    batches = -(-int(members[lasting]) // int(quotas[lasting]))
    batches = -(-batches // replicas) * replicas
    seats = quotas * batches
    if lasting == 0:
        seats[0] = max(int(members[0]), batches)
    return seats, batches


def _whole_rounds(batches: int, replicas: int, batch_size: int, samples: int) -> int:
    rounds = batches // replicas * replicas
    if rounds == 0:
        raise ValueError(
            f"drop_last=True leaves no batch of {batch_size} on each of {replicas} replicas from {samples} samples; "
            "use a smaller batch_size or drop_last=False"
        )
    return rounds


def _apportion(weights: Counts, total: int) -> Counts:
    """Whole numbers in proportion to `weights` that sum to `total`, by largest remainders."""
    ideal = weights * (total / max(int(weights.sum()), 1))
    whole = np.floor(ideal).astype(np.int64)
    short = total - int(whole.sum())
    whole[np.argsort(whole - ideal, kind="stable")[:short]] += 1
    return whole
