"""Pictures of a denoiser that reads the original text first and the debiased one later; see `two_stage`.

The text of guidance, the empty one, is always read by the original encoder.

Source: LightFair, NeurIPS 2025. Reconstructed, as `two_stage` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from equipoise.core.diffusion.sampling import Denoiser, Spacing, ddim_sample
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Probability, Real
from equipoise.generative.fairness.two_stage import reads_debiased

ReadText: TypeAlias = Callable[[Sequence[str]], Tensor]
"""Prompts to the conditions (n, ...) that a denoiser reads."""


class TwoStageSampler:
    """A `TextToImage` of a denoiser, the original text encoder, the debiased one, and when to change to it.

    Args:
        denoiser: with its noise schedule, see `core.diffusion.Denoiser`; in evaluation mode.
        original: reads prompts as the denoiser was trained.
        debiased: reads them with the debiased encoder.
        decode: samples of the denoiser to pictures in [0, 1]; as they are if absent.
        switch_fraction: share of the steps of training, counted from the end of sampling, that read the debiased text:
            1 all, 0 none.
        count: denoising steps.
        eta: of DDIM.
        guidance: factor of classifier-free guidance; none if absent.
        spacing: of the steps, see `sampling_steps`.

    Raises:
        ValueError: if a setting is out of range.

    >>> from equipoise.data.tiny_diffusion import TinyDiffusionConfig, untrained_tiny_diffusion
    >>> _, denoiser = untrained_tiny_diffusion(TinyDiffusionConfig())
    >>> def read(prompts):
    ...     return torch.ones(len(prompts), 48)
    >>> draw = TwoStageSampler(denoiser, read, lambda prompts: -read(prompts), switch_fraction=0.8, count=5)
    >>> draw(["a dax", "a wug"], [0, 1]).shape
    torch.Size([2, 128])
    """

    @checked
    def __init__(
        self,
        denoiser: Denoiser,
        original: ReadText,
        debiased: ReadText,
        decode: Callable[[Tensor], Tensor] | None = None,
        *,
        switch_fraction: Probability = 0.9,
        count: Count = 40,
        eta: NonNegative = 0.0,
        guidance: Real | None = None,
        spacing: Spacing = "leading",
    ) -> None:
        self.denoiser, self.original, self.debiased, self.decode = denoiser, original, debiased, decode
        self.switch_fraction, self.count, self.eta = switch_fraction, count, eta
        self.guidance, self.spacing = guidance, spacing

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures, one for every prompt; each text is read twice, whatever the number of steps.

        Raises:
            ValueError: if there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        first, last = self.original(prompts), self.debiased(prompts)
        if first.shape != last.shape:
            raise ValueError(f"the encoders give conditions of shapes {tuple(first.shape)} and {tuple(last.shape)}")
        steps = self.denoiser.schedule.num_steps
        free = None if self.guidance is None else self.original([""] * len(prompts))
        samples = ddim_sample(
            self.denoiser,
            lambda step: last if reads_debiased(step, steps, self.switch_fraction) else first,
            seeds,
            count=self.count,
            eta=self.eta,
            guidance=self.guidance,
            unconditional=free,
            spacing=self.spacing,
        )
        return samples if self.decode is None else self.decode(samples)
