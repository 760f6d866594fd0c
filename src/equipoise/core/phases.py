"""One clock for schedules: warm-ups, deferred re-weighting, stages.

A loss whose form depends on the epoch derives from `Phased`. The trainer calls `set_epoch(epoch, total)`; the loss
reads the clock and never counts epochs itself, so a resumed run is in the phase that an unbroken one would be in.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Fraction


class Phased(nn.Module):
    """A module that knows which epoch it is in.

    Attributes:
        epoch: the epoch in progress, from 0.
        total_epochs: how many there will be; 0 where nobody said.

    >>> clock = Phased()
    >>> clock.set_epoch(3, 10)
    >>> clock.epoch, clock.total_epochs
    (3, 10)
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.total_epochs = 0

    def set_epoch(self, epoch: int, total: int = 0) -> None:
        """Say which epoch is in progress, from 0, out of `total`.

        Raises:
            ValueError: if `epoch` or `total` is negative.
        """
        if epoch < 0 or total < 0:
            raise ValueError(f"epoch={epoch} and total={total} must not be negative")
        self.epoch, self.total_epochs = epoch, total


def first_late_epoch(start: float, epoch: int, total: int) -> int:
    """The first epoch of the last phase; 1 where nobody said how many there are.

    Raises:
        RuntimeError: if an epoch was set without the total.

    >>> first_late_epoch(0.8, 0, 5)
    4
    """
    if not total:
        if epoch:
            raise RuntimeError("set_epoch(epoch, total) needs the total number of epochs to find the last phase")
        return 1
    # 0.8 · 5 must be 4 and not 3.9999.
    return math.floor(start * total + 1e-9)


class PhasedLoss(Phased):
    """One loss up to an epoch and another from there on, by the epoch's number: deferred weights, truncated factors.

    Args:
        early: the loss of the first phase.
        late: the loss of the last phase.
        start: share of all epochs after which the last phase begins, in (0, 1]; with 1 it never does.

    The trainer must say how many epochs there are: `set_epoch(loss, epoch, total)`.

    Raises:
        ValueError: if `start` is out of range.

    >>> loss = PhasedLoss(nn.CrossEntropyLoss(), nn.MultiMarginLoss(), start=0.8)
    >>> loss.set_epoch(159, 200)
    >>> loss.current
    CrossEntropyLoss()
    >>> loss.set_epoch(160, 200)
    >>> loss.current
    MultiMarginLoss()
    """

    @checked
    def __init__(self, early: nn.Module, late: nn.Module, start: Fraction = 0.8) -> None:
        super().__init__()
        self.early, self.late, self.start = early, late, start

    @property
    def late_epoch(self) -> int:
        """The first epoch of the last phase; 1 where nobody said how many there are.

        Raises:
            RuntimeError: if an epoch was set without the total.
        """
        return first_late_epoch(self.start, self.epoch, self.total_epochs)

    @property
    def current(self) -> nn.Module:
        """The loss of the epoch in progress; errors as `late_epoch`."""
        return self.late if self.epoch >= self.late_epoch else self.early

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """The value of `current`."""
        return self.current(*inputs, **options)


class WarmUp(PhasedLoss):
    """A `PhasedLoss` whose last phase begins after a number of epochs.

    Args:
        early: used while the epoch, from 0, is below `epochs`.
        late: used afterwards.
        epochs: how many epochs to warm up; 0 for none.

    Raises:
        ValueError: if `epochs` is negative.

    >>> loss = WarmUp(nn.CrossEntropyLoss(), nn.MultiMarginLoss(), epochs=5)
    >>> loss.set_epoch(5)
    >>> loss.current
    MultiMarginLoss()
    """

    def __init__(self, early: nn.Module, late: nn.Module, epochs: int) -> None:
        super().__init__(early, late)
        if epochs < 0:
            raise ValueError(f"epochs={epochs} must not be negative")
        self.epochs = epochs

    @property
    def late_epoch(self) -> int:
        """The first epoch of the last phase."""
        return self.epochs


def set_epoch(module: nn.Module, epoch: int, total: int = 0) -> None:
    """Call `set_epoch` on every `Phased` part of `module`.

    >>> model = nn.Sequential(nn.Linear(2, 1), Phased())
    >>> set_epoch(model, 2)
    >>> model[1].epoch
    2
    """
    for part in module.modules():
        if isinstance(part, Phased):
            part.set_epoch(epoch, total)
