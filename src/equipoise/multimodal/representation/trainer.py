"""Training an image encoder by a frozen diffusion model, in two stages.

    1 align      a projector learns to give the denoiser what it can reconstruct an image by; all else is frozen
    2 enhance    the encoder is adapted by the contrast among predictions, through the frozen denoiser
    after that   the adapters are merged; projector and denoiser are not needed any more

Stage 1 has the reconstruction loss, as the paper is said to have, or the contrast, as the authors' code has. Stage 2
can have the losses that the contrast is held against, too. The denoiser's target is what it predicts.

Rates, batches and adapters as in the authors' code: AdamW (.9, .999), weight decay .01, gradient norm up to 1, 16
images a batch and two batches a step, 1e-4 and 1e-5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from equipoise.core.checkpoint import check_folder
from equipoise.core.diffusion import Denoiser, PredictionType
from equipoise.core.epochs import TrainingHistory, fit_epochs
from equipoise.core.fingerprint import fingerprint
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.multimodal.representation.augmentation import DetailAugmentation, PixelNorm
from equipoise.multimodal.representation.dcr_loss import DCRLoss
from equipoise.multimodal.representation.gradient_conflict import TrainingStep
from equipoise.multimodal.representation.lora import LoRASettings, add_adapters, without_adapters
from equipoise.multimodal.representation.stage import Stage
from equipoise.multimodal.representation.steps import Augment, Autoencoder, Models, StageLoss


@runtime_checkable
class ImageSet(Protocol):
    """Images (c, h, w) in [0, 1] by number."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """One of them."""
        ...


Images: TypeAlias = Float[Tensor, "n c h w"] | ImageSet
Ids: TypeAlias = Integer[Tensor, " n"] | Bool[Tensor, " n"]
Callbacks: TypeAlias = Sequence[Callable[[TrainingStep], None]]


class DCRTrainer:
    """An encoder that is tuned by what a denoiser predicts under its embeddings.

    Args:
        encoder: maps normalised images (n, c, h, w) to embeddings (n, d); a copy of it is trained.
        projector: maps embeddings to conditions of the denoiser, such as `ConditionProjector`; trained in place.
        denoiser: a `Denoiser`; a module is frozen and put into evaluation mode by a fit.
        autoencoder: gives the latents that the denoiser reads; likewise.
        augment: a function of (images in [0, 1], generator) that gives views in [0, 1], by default
            `DetailAugmentation()`.
        stage1_loss: "rec" or "dcr".
        stage2_loss: "dcr", or, to compare with, "rec", "con" (NT-Xent of embeddings) or their sum "con+rec".
        loss: the settings of the contrast; its temperature is that of "con", too.
        chunk: images whose row of predictions is held at once, 1 for least memory; all of a batch by default.
        negatives: sampled for each image in place of all others; approximate.
        reconstruction_weight: of "rec" in "con+rec".
        lora: how the encoder is adapted; None trains all its parameters that ask for a gradient.
        encoder_pixels: how the encoder wants pixels, for OpenAI's CLIP `clip_pixels()`.
        autoencoder_pixels: how the autoencoder wants them; from −1 to 1 by default.
        target: what the denoiser must predict, to be sure; that is what it is trained towards in any case.
        mixed_precision: run the networks in bfloat16; weights, losses and gradients of weights stay float32.
        seed: of batches, noise, views, dropout and adapters.

    Attributes:
        encoder: the copy that is trained.
        projector: the projector.

    Raises:
        ValueError: if the denoiser predicts something else than `target`, or a setting is out of range.

    >>> from equipoise.core.diffusion import NoiseSchedule
    >>> from equipoise.core.models.principal import PrincipalAutoencoder
    >>> from equipoise.core.models.vector_denoiser import VectorDenoiser
    >>> from equipoise.data.tiny_diffusion import TinyDenoiser
    >>> from equipoise.multimodal import ConditionProjector
    >>> images = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> autoencoder = PrincipalAutoencoder((3, 4, 4), 8).fit(2 * images - 1)
    >>> denoiser = TinyDenoiser(VectorDenoiser(8, 6, width=16, blocks=1), NoiseSchedule.cosine(50))
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    >>> trainer = DCRTrainer(encoder, ConditionProjector(5, 6), denoiser, autoencoder)
    >>> len(trainer.fit_projector(images, steps=4, round_steps=2).losses)
    2
    >>> _ = trainer.fit_encoder(images, steps=2, batch_size=4)
    >>> trainer.export()
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=48, out_features=5, bias=True)
    )
    """

    @checked
    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        augment: Augment | None = None,
        stage1_loss: Literal["rec", "dcr"] = "rec",
        chunk: Count | None = None,
        lora: LoRASettings | None = LoRASettings(),  # noqa: B008 - frozen
        seed: Whole = 0,
        *,
        stage2_loss: StageLoss = "dcr",
        loss: DCRLoss | None = None,
        negatives: Count | None = None,
        reconstruction_weight: NonNegative = 1.0,
        encoder_pixels: PixelNorm | None = None,
        autoencoder_pixels: PixelNorm | None = None,
        target: PredictionType | None = None,
        mixed_precision: bool = False,
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            raise ValueError(
                f"denoiser must have schedule, prediction_type, shape and predict, got {type(denoiser).__name__}; see "
                "core.diffusion.Denoiser"
            )
        if target is not None and target != denoiser.prediction_type:
            raise ValueError(
                f"target={target!r}, but the denoiser predicts {denoiser.prediction_type!r}; what it is compared with "
                "must be what it predicts, so leave target out"
            )
        settings = loss or DCRLoss()
        if settings.reduction != "mean":
            raise ValueError(f"loss has reduction={settings.reduction!r}, a training needs 'mean'")
        self.encoder, self.projector = copy.deepcopy(encoder), projector
        self.stage1_loss, self.stage2_loss, self.lora, self.seed = stage1_loss, stage2_loss, lora, seed
        self._models = Models(
            self.encoder,
            projector,
            denoiser,
            autoencoder,
            augment or DetailAugmentation(),
            encoder_pixels or PixelNorm(),
            autoencoder_pixels or PixelNorm(),
            settings,
            chunk,
            negatives,
            reconstruction_weight,
            mixed_precision,
        )
        self._wanted = {name: each.requires_grad for name, each in self.encoder.named_parameters()}
        self._adapters: list[nn.Module] = []

    @property
    def approximate(self) -> bool:
        """Whether the contrast is of sampled negatives, so not quite the loss of the paper."""
        return self._models.negatives is not None

    @checked
    def fit_projector(
        self,
        images: Images,
        ids: Ids | None = None,
        *,
        steps: Count,
        learning_rate: Positive = 1e-4,
        batch_size: Count = 16,
        accumulation: Count = 1,
        weight_decay: NonNegative = 0.01,
        clip: Positive = 1.0,
        round_steps: Count = 100,
        validate: Callable[[nn.Module], float] | None = None,
        callbacks: Callbacks = (),
        progress: Callable[[int, float, float | None], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> TrainingHistory:
        """Stage 1: train the projector, and nothing else.

        Args:
            images: (n, c, h, w) in [0, 1], or anything with a length whose items are such images.
            ids: (n,) the same for images that are the same, which are no negatives of each other; a row drawn twice
                never is.
            steps: how many; the authors take 100,000.
            learning_rate: constant, of AdamW.
            batch_size: images of a batch, whose predictions are contrasted.
            accumulation: batches of a step.
            weight_decay: of AdamW.
            clip: most norm of the gradient of what is trained.
            round_steps: steps between two looks: checkpoints, `validate` and `progress`.
            validate: gives a value of what is trained, the higher the better; the best round is kept.
            callbacks: called with a `TrainingStep` before each step, such as a `ConflictMeter`.
            progress: told the round, its loss and its value after each.
            checkpoint: a file that is written after every round; a training of the same models, data and settings
                that finds it goes on from there, and ends with the same weights bit for bit.

        Returns:
            The mean loss of every round.

        Raises:
            ValueError: if the encoder, the projector and the denoiser do not fit each other, an image is outside
                [0, 1], or the checkpoint is of another training or in a folder that is not there.
            FloatingPointError: if a loss is not finite.
        """
        self.encoder.requires_grad_(False).eval()
        self.projector.requires_grad_(True).train()
        stage = Stage(
            self._models,
            _held(images),
            ids,
            name=self.stage1_loss,
            trained=self.projector,
            trains_encoder=False,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            accumulation=accumulation,
            weight_decay=weight_decay,
            clip=clip,
            round_steps=round_steps,
            callbacks=tuple(callbacks),
            seed=(self.seed, 1),
        )
        history = self._run(stage, self.projector, validate, progress, checkpoint)
        self.projector.eval()
        return history

    @checked
    def fit_encoder(
        self,
        images: Images,
        ids: Ids | None = None,
        *,
        steps: Count,
        learning_rate: Positive = 1e-5,
        batch_size: Count = 16,
        accumulation: Count = 1,
        weight_decay: NonNegative = 0.01,
        clip: Positive = 1.0,
        round_steps: Count = 100,
        validate: Callable[[nn.Module], float] | None = None,
        callbacks: Callbacks = (),
        progress: Callable[[int, float, float | None], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> TrainingHistory:
        """Stage 2: adapt the encoder, with the projector and the denoiser frozen.

        With adapters, only they are in training mode, so that running statistics of the encoder stay.

        Args:
            images: as in `fit_projector`, and so are all others.
            ids: as in `fit_projector`.
            steps: how many; the authors take 4,600.
            learning_rate: constant, of AdamW.
            batch_size: images of a batch.
            accumulation: batches of a step.
            weight_decay: of AdamW.
            clip: most norm of the gradient.
            round_steps: steps between two looks.
            validate: gives a value of the encoder.
            callbacks: called before each step.
            progress: told the round, its loss and its value.
            checkpoint: a file that is written after every round.

        Raises:
            ValueError: as `fit_projector`; if the encoder has no parameter to train.
            FloatingPointError: if a loss is not finite.
        """
        self._prepare_encoder()
        stage = Stage(
            self._models,
            _held(images),
            ids,
            name=self.stage2_loss,
            trained=self.encoder,
            trains_encoder=True,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            accumulation=accumulation,
            weight_decay=weight_decay,
            clip=clip,
            round_steps=round_steps,
            callbacks=tuple(callbacks),
            seed=(self.seed, 2),
        )
        history = self._run(stage, self.encoder, validate, progress, checkpoint)
        self.encoder.eval()
        return history

    def export(self) -> nn.Module:
        """The tuned encoder alone: a copy in evaluation mode, of the classes it came with, adapters merged."""
        plain = without_adapters(self.encoder)
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(self._wanted[name])
        return plain

    def _prepare_encoder(self) -> None:
        self.projector.requires_grad_(False).eval()
        if self.lora is None:
            for name, parameter in self.encoder.named_parameters():
                parameter.requires_grad_(self._wanted[name])
            self.encoder.train()
            if not any(self._wanted.values()):
                raise ValueError(
                    "the encoder has no parameter that asks for a gradient; call encoder.requires_grad_(True), or pass "
                    "lora=LoRASettings()"
                )
            return
        self.encoder.eval()
        if not self._adapters:
            self._adapters = list(add_adapters(self.encoder, self.lora, self.seed))
        self._set_adapters()

    def _set_adapters(self) -> None:
        for layer in self._adapters:
            layer.train()
            for name, parameter in layer.named_parameters():
                is_bias = name == "base.bias" and self.lora is not None and self.lora.biases
                parameter.requires_grad_(name.startswith("lora_") or is_bias)

    def _run(
        self,
        stage: Stage,
        judged: nn.Module,
        validate: Callable[[nn.Module], float] | None,
        progress: Callable[[int, float, float | None], None] | None,
        checkpoint: str | Path | None,
    ) -> TrainingHistory:
        for frozen in (self._models.denoiser, self._models.autoencoder):
            if isinstance(frozen, nn.Module):
                frozen.requires_grad_(False).eval()
        if checkpoint is not None:
            check_folder(checkpoint)
        stage.check_fit()

        def value() -> float:
            modes = {part: part.training for part in judged.modules()}
            judged.eval()
            try:
                return 0.0 if validate is None else validate(judged)
            finally:
                for part, mode in modes.items():
                    part.training = mode

        return fit_epochs(
            stage,
            stage.rounds,
            validate=None if validate is None else value,
            progress=progress,
            checkpoint=checkpoint,
            fingerprint="" if checkpoint is None else fingerprint(*stage.parts()),
        )


def _held(images: Any) -> Any:
    if isinstance(images, Tensor | ImageSet):
        if not len(images):
            raise ValueError("images is empty; at least one is needed")
        return images
    raise ValueError(f"images must be a tensor (n, c, h, w) or have a length and items, got {type(images).__name__}")
