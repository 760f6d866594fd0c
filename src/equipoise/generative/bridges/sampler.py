"""From a degraded picture to a clean one in a few steps of a bridge.

    n = N−1, …, 0 on equally spaced steps, from x_{N−1} := x_1:
    x_p = posterior mean of (x_n, x̂_0), plus noise unless p = 0       x̂_0 = x_n − f_n e(x_n, n)

Where some pixels of x_1 are known to be right (inpainting), they are put back after every step, as noisy as the bridge
is there. As in the authors' code, but for the last step, where known pixels come back without noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.diffusion import SeededNoise, reverse
from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.generative.bridges.schedule import BridgeSchedule, space_indices


class BridgeSampler:
    """The way along a bridge.

    Args:
        schedule: of the bridge.
        steps: how often the network is called, below N.
        clip: whether predicted clean pictures are clipped to [−1, 1].

    Attributes:
        path: the steps that are visited, from N − 1 down to 0.

    Raises:
        ValueError: if there are as many steps as the schedule has, or more.

    >>> sampler = BridgeSampler(BridgeSchedule(100), steps=4)
    >>> sampler.path
    [99, 74, 50, 25, 0]
    >>> sampler(lambda x, step: torch.zeros_like(x), torch.ones(1, 2)).shape
    torch.Size([1, 2])
    """

    @checked
    def __init__(self, schedule: BridgeSchedule, steps: Count = 10, *, clip: bool = False) -> None:
        if steps >= schedule.num_steps:
            raise ValueError(f"steps={steps} must be below num_steps={schedule.num_steps} of the schedule")
        self.schedule, self.steps, self.clip = schedule, steps, clip
        self.path = space_indices(schedule.num_steps, steps + 1)[::-1]

    @checked
    def __call__(
        self,
        predict: Callable[[Tensor, int], Tensor],
        x1: Float[Tensor, " n *shape"],
        seed: Whole = 0,
        *,
        known: Tensor | None = None,
    ) -> Float[Tensor, " n *shape"]:
        """Clean pictures.

        Args:
            predict: the network's output e for x (n, ...) at a step.
            x1: (n, ...) degraded pictures.
            seed: of the noise, the same for every picture: what comes out for one does not depend on the others.
            known: booleans, which values of x1 are right, of a shape that broadcasts to that of x1.

        Raises:
            ValueError: if the network's output has another shape than its input.
        """
        schedule, noise = self.schedule, SeededNoise([seed])

        def predict_x0(x: Tensor, step: int) -> Tensor:
            output = predict(x, step)
            if output.shape != x.shape:
                raise ValueError(
                    f"the network must return the shape of its input, {tuple(x.shape)}, got {tuple(output.shape)}"
                )
            return schedule.predict_x0(x, output, step, clip=self.clip)

        def put_back(step: int, x: Tensor) -> Tensor | None:
            if known is None:
                return None
            spread = float(schedule.std_bridge[step]) if step else 0.0
            held = x1 + spread * noise(x1.shape[1:]).to(x1) if spread else x1
            return torch.where(known, held, x)

        return reverse(schedule.reverse_step, predict_x0, x1, self.path, noise, put_back)
