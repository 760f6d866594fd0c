"""A pipeline of diffusers that reads the original text first and a debiased one later.

    encoder = debiased_text_encoder(pipeline, "adapter")                    of `LightFairDebiaser.save_adapter`
    draw = TwoStagePipeline(pipeline, encoder, switch_fraction=0.9)         a `TextToImage`

or, in a call of one's own, `pipeline(..., callback_on_step_end=SwitchPromptEmbeds(...))`. Under guidance a pipeline
holds the embeddings of the negative prompts and, behind them, those of the prompts; only the latter are exchanged.

For pipelines with one text encoder, such as those of Stable Diffusion 1 and 2.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.validate import check_fraction
from equipoise.generative import load_fair_adapter
from equipoise.generative.fairness.two_stage import reads_debiased

_OWN = (
    "prompt",
    "prompt_embeds",
    "negative_prompt_embeds",
    "num_images_per_prompt",
    "generator",
    "output_type",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
)


class SwitchPromptEmbeds:
    """A `callback_on_step_end` that exchanges the embeddings of prompts at the step of the switch.

    Args:
        debiased: (prompts × pictures of each, tokens, width) embeddings of the prompts, as `encode_prompt` gives them.
        switch_fraction: share of the steps of training, counted from the end of sampling, that read them. A callback
            acts after a step: for a switch before the first one, as 1 is, start with them, as `TwoStagePipeline` does.

    Raises:
        ValueError: if the fraction is outside [0, 1].
    """

    tensor_inputs: ClassVar[list[str]] = ["prompt_embeds"]
    """What the pipeline must pass: its argument `callback_on_step_end_tensor_inputs`."""

    def __init__(self, debiased: Float[Tensor, "n tokens width"], switch_fraction: float = 0.9) -> None:
        check_fraction("switch_fraction", switch_fraction, zero=True)
        self.debiased, self.switch_fraction = debiased, switch_fraction

    def __call__(
        self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """What the next step reads.

        Raises:
            ValueError: if the pipeline does not pass the embeddings, or has others than of these prompts.
        """
        if "prompt_embeds" not in callback_kwargs:
            raise ValueError("the pipeline passes no prompt_embeds; give it callback_on_step_end_tensor_inputs too")
        timesteps = pipeline.scheduler.timesteps
        if step_index + 1 < len(timesteps) and self.reads_debiased(pipeline, timesteps[step_index + 1]):
            held = callback_kwargs["prompt_embeds"]
            guided = getattr(pipeline, "do_classifier_free_guidance", None)
            callback_kwargs["prompt_embeds"] = _exchanged(held, self.debiased.to(held), guided)
        return callback_kwargs

    def reads_debiased(self, pipeline: Any, timestep: Any) -> bool:
        """Whether a step of this pipeline reads the debiased text."""
        return reads_debiased(float(timestep), int(pipeline.scheduler.config.num_train_timesteps), self.switch_fraction)


class TwoStagePipeline:
    """A `TextToImage` of a pipeline of diffusers and two text encoders.

    Args:
        pipeline: with `encode_prompt` and one text encoder, which reads the first steps and the negative prompts.
        debiased: the encoder that reads the rest; the pipeline's own if absent, which leaves the pipeline as it is.
        switch_fraction: see `SwitchPromptEmbeds`; 1 reads the debiased text everywhere, 0 nowhere.
        negative_prompt: of guidance.
        batch_size: prompts drawn at once.
        settings: further arguments of the pipeline's call, such as num_inference_steps and guidance_scale.

    Raises:
        ValueError: if the fraction is outside [0, 1], or a setting is what a call gives.
    """

    def __init__(
        self,
        pipeline: Any,
        debiased: nn.Module | None = None,
        *,
        switch_fraction: float = 0.9,
        negative_prompt: str = "",
        batch_size: int = 4,
        **settings: Any,
    ) -> None:
        check_fraction("switch_fraction", switch_fraction, zero=True)
        self.pipeline, self.debiased, self.switch_fraction = pipeline, debiased, switch_fraction
        self.negative_prompt, self.batch_size = negative_prompt, batch_size
        own = [name for name in settings if name in _OWN]
        if own:
            raise ValueError(f"{own[0]} is set by this class: one picture is drawn for each prompt and seed of a call")
        self.settings = {"num_inference_steps": 50, "guidance_scale": 7.5, **settings}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1], one for every prompt; the same prompt and seed give the same picture.

        Raises:
            ValueError: if there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds) or not prompts:
            raise ValueError(f"{len(prompts)} prompts need as many seeds and at least one, got {len(seeds)}")
        parts = [slice(start, start + self.batch_size) for start in range(0, len(prompts), self.batch_size)]
        return torch.cat([self._part(list(prompts[part]), seeds[part]) for part in parts])

    def _part(self, prompts: list[str], seeds: Sequence[int]) -> Tensor:
        pipeline, settings = self.pipeline, dict(self.settings)
        guided = float(settings["guidance_scale"]) > 1
        first, negative = self._encoded(prompts, guided)
        if self.debiased is not None:
            with _text_encoder(pipeline, self.debiased):
                last, _ = self._encoded(prompts, guided)
            switch = SwitchPromptEmbeds(last, self.switch_fraction)
            # What the first step reads is given, for the callback comes after it.
            pipeline.scheduler.set_timesteps(int(settings["num_inference_steps"]))
            if switch.reads_debiased(pipeline, pipeline.scheduler.timesteps[0]):
                first = last
            else:
                settings |= {
                    "callback_on_step_end": switch,
                    "callback_on_step_end_tensor_inputs": switch.tensor_inputs,
                }
        found = pipeline(
            prompt_embeds=first,
            negative_prompt_embeds=negative,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
            output_type="pt",
            **settings,
        ).images
        return found.float().cpu()

    def _encoded(self, prompts: list[str], guided: bool) -> tuple[Tensor, Tensor | None]:
        negative = [self.negative_prompt] * len(prompts) if guided else None
        clip_skip = self.settings.get("clip_skip")
        found = self.pipeline.encode_prompt(
            prompts, self.pipeline._execution_device, 1, guided, negative, clip_skip=clip_skip
        )
        return found[0], found[1] if guided else None


def load_pipeline(name_or_path: str | Path, *, allow_download: bool = False, **options: Any) -> Any:
    """A Stable Diffusion pipeline from safetensors.

    Args:
        name_or_path: a folder, or a name on the hub that is in the local cache.
        allow_download: fetch what is not there from the network.
        options: further arguments of `from_pretrained`.

    Raises:
        ImportError: if diffusers is not installed.
        OSError: if the pipeline is not there and may not be downloaded.
    """
    if Path(name_or_path).is_absolute() and not (Path(name_or_path) / "model_index.json").is_file():
        raise OSError(f"{name_or_path} holds no pipeline: there is no model_index.json in it")
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("pipelines need diffusers: pip install 'equipoise[diffusers]'") from error
    found = diffusers.StableDiffusionPipeline.from_pretrained(
        str(name_or_path), use_safetensors=True, local_files_only=not allow_download, **options
    )
    found.set_progress_bar_config(disable=True)
    return found


def debiased_text_encoder(pipeline: Any, folder: str | Path) -> nn.Module:
    """A copy of the pipeline's text encoder with the adapter of a folder in it.

    Raises:
        OSError, ValueError: as `load_fair_adapter`.
    """
    encoder: nn.Module = copy.deepcopy(pipeline.text_encoder)
    load_fair_adapter(encoder, folder)
    return encoder


def _exchanged(held: Tensor, debiased: Tensor, guided: bool | None) -> Tensor:
    if held.shape[1:] == debiased.shape[1:]:
        # Twice as many may be negative ones, or two pictures of each prompt.
        if len(held) == len(debiased) and guided is not True:
            return debiased
        if len(held) == 2 * len(debiased) and guided is not False:
            return torch.cat([held[: len(debiased)], debiased])
    raise ValueError(
        f"the pipeline holds embeddings of shape {tuple(held.shape)}, the debiased ones are {tuple(debiased.shape)}; "
        "one for each prompt and picture is wanted, without the negative ones"
    )


@contextmanager
def _text_encoder(pipeline: Any, encoder: nn.Module) -> Iterator[None]:
    before = pipeline.text_encoder
    pipeline.text_encoder = encoder
    try:
        yield
    finally:
        pipeline.text_encoder = before
