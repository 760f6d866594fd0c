"""Pipelines and networks of diffusers as the protocols that audits, fair sampling and balanced encoders read.

    paint = DiffusersTextToImage.from_pretrained("path/to/pipeline")       prompts and seeds to pictures
    denoiser = DiffusersDenoiser(pipeline.unet, pipeline.scheduler)        predictions of one step

Models are found on this machine; nothing is downloaded unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.diffusion import NoiseSchedule, PredictionType
from equipoise.data.local_models import local_model

_KINDS: dict[str, PredictionType] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}


class DiffusersTextToImage:
    """A pipeline of diffusers as `core.models.generators.TextToImage`.

    Args:
        pipeline: a text-to-image pipeline.
        count: denoising steps.
        guidance: scale of classifier-free guidance; 1 is without.
        batch_size: prompts at once.
        options: further keyword arguments of the pipeline's call, such as height and width.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self, pipeline: Any, *, count: int = 30, guidance: float = 7.5, batch_size: int = 4, **options: Any
    ) -> None:
        if count < 1 or batch_size < 1 or guidance < 1:
            raise ValueError(f"count={count}, batch_size={batch_size} and guidance={guidance} must be at least 1")
        self.pipeline, self.count, self.guidance = pipeline, count, guidance
        self.batch_size, self.options = batch_size, options
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, allow_download: bool = False, **settings: Any
    ) -> DiffusersTextToImage:
        """Load a pipeline from a folder or the cache of this machine; only safetensors are read.

        Args:
            name_or_path: a folder, or a name on the hub.
            allow_download: fetch what is not there from the network.
            settings: of the class.

        Raises:
            ImportError: if diffusers is not installed.
            OSError: if the pipeline is not on this machine and may not be downloaded.
        """
        try:
            from diffusers import DiffusionPipeline
        except ImportError as error:
            raise ImportError("a pipeline needs diffusers: pip install 'equipoise[diffusers]'") from error
        found = local_model(name_or_path, allow_download=allow_download)
        pipeline = DiffusionPipeline.from_pretrained(found, use_safetensors=True, local_files_only=not allow_download)
        return cls(pipeline, **settings)

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        callback: Callable[..., dict[str, Any]] | None = None,
    ) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1]; every prompt has a generator of its own, so that its batch does not matter.

        Args:
            prompts: n texts.
            seeds: n whole numbers.
            callback: diffusers' `callback_on_step_end`, given the prompts' embeddings too.

        Raises:
            ValueError: if there are not as many seeds as prompts, or no prompt.
        """
        if len(prompts) != len(seeds) or not prompts:
            raise ValueError(f"at least one prompt is needed, and as many seeds; got {len(prompts)} and {len(seeds)}")
        told: dict[str, Any] = {}
        if callback is not None:
            told = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        found = []
        for at in range(0, len(prompts), self.batch_size):
            some = slice(at, at + self.batch_size)
            generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds[some]]
            made = self.pipeline(
                list(prompts[some]),
                num_inference_steps=self.count,
                guidance_scale=self.guidance,
                generator=generators,
                output_type="pt",
                **told,
                **self.options,
            )
            found.append(made.images.float().cpu().clamp(0, 1))
        return torch.cat(found)


class DiffusersDenoiser(nn.Module):
    """A network of diffusers with its scheduler as `core.diffusion.Denoiser`; conditions are token states.

    Args:
        network: such as `UNet2DConditionModel`; its weights are left as they are, trained or frozen.
        scheduler: of the noise that it was trained on; its `alphas_cumprod` and `prediction_type` are read.

    Raises:
        ValueError: if the scheduler predicts something else than noise, v or the picture.
    """

    def __init__(self, network: Any, scheduler: Any) -> None:
        super().__init__()
        kind = scheduler.config.prediction_type
        if kind not in _KINDS:
            raise ValueError(f"the scheduler's prediction_type={kind!r} must be one of {', '.join(_KINDS)}")
        self.network = network
        self.schedule = NoiseSchedule(scheduler.alphas_cumprod)
        self.prediction_type = _KINDS[kind]
        side = network.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        self.shape: tuple[int, ...] = (network.config.in_channels, height, width)

    def predict(self, x_t: Tensor, steps: Tensor, condition: Tensor | None) -> Tensor:
        """The prediction (n, c, h, w) for x_t at steps (n,) under token states (n, tokens, d)."""
        predicted: Tensor = self.network(x_t, steps, encoder_hidden_states=condition).sample
        return predicted
