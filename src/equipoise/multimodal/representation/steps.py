"""One step of training: a batch of images with its noise and its views, and the losses of it, each made when asked for.

Everything that is random comes from (seed, stage, step, part), so that a training goes on after an interruption
without the states of generators, and what a callback computes beside a step does not change the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from equipoise.core.diffusion import Denoiser
from equipoise.core.validate import check_choice
from equipoise.multimodal.representation.augmentation import PixelNorm
from equipoise.multimodal.representation.baselines import nt_xent, reconstruction_loss
from equipoise.multimodal.representation.dcr_loss import DCRLoss
from equipoise.multimodal.representation.grid import dcr_grid_loss

StageLoss: TypeAlias = Literal["dcr", "rec", "con", "con+rec"]
Augment: TypeAlias = Callable[[Tensor, Generator], Tensor]
LOSSES = ("dcr", "rec", "con", "con+rec")


@runtime_checkable
class Autoencoder(Protocol):
    """What makes the latents that the denoiser reads."""

    def encode(self, pictures: Float[Tensor, "n c h w"], /) -> Tensor:
        """Latents (n, ...) of normalised pictures."""
        ...


@dataclass(frozen=True)
class Models:
    """What a step runs, and how.

    Attributes:
        encoder: normalised images to embeddings (n, d).
        projector: embeddings to conditions.
        denoiser: frozen.
        autoencoder: frozen.
        augment: (images in [0, 1], generator) to views of them in [0, 1].
        encoder_pixels: how the encoder wants pixels.
        autoencoder_pixels: how the autoencoder wants them.
        loss: the settings of the contrast.
        chunk: rows of the grid at a time.
        negatives: sampled for each image; all by default.
        reconstruction_weight: of "con+rec".
        half: whether networks run in bfloat16.
    """

    encoder: nn.Module
    projector: nn.Module
    denoiser: Denoiser
    autoencoder: Autoencoder
    augment: Augment
    encoder_pixels: PixelNorm
    autoencoder_pixels: PixelNorm
    loss: DCRLoss
    chunk: int | None
    negatives: int | None
    reconstruction_weight: float
    half: bool

    def autocast(self, device: torch.device) -> Any:
        """Half precision for networks, where it is asked for; losses are computed outside."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.half)

    def predict(self, noisy: Tensor, steps: Tensor, condition: Tensor) -> Tensor:
        """The denoiser's prediction in float32."""
        with self.autocast(noisy.device):
            return self.denoiser.predict(noisy, steps, condition).float()

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of images in [0, 1], float32."""
        with self.autocast(images.device):
            found: Tensor = self.encoder(self.encoder_pixels(images))
        return found.float()

    def condition(self, embedding: Tensor) -> Tensor:
        """Conditions of embeddings, float32."""
        with self.autocast(embedding.device):
            found: Tensor = self.projector(embedding)
        return found.float()

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Latents of images in [0, 1]."""
        return self.autoencoder.encode(self.autoencoder_pixels(images))


def seed_of(*numbers: int) -> int:
    """A seed made of several numbers.

    >>> seed_of(0, 1) != seed_of(1, 0)
    True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Step:
    """A batch and its losses: what a callback is given before each step.

    Args:
        models: what runs.
        images: (B, c, h, w) in [0, 1].
        ids: (B,) the same for images that are the same.
        number: of the step.
        parameters: what is trained.
        seed: of all that is random.
        trains_encoder: whether embeddings have a gradient.
    """

    def __init__(
        self,
        models: Models,
        images: Tensor,
        ids: Tensor,
        *,
        number: int,
        parameters: Sequence[nn.Parameter],
        seed: int,
        trains_encoder: bool,
    ) -> None:
        self.models, self.images, self.ids = models, images, ids
        self.number, self.parameters = number, parameters
        self._seed, self._trains_encoder = seed, trains_encoder
        drawn, schedule = Generator().manual_seed(seed), models.denoiser.schedule
        self.latents = models.latents(images)
        size, device = len(images), images.device
        self.times = torch.randint(schedule.num_steps, (size,), generator=drawn).to(device)
        noise = torch.randn(self.latents.shape, generator=drawn).to(self.latents)
        self.noisy = schedule.add_noise(self.latents, noise, self.times)
        self.target = schedule.target(self.latents, noise, self.times, models.denoiser.prediction_type)

    def loss(self, name: str) -> Tensor:
        """A loss of the batch: "dcr", "rec", "con", or "con+rec", the naive sum."""
        check_choice("loss", name, LOSSES)
        models = self.models
        if name == "rec":
            return reconstruction_loss(models.predict(self.noisy, self.times, self._condition), self.target)
        if name == "con":
            return nt_xent(self._embedding, self._view_embedding, models.loss.temperature)
        if name == "con+rec":
            return self.loss("con") + models.reconstruction_weight * self.loss("rec")
        return dcr_grid_loss(
            models.predict,
            self.noisy,
            self.times,
            self._condition,
            models.condition(self._view_embedding),
            self.target,
            models.loss,
            self.ids,
            rows=models.chunk,
            negatives=models.negatives,
            generator=Generator().manual_seed(seed_of(self._seed, 3)),
        )

    @cached_property
    def _embedding(self) -> Tensor:
        return self._embed(self.images, 1)

    @cached_property
    def _view_embedding(self) -> Tensor:
        views = self.models.augment(self.images, Generator().manual_seed(seed_of(self._seed, 0)))
        if not isinstance(views, Tensor) or views.shape != self.images.shape:
            shape = tuple(views.shape) if isinstance(views, Tensor) else type(views).__name__
            raise ValueError(f"augment must give views of shape {tuple(self.images.shape)}, got {shape}")
        return self._embed(views, 2)

    @cached_property
    def _condition(self) -> Tensor:
        return self.models.condition(self._embedding)

    def _embed(self, images: Tensor, part: int) -> Tensor:
        # Of dropout; the caller has put the global state aside.
        torch.manual_seed(seed_of(self._seed, part))
        with torch.set_grad_enabled(self._trains_encoder and torch.is_grad_enabled()):
            return self.models.embed(images)
