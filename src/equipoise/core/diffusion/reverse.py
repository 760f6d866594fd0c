"""The way back from noise, or from a degraded picture, in steps: one loop for diffusion and for bridges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class ReverseStep(Protocol):
    """From a step to an earlier one, given the picture that is predicted."""

    def __call__(self, x_t: Tensor, x0: Tensor, step: int, step_prev: int, noise: Tensor | None = None) -> Tensor:
        """x at `step_prev`; `noise` is standard normal, of the shape of x; what it is multiplied by may be zero."""
        ...


class SeededNoise:
    """Standard normal numbers of every sample from a seed of its own, so that a batch does not matter.

    Args:
        seeds: one for each sample; equal seeds give equal numbers.

    >>> both, second = SeededNoise([3, 4]), SeededNoise([4])
    >>> bool((both((2,))[1] == second((2,))[0]).all())
    True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """The next numbers, (samples, *shape), float32 on the CPU."""
        if not self._generators:
            return torch.empty(0, *shape)
        return torch.stack([torch.randn(*shape, generator=one) for one in self._generators])


@torch.no_grad()
def reverse(
    reverse_step: ReverseStep,
    predict_x0: Callable[[Tensor, int], Tensor],
    start: Tensor,
    steps: Sequence[int],
    noise: SeededNoise | None = None,
    callback: Callable[[int, Tensor], Tensor | None] | None = None,
) -> Tensor:
    """Go back through steps.

    Args:
        reverse_step: one step, `NoiseSchedule.reverse_step` or that of a bridge.
        predict_x0: the picture that is predicted from x and its step.
        start: (n, ...) x at the first of the steps.
        steps: decreasing; the last is where the way ends.
        noise: drawn from for every step; without it the way is deterministic.
        callback: called with the step reached and x there; a tensor it returns takes the place of x, for instance to
            put known pixels back.

    Returns:
        x at the last step.

    Raises:
        ValueError: if there are fewer than two steps or they do not decrease.
    """
    if len(steps) < 2 or any(here <= before for here, before in pairwise(steps)):
        raise ValueError(f"steps must decrease, at least two of them, got {list(steps)[:12]}")
    x = start
    for here, before in pairwise(steps):
        drawn = None if noise is None else noise(x.shape[1:]).to(x)
        x = reverse_step(x, predict_x0(x, here), here, before, drawn)
        if callback is not None:
            held = callback(before, x)
            x = x if held is None else held
    return x
