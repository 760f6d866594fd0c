"""Learning rates by step."""

from __future__ import annotations

import math

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive


@checked
def warmup_cosine_lr(step: NonNegative, base_lr: Positive, warmup: NonNegative, total: Positive) -> float:
    """A learning rate that rises linearly from 0, and falls along half a cosine to 0.

        base · step / warmup                                       step < warmup
        base · ½ (1 + cos π (step − warmup) / (total − warmup))    else

    Args:
        step: steps, or epochs, that are over; at most `total`.
        base_lr: the highest rate, reached at `warmup`.
        warmup: length of the rise, below `total`.
        total: length of the whole.

    Raises:
        ValueError: if `warmup` or `step` is beyond `total`, or a number is out of range.

    >>> [round(warmup_cosine_lr(step, 0.2, 2, 6), 4) for step in (0, 1, 2, 4, 6)]
    [0.0, 0.1, 0.2, 0.1, 0.0]
    """
    if warmup >= total:
        raise ValueError(f"warmup={warmup:g} must be below total={total:g}")
    _check_step(step, total)
    if step < warmup:
        return base_lr * step / warmup
    return base_lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@checked
def fixmatch_lr(step: NonNegative, base_lr: Positive, total: Count) -> float:
    """FixMatch's learning rate, base · cos(7π step / (16 total)), which ends at a fifth; reconstructed.

    Args:
        step: steps that are over; at most `total`.
        base_lr: the first rate.
        total: number of steps.

    Raises:
        ValueError: if `step` is beyond `total`, or a number is out of range.

    >>> round(fixmatch_lr(0, 0.03, 100), 4), round(fixmatch_lr(100, 0.03, 100), 4)
    (0.03, 0.0059)
    """
    _check_step(step, total)
    return base_lr * math.cos(7 * math.pi * step / (16 * total))


def _check_step(step: float, total: float) -> None:
    if step > total:
        raise ValueError(f"step={step:g} must be at most total={total:g}")
