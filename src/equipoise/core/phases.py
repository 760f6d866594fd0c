"""One clock for schedules: warm-ups, deferred re-weighting, stages.

A loss whose form depends on the epoch derives from `Phased`. The trainer calls `set_epoch(epoch, total)`; the loss
reads the clock and never counts epochs itself, so a resumed run is in the phase that an unbroken one would be in.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


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


class WarmupLoss(Phased):
    """One loss for the first epochs and another from then on, with no mixing between.

    Args:
        warmup: used while the epoch, from 0, is below `epochs`.
        main: used afterwards.
        epochs: how many epochs to warm up; 0 for none.

    Raises:
        ValueError: if `epochs` is negative.

    >>> loss = WarmupLoss(nn.CrossEntropyLoss(), nn.MultiMarginLoss(), epochs=5)
    >>> loss.current
    CrossEntropyLoss()
    >>> loss.set_epoch(5)
    >>> loss.current
    MultiMarginLoss()
    """

    def __init__(self, warmup: nn.Module, main: nn.Module, epochs: int) -> None:
        super().__init__()
        if epochs < 0:
            raise ValueError(f"epochs={epochs} must not be negative")
        self.warmup, self.main, self.epochs = warmup, main, epochs

    @property
    def current(self) -> nn.Module:
        """The loss of the epoch in progress."""
        return self.warmup if self.epoch < self.epochs else self.main

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """The value of `current`."""
        return self.current(*inputs, **options)


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
