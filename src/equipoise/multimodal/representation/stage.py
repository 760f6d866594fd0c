"""A stage of a training as rounds of steps, for `core.epochs.fit_epochs`."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from equipoise.core.diffusion import Denoiser
from equipoise.multimodal.representation.gradient_conflict import TrainingStep
from equipoise.multimodal.representation.steps import Models, Step, seed_of


class Stage:
    """What is trained, on what, and how: one epoch of it is a round of steps.

    Args:
        models: what runs.
        images: a tensor, or anything with items.
        ids: (n,) or None.
        name: of the loss.
        trained: the module whose parameters are trained.
        trains_encoder: whether embeddings have a gradient.
        steps: in all.
        learning_rate: of AdamW.
        batch_size: images of a batch.
        accumulation: batches of a step.
        weight_decay: of AdamW.
        clip: most norm of the gradient.
        round_steps: steps of a round.
        callbacks: called before each step.
        seed: numbers that all randomness comes from.
    """

    def __init__(
        self,
        models: Models,
        images: Any,
        ids: Tensor | None,
        *,
        name: str,
        trained: nn.Module,
        trains_encoder: bool,
        steps: int,
        learning_rate: float,
        batch_size: int,
        accumulation: int,
        weight_decay: float,
        clip: float,
        round_steps: int,
        callbacks: Sequence[Callable[[TrainingStep], None]],
        seed: tuple[int, ...],
    ) -> None:
        if ids is not None and len(ids) != len(images):
            raise ValueError(f"ids has {len(ids)} entries, there are {len(images)} images")
        self._models, self._images, self._name = models, images, name
        self._ids = torch.arange(len(images)) if ids is None else ids.cpu()
        self._trains_encoder, self._callbacks, self._seed = trains_encoder, callbacks, seed
        self._steps, self._round_steps, self._clip = steps, round_steps, clip
        self._batch_size, self._accumulation = min(batch_size, len(images)), accumulation
        self.parameters = [each for each in trained.parameters() if each.requires_grad]
        # A module that trains moves its running statistics too, whatever is frozen in it; around adapters all rests.
        self._model = trained if trained.training else nn.ParameterList(self.parameters)
        self._optimizer = torch.optim.AdamW(self.parameters, learning_rate, weight_decay=weight_decay)
        self._rates = (learning_rate, weight_decay)
        self._step = 0

    @property
    def model(self) -> nn.Module:
        """What changes in the training: the whole module with its buffers, or its adapters alone."""
        return self._model

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return math.ceil(self._steps / self._round_steps)

    def epoch(self) -> float:
        """A round of steps; their mean loss."""
        losses = []
        # Dropout draws from the global state, which is put aside for that; see `Step`.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
            for _ in range(min(self._round_steps, self._steps - self._step)):
                losses.append(self._advance())
        return statistics.fmean(losses)

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted training needs to go on."""
        return {
            "model": {name: value.detach() for name, value in self._model.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = int(state["step"])

    def parts(self) -> tuple[Any, ...]:
        """What the training depends on, for a fingerprint."""
        settings = (
            self._name,
            self._seed,
            self._steps,
            self._batch_size,
            self._accumulation,
            self._round_steps,
            self._clip,
            self._rates,
        )
        return self._models, self._images, self._ids, settings

    @torch.no_grad()
    def check_fit(self) -> None:
        """Run all networks on one image.

        Raises:
            ValueError: if one does not take what another gives.
        """
        models, image = self._models, self._read(torch.zeros(1, dtype=torch.long))
        modes = {part: part.training for part in (*models.encoder.modules(), *models.projector.modules())}
        models.encoder.eval()
        models.projector.eval()
        try:
            embedding = models.embed(image)
            if embedding.ndim != 2 or len(embedding) != 1:
                raise ValueError(
                    f"the encoder must give embeddings (n, d), of one image it gave {tuple(embedding.shape)}"
                )
            condition, latents = models.condition(embedding), models.latents(image)
        finally:
            for part, mode in modes.items():
                part.training = mode
        denoiser: Denoiser = models.denoiser
        if tuple(latents.shape[1:]) != tuple(denoiser.shape):
            raise ValueError(
                f"the autoencoder gives latents of shape {tuple(latents.shape[1:])}, the denoiser reads "
                f"{tuple(denoiser.shape)}"
            )
        try:
            found = models.predict(latents, torch.zeros(1, dtype=torch.long, device=latents.device), condition)
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"the projector gives conditions of shape {tuple(condition.shape[1:])}, which the denoiser does not "
                f"take: {str(error).splitlines()[0]}"
            ) from error
        if found.shape != latents.shape:
            raise ValueError(
                f"the denoiser gave predictions of shape {tuple(found.shape[1:])} for latents of "
                f"{tuple(latents.shape[1:])}"
            )

    def _advance(self) -> float:
        self._optimizer.zero_grad()
        total = 0.0
        for part in range(self._accumulation):
            rows = self._rows(self._step * self._accumulation + part)
            step = Step(
                self._models,
                self._read(rows),
                self._ids[rows].to(self._device),
                number=self._step,
                parameters=self.parameters,
                seed=seed_of(*self._seed, 1, self._step, part),
                trains_encoder=self._trains_encoder,
            )
            if part == 0:
                for callback in self._callbacks:
                    callback(step)
            loss = step.loss(self._name) / self._accumulation
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss of step {self._step} is {float(loss)}; lower the learning rate")
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self.parameters, self._clip)
        self._optimizer.step()
        self._step += 1
        return total

    def _rows(self, batch: int) -> Tensor:
        """The images of a batch: each pass over them has an order of its own, and batches go on over its end."""
        count, size = len(self._images), self._batch_size
        found: list[Tensor] = []
        place, end = batch * size, (batch + 1) * size
        while place < end:
            turn, first = divmod(place, count)
            order = torch.randperm(count, generator=Generator().manual_seed(seed_of(*self._seed, 0, turn)))
            taken = order[first : first + end - place]
            found.append(taken)
            place += len(taken)
        return torch.cat(found)

    def _read(self, rows: Tensor) -> Tensor:
        if isinstance(self._images, Tensor):
            taken = self._images[rows.to(self._images.device)]
        else:
            taken = torch.stack([torch.as_tensor(self._images[int(k)]) for k in rows])
        if taken.ndim != 4 or not taken.is_floating_point():
            raise ValueError(
                f"images must be floating point (n, c, h, w), got {taken.dtype} {list(taken.shape)}; divide by 255"
            )
        least, most = (float(each) for each in taken.aminmax())
        if not (least >= 0 and most <= 1):
            raise ValueError(f"images must lie in [0, 1], got {least:g} to {most:g}; the trainer normalises them")
        # The networks' own precision, whatever the images have.
        dtype = self._first.dtype if self._first.is_floating_point() else torch.float32
        return taken.to(self._device, dtype)

    @property
    def _first(self) -> nn.Parameter:
        """A parameter of the encoder, or of the projector where the encoder has none."""
        return next(itertools.chain(self._models.encoder.parameters(), self._models.projector.parameters()))

    @property
    def _device(self) -> torch.device:
        return self._first.device
