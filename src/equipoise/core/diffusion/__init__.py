"""Diffusion once: noise schedules, what a denoiser predicts, and the way back, shared by diffusion and by bridges."""

from __future__ import annotations

from equipoise.core.diffusion.reverse import ReverseStep, SeededNoise, reverse
from equipoise.core.diffusion.sampling import Denoiser, ddim_sample, sampling_steps
from equipoise.core.diffusion.schedule import PREDICTION_TYPES, NoiseSchedule, PredictionType

__all__ = [
    "PREDICTION_TYPES",
    "Denoiser",
    "NoiseSchedule",
    "PredictionType",
    "ReverseStep",
    "SeededNoise",
    "ddim_sample",
    "reverse",
    "sampling_steps",
]
