"""How a picture turns to noise, and what a denoiser may predict of it.

    x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε        ε ~ N(0, I),  t = 0..T − 1,  ᾱ decreasing

    epsilon   ε
    v         √ᾱ_t ε − √(1 − ᾱ_t) x_0
    x0        x_0

Each of the three follows from x_t and any one of them. Coefficients are float64 and are rounded to the tensor's type
where they meet it.

Song et al., "Denoising Diffusion Implicit Models", ICLR 2021; v is that of Salimans and Ho, "Progressive Distillation
for Fast Sampling of Diffusion Models", ICLR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from equipoise.core.validate import check_choice, check_finite

PredictionType: TypeAlias = Literal["epsilon", "v", "x0"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)


class NoiseSchedule:
    """The shares ᾱ of the picture's variance that are left at each step.

    Args:
        alphas_cumprod: (T,) ᾱ, strictly decreasing, in (0, 1]; kept in float64 on the CPU.
        final_alpha: ᾱ after the last step back, which is "step −1"; 1 gives the picture without noise.

    Raises:
        ValueError: if ᾱ is not finite, leaves (0, 1] or does not decrease.

    >>> schedule = NoiseSchedule.cosine(200)
    >>> schedule.num_steps, schedule.alpha(-1)
    (200, 1.0)
    """

    def __init__(self, alphas_cumprod: Float[Tensor, " t"] | Sequence[float], final_alpha: float = 1.0) -> None:
        held = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device="cpu").detach().clone()
        if held.ndim != 1 or not len(held):
            raise ValueError(f"alphas_cumprod must have shape (steps,), at least one, got {tuple(held.shape)}")
        check_finite("alphas_cumprod", held)
        if bool((held <= 0).any() | (held > 1).any()) or bool((held.diff() >= 0).any()):
            raise ValueError("alphas_cumprod must decrease strictly and lie in (0, 1]")
        if not held[0] <= final_alpha <= 1:
            raise ValueError(f"final_alpha={final_alpha} must lie between alphas_cumprod[0]={float(held[0])} and 1")
        self.alphas_cumprod: Float64[Tensor, " t"] = held
        self.final_alpha = float(final_alpha)

    @classmethod
    def linear(cls, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """Of betas on a line: ᾱ_t = Π (1 − β)."""
        return cls(_from_betas(torch.linspace(beta_start, beta_end, _steps(num_steps), dtype=torch.float64)))

    @classmethod
    def scaled_linear(
        cls, num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> NoiseSchedule:
        """Of betas whose square roots are on a line, as in Stable Diffusion."""
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, _steps(num_steps), dtype=torch.float64)
        return cls(_from_betas(roots**2))

    @classmethod
    def cosine(
        cls, num_steps: int = 1000, *, offset: float = 0.008, low: float = 1e-4, high: float = 0.9999
    ) -> NoiseSchedule:
        """ᾱ_t = cos²((t/T + s)/(1 + s) π/2) / cos²(s/(1 + s) π/2), between `low` and `high`.

        Args:
            num_steps: T.
            offset: s.
            low: ᾱ is at least this; where several steps would share a bound they are spread within a
                millionth part of it, so that ᾱ still decreases.
            high: ᾱ is at most this.
        """
        place = (torch.arange(_steps(num_steps), dtype=torch.float64) + 1) / num_steps
        curve = torch.cos((place + offset) / (1 + offset) * math.pi / 2) ** 2
        alphas = (curve / math.cos(offset / (1 + offset) * math.pi / 2) ** 2).clamp(low, high)
        held = torch.arange(num_steps, dtype=torch.float64) / num_steps
        return cls(alphas * (1 - 1e-6 * held))

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def alpha(self, step: int) -> float:
        """ᾱ of a step; −1 is after the last step back.

        Raises:
            ValueError: if the step is outside −1..T − 1.
        """
        if not -1 <= step < self.num_steps:
            raise ValueError(f"step={step} must lie between -1 and {self.num_steps - 1}")
        return self.final_alpha if step == -1 else float(self.alphas_cumprod[step])

    def add_noise(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, " n"]) -> Tensor:
        """x_t of pictures (n, ...), each at its own step.

        Raises:
            ValueError: if shapes differ or a step is outside 0..T − 1.
        """
        signal, spread = self._coefficients(x0, steps)
        _check_same(x0, noise, "noise")
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, " n"], kind: PredictionType) -> Tensor:
        """What a denoiser of this kind is asked to predict.

        Raises:
            ValueError: if the kind is unknown, or as `add_noise`.
        """
        check_choice("prediction_type", kind, PREDICTION_TYPES)
        _check_same(x0, noise, "noise")
        if kind == "epsilon":
            return noise
        if kind == "x0":
            return x0
        signal, spread = self._coefficients(x0, steps)
        return signal * noise - spread * x0

    def to_x0(self, prediction: Tensor, x_t: Tensor, steps: Int[Tensor, " n"], kind: PredictionType) -> Tensor:
        """The picture that a prediction stands for.

        Raises:
            ValueError: as `target`.
        """
        check_choice("prediction_type", kind, PREDICTION_TYPES)
        _check_same(x_t, prediction, "prediction")
        if kind == "x0":
            return prediction
        signal, spread = self._coefficients(x_t, steps)
        if kind == "v":
            return signal * x_t - spread * prediction
        return (x_t - spread * prediction) / signal

    def to_noise(self, prediction: Tensor, x_t: Tensor, steps: Int[Tensor, " n"], kind: PredictionType) -> Tensor:
        """The noise that a prediction stands for; where ᾱ is 1 there is none to see, and "x0" gives zeros.

        Raises:
            ValueError: as `target`.
        """
        check_choice("prediction_type", kind, PREDICTION_TYPES)
        _check_same(x_t, prediction, "prediction")
        if kind == "epsilon":
            return prediction
        signal, spread = self._coefficients(x_t, steps)
        if kind == "v":
            return signal * prediction + spread * x_t
        return torch.where(spread > 0, (x_t - signal * prediction) / spread.clamp(min=1e-30), 0.0)

    def reverse_step(
        self, x_t: Tensor, x0: Tensor, step: int, step_prev: int, noise: Tensor | None = None, eta: float = 0.0
    ) -> Tensor:
        """x at an earlier step, given x at a step and the predicted picture.

            x_prev = √ᾱ_prev x_0 + √(1 − ᾱ_prev − σ²) ε + σ z        ε = (x_t − √ᾱ_t x_0) / √(1 − ᾱ_t)
            σ = η √((1 − ᾱ_prev) / (1 − ᾱ_t)) √(1 − ᾱ_t / ᾱ_prev)

        Args:
            x_t: (n, ...).
            x0: (n, ...), the prediction.
            step: t, the same for all.
            step_prev: an earlier step, −1 for the last.
            noise: z, where η > 0.
            eta: 0 is deterministic, 1 the variance of the forward process.

        Raises:
            ValueError: unless −1 ≤ step_prev < step < T, or if η > 0 has no noise or η is negative.
        """
        if not step_prev < step:
            raise ValueError(f"step_prev={step_prev} must be below step={step}")
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta={eta} must be at least 0")
        here, before = self.alpha(step), self.alpha(step_prev)
        sigma = eta * math.sqrt((1 - before) / (1 - here) * (1 - here / before)) if here < 1 else 0.0
        if sigma > 0 and noise is None:
            raise ValueError(f"eta={eta} needs noise")
        seen = (x_t - math.sqrt(here) * x0) / math.sqrt(1 - here) if here < 1 else torch.zeros_like(x_t)
        moved = math.sqrt(before) * x0 + math.sqrt(max(1 - before - sigma**2, 0.0)) * seen
        return moved if noise is None or sigma == 0 else moved + sigma * noise

    def _coefficients(self, x: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        if steps.dtype.is_floating_point or steps.dtype == torch.bool or steps.shape != x.shape[:1]:
            raise ValueError(
                f"steps must be whole numbers of shape {tuple(x.shape[:1])}, got {steps.dtype} {tuple(steps.shape)}"
            )
        if len(steps) and not 0 <= int(steps.min()) <= int(steps.max()) < self.num_steps:
            raise ValueError(
                f"steps must lie between 0 and {self.num_steps - 1}, got {int(steps.min())} to {int(steps.max())}"
            )
        alphas = self.alphas_cumprod.to(steps.device)[steps.long()].view(-1, *[1] * (x.ndim - 1))
        return alphas.sqrt().to(x), (1 - alphas).sqrt().to(x)


def _from_betas(betas: Tensor) -> Tensor:
    if bool((betas <= 0).any() | (betas >= 1).any()):
        raise ValueError(f"betas must lie in (0, 1), got {float(betas.min())} to {float(betas.max())}")
    return torch.cumprod(1 - betas, 0)


def _steps(num_steps: int) -> int:
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    return num_steps


def _check_same(x: Tensor, other: Tensor, name: str) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{name} must have shape {tuple(x.shape)}, got {tuple(other.shape)}")
