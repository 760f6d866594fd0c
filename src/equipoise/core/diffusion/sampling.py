"""Pictures from a denoiser by DDIM, with a condition that may change on the way.

The condition is a tensor, or a function of the step: fair sampling, for instance, gives the original text first and
the debiased one later.

Song et al., "Denoising Diffusion Implicit Models", ICLR 2021; guidance as in Ho and Salimans, "Classifier-Free
Diffusion Guidance", 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from equipoise.core.diffusion.reverse import SeededNoise, reverse
from equipoise.core.diffusion.schedule import NoiseSchedule, PredictionType
from equipoise.core.validate import check_choice

Condition: TypeAlias = Tensor | Callable[[int], Tensor]
Spacing: TypeAlias = Literal["leading", "trailing", "linspace"]


@runtime_checkable
class Denoiser(Protocol):
    """A network that sees noise in a picture.

    Attributes:
        schedule: of the noise that it was trained on.
        prediction_type: what it predicts, "epsilon", "v" or "x0".
        shape: of one sample that it reads, without the batch.
    """

    schedule: NoiseSchedule
    prediction_type: PredictionType
    shape: tuple[int, ...]

    def predict(self, x_t: Tensor, steps: Tensor, condition: Tensor | None) -> Tensor:
        """The prediction (n, ...) for x_t (n, ...) at steps (n,) under conditions (n, ...)."""
        ...


def sampling_steps(num_steps: int, count: int, spacing: Spacing = "leading") -> list[int]:
    """The steps of a short way back, decreasing, with −1 at the end.

    Args:
        num_steps: T of the schedule.
        count: how many, at most T.
        spacing: "leading" are the multiples of T // count from 0 on; "trailing" end at T − 1; "linspace" hold both 0
            and T − 1.

    Raises:
        ValueError: if the count is outside 1..T or the spacing unknown.

    >>> sampling_steps(200, 4), sampling_steps(200, 4, "trailing"), sampling_steps(200, 4, "linspace")
    ([150, 100, 50, 0, -1], [199, 149, 99, 49, -1], [199, 133, 66, 0, -1])
    """
    check_choice("spacing", spacing, ("leading", "trailing", "linspace"))
    if not 1 <= count <= num_steps:
        raise ValueError(f"count={count} must lie between 1 and {num_steps}, the steps of the schedule")
    if spacing == "leading":
        return [*(k * (num_steps // count) for k in reversed(range(count))), -1]
    if spacing == "trailing":
        return [*(round(num_steps - k * num_steps / count) - 1 for k in range(count)), -1]
    if count == 1:
        return [num_steps - 1, -1]
    return [*(round((num_steps - 1) * k / (count - 1)) for k in reversed(range(count))), -1]


def ddim_sample(
    denoiser: Denoiser,
    condition: Condition | None,
    seeds: Sequence[int],
    *,
    count: int = 40,
    eta: float = 0.0,
    guidance: float | None = None,
    unconditional: Tensor | None = None,
    spacing: Spacing = "leading",
    steps: Sequence[int] | None = None,
    callback: Callable[[int, Tensor], Tensor | None] | None = None,
) -> Tensor:
    """Samples of a denoiser, one for every seed.

    Args:
        denoiser: as the protocol says; put it in evaluation mode.
        condition: (n, ...) of each sample, or a function of the step that returns such.
        seeds: of the samples' noise; a sample does not depend on its batch, up to the rounding of products.
        count: denoising steps.
        eta: 0 is deterministic after the start, 1 adds the noise of the forward process.
        guidance: factor w of unconditional + w (conditional − unconditional), on what the denoiser predicts.
        unconditional: (n, ...) condition of the empty text, for guidance.
        spacing: see `sampling_steps`.
        steps: the steps themselves, decreasing, in place of `count` and `spacing`; −1 ends without noise.
        callback: see `reverse`.

    Returns:
        (n, ...) at "step −1".

    Raises:
        ValueError: if guidance has no unconditional condition, a prediction has another shape than its input, or as
            `sampling_steps` and `NoiseSchedule.reverse_step`.
    """
    if guidance is not None and unconditional is None:
        raise ValueError("guidance needs `unconditional`, the condition of the empty text")
    schedule, noise = denoiser.schedule, SeededNoise(seeds)
    like = condition(schedule.num_steps - 1) if callable(condition) else condition
    start = noise(denoiser.shape) if like is None else noise(denoiser.shape).to(like)

    def predict_x0(x: Tensor, step: int) -> Tensor:
        at = torch.full((len(x),), step, device=x.device)
        given = condition(step) if callable(condition) else condition
        predicted = denoiser.predict(x, at, given)
        if guidance is not None:
            free = denoiser.predict(x, at, unconditional)
            predicted = free + guidance * (predicted - free)
        return schedule.to_x0(predicted, x, at, denoiser.prediction_type)

    way = sampling_steps(schedule.num_steps, count, spacing) if steps is None else steps
    step_back = partial(schedule.reverse_step, eta=eta)
    return reverse(step_back, predict_x0, start, way, noise if eta > 0 else None, callback)
