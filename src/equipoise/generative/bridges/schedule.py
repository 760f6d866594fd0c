"""A bridge between a degraded picture and a clean one: how far apart they are at each step, and the way back.

    β      b_n = (√β₀ + n/(N−1) (√(β_max/N) − √β₀))²; the first N/2 of these, then the same ones backwards
    f_n² = Σ_{i≤n} β_i        w_n² = Σ_{i≥n} β_i        both with β_n
    x_n  = μ₀ x_0 + μ₁ x_1 + s z      μ₀ = w²/(f²+w²)   μ₁ = f²/(f²+w²)   s² = f² w²/(f²+w²)   z ~ N(0, I)
    label = (x_n − x_0)/f_n           so that x_0 = x_n − f_n label
    x_p  = (d² x_0 + f_p² x_n)/(d²+f_p²) + [p > 0] √(d² f_p²/(d²+f_p²)) z        d² = f_n² − f_p²

x_0 is the clean picture, x_1 the degraded one. Along the deterministic path (`ot_ode`) s and the noise on the way back
are 0. f_0 = √β₀ is above 0, so that the label is finite at step 0.

Schedule and formulas as in the authors' code of "Heterogeneous Image-to-Image Backdoor Attack through Mixture of
Schroedinger Bridges", ICML 2025, and of Liu et al., "I²SB: Image-to-Image Schrödinger Bridge", ICML 2023.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Count, InParts, Positive, Whole

# Networks are trained on these, so their values are looked at once, where the pictures come in.
Batch: TypeAlias = Annotated[Float[Tensor, " n *shape"], InParts()]
Steps: TypeAlias = Annotated[Integer[Tensor, " n"], ClassIndex(None)] | Whole


class BridgePosterior(NamedTuple):
    """Where an earlier step lies, given a later one and the clean picture.

    Attributes:
        mean: of the shape of the picture.
        std: of every value.
    """

    mean: Tensor
    std: float


class BridgeSchedule:
    """The noise of a bridge, symmetric in time.

    Args:
        num_steps: N, even.
        beta_start: β₀, above 0.
        beta_max: N times the β that the rise would end at after N steps; below N β₀ the first half falls.
        ot_ode: the deterministic path: x_n is on the line between the two pictures.

    Attributes:
        beta: (N,) float64, as all the following.
        std_fwd: (N,) f.
        std_bwd: (N,) w.
        mu_x0: (N,) μ₀.
        mu_x1: (N,) μ₁.
        std_bridge: (N,) s, 0 along the deterministic path.
        time: (N,) what a network is told of a step: N times a line from 10⁻⁴ to 1.

    Raises:
        ValueError: if `num_steps` is odd or a β is not above 0.

    >>> schedule = BridgeSchedule(10)
    >>> schedule.mu_x0[[0, 4, 9]]
    tensor([0.9964, 0.5979, 0.0036], dtype=torch.float64)
    """

    @checked
    def __init__(
        self, num_steps: Count = 1000, beta_start: Positive = 1e-4, beta_max: Positive = 0.3, *, ot_ode: bool = False
    ) -> None:
        if num_steps % 2:
            raise ValueError(f"num_steps={num_steps} must be even, for the second half mirrors the first")
        self.num_steps, self.beta_start, self.beta_max, self.ot_ode = num_steps, beta_start, beta_max, ot_ode
        roots = torch.linspace(beta_start**0.5, (beta_max / num_steps) ** 0.5, num_steps, dtype=torch.float64)
        half = roots[: num_steps // 2] ** 2
        self.beta: Float64[Tensor, " steps"] = torch.cat([half, half.flip(0)])
        forward = self.beta.cumsum(0)
        backward = self.beta.flip(0).cumsum(0).flip(0)
        whole = forward + backward
        self.std_fwd: Float64[Tensor, " steps"] = forward.sqrt()
        self.std_bwd: Float64[Tensor, " steps"] = backward.sqrt()
        self.mu_x0: Float64[Tensor, " steps"] = backward / whole
        self.mu_x1: Float64[Tensor, " steps"] = forward / whole
        spread = (forward * backward / whole).sqrt()
        self.std_bridge: Float64[Tensor, " steps"] = torch.zeros_like(spread) if ot_ode else spread
        self.time: Float64[Tensor, " steps"] = torch.linspace(1e-4, 1, num_steps, dtype=torch.float64) * num_steps

    def __repr__(self) -> str:
        return (
            f"BridgeSchedule(num_steps={self.num_steps}, beta_start={self.beta_start}, beta_max={self.beta_max}, "
            f"ot_ode={self.ot_ode})"
        )

    @checked
    def sample(self, x0: Batch, x1: Batch, step: Steps, noise: Batch | None = None) -> Tensor:
        """x_n of pairs of pictures.

        Args:
            x0: (n, ...) clean pictures, in [−1, 1] by convention.
            x1: (n, ...) degraded ones.
            step: (n,) of each, or one of all.
            noise: (n, ...) standard normal; only the deterministic path does without.

        Raises:
            ValueError: if shapes differ, a step is out of range, or the noise is missing.

        >>> BridgeSchedule(10, ot_ode=True).sample(torch.zeros(1, 2), torch.ones(1, 2), 4)
        tensor([[0.4021, 0.4021]])
        """
        x0, x1 = _single(x0), _single(x1)
        between = self._at(self.mu_x0, step, x0) * x0 + self._at(self.mu_x1, step, x0) * x1
        if self.ot_ode:
            return between
        if noise is None:
            raise ValueError("noise is missing; draw it with torch.randn_like(x0), or take ot_ode=True")
        return between + self._at(self.std_bridge, step, x0) * _single(noise)

    @checked
    def label(self, x_n: Batch, x0: Batch, step: Steps) -> Tensor:
        """What a network is asked for: (x_n − x_0)/f_n; arguments and errors as `sample`."""
        x_n, x0 = _single(x_n), _single(x0)
        return (x_n - x0) / self._at(self.std_fwd, step, x_n)

    @checked
    def predict_x0(self, x_n: Batch, output: Batch, step: Steps, *, clip: bool = False) -> Tensor:
        """The clean picture that a network's output stands for: x_n − f_n output, clipped to [−1, 1] if asked.

        Raises:
            ValueError: as `sample`.
        """
        x_n, output = _single(x_n), _single(output)
        found = x_n - self._at(self.std_fwd, step, x_n) * output
        return found.clamp(-1, 1) if clip else found

    @checked
    def posterior(
        self,
        x_n: Annotated[Float[Tensor, "*shape"], InParts()],
        x0: Annotated[Float[Tensor, "*shape"], InParts()],
        step: Whole,
        step_prev: Whole,
    ) -> BridgePosterior:
        """The Gaussian of x at an earlier step.

        Args:
            x_n: at `step`.
            x0: the clean picture, or what is predicted of it.
            step: n.
            step_prev: p < n.

        Returns:
            Mean, and standard deviation: that of the formula for every p, 0 along the deterministic path.

        Raises:
            ValueError: unless p < n < N.

        >>> round(BridgeSchedule(10).posterior(torch.zeros(1), torch.ones(1), 7, 2).std, 4)
        0.0519
        """
        self._check(step)
        if step_prev >= step:
            raise ValueError(f"step_prev={step_prev} must be below step={step}")
        x_n, x0 = _single(x_n), _single(x0)
        # The sum of the β between, not a difference of sums, keeps all digits.
        between = float(self.beta[step_prev + 1 : step + 1].sum())
        before = float(self.beta[: step_prev + 1].sum())
        whole = between + before
        mean = between / whole * x0 + before / whole * x_n
        return BridgePosterior(mean, 0.0 if self.ot_ode else math.sqrt(between * before / whole))

    def reverse_step(self, x_t: Tensor, x0: Tensor, step: int, step_prev: int, noise: Tensor | None = None) -> Tensor:
        """x at an earlier step, with noise unless that is step 0, or the path is deterministic; see `posterior`.

        Raises:
            ValueError: as `posterior`.
        """
        mean, std = self.posterior(x_t, x0, step, step_prev)
        return mean if noise is None or step_prev == 0 or std == 0 else mean + std * noise

    def _check(self, step: int) -> None:
        if step >= self.num_steps:
            raise ValueError(f"step={step} must lie between 0 and {self.num_steps - 1}, the steps of the schedule")

    def _at(self, values: Tensor, step: Tensor | int, like: Tensor) -> Tensor:
        """Coefficients of steps, in the type and on the device of the pictures, one for each of them."""
        if isinstance(step, int):
            self._check(step)
            return values[step].to(like)
        if not torch.compiler.is_compiling():
            self._check(int(step.max()))
        return values.to(step.device)[step].view(-1, *[1] * (like.ndim - 1)).to(like)


@checked
def space_indices(num_steps: Count, count: Count) -> list[int]:
    """Steps from 0 to N − 1 with equal strides, as the released sampler has them: a running sum, rounded half to even.

    Args:
        num_steps: N.
        count: how many, at most N; 1 gives step 0 alone.

    Raises:
        ValueError: if there are more steps asked for than there are.

    >>> space_indices(1000, 5)
    [0, 250, 500, 749, 999]
    """
    if count > num_steps:
        raise ValueError(f"count={count} must be at most num_steps={num_steps}")
    stride = (num_steps - 1) / (count - 1) if count > 1 else 1.0
    taken, place = [], 0.0
    for _ in range(count):
        taken.append(round(place))
        place += stride
    return taken


def _single(x: Tensor) -> Tensor:
    """Half precision as float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
