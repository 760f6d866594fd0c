"""The pipelines that `debias` works on: the small one of the shapes world, and folders of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.core.models.generators import TextToImage
from equipoise.core.models.two_tower import TwoTower, encode_texts
from equipoise.generative import TwoStageSampler
from equipoise.generative.fairness.prompts import TEMPLATES, UNRELATED
from equipoise.workflows.debias.request import DebiasRequest
from equipoise.workflows.distill.models import loading
from equipoise.workflows.errors import InputError

SHAPES = "shapes"
_PORTRAITS = ("a photo of a {}", "a picture of a {}", "a portrait of a {}", "a {} at work")
_CAPTIONS = (
    "red circle",
    "blue square",
    "green triangle",
    "small yellow cross",
    "large cyan circle",
    "magenta square",
    "red triangle",
    "blue cross",
    "a photo of a green circle",
    "large square",
    "small circle",
    "yellow triangle",
)


@dataclass(frozen=True)
class Subject:
    """A pipeline and what belongs to it.

    Attributes:
        name: to be shown.
        tower: images and texts in one space, the text side that of the pipeline.
        original: the pipeline as it is.
        debiased: of a folder with an adapter and the debiased tower the pipeline that reads it.
        pixels: pictures in [0, 1] to what the tower reads.
        templates: that suit it.
        keep_texts: unrelated texts that suit it.
        learning_rate: that suits its text encoder.
    """

    name: str
    tower: nn.Module
    original: TextToImage
    debiased: Callable[[Path, nn.Module], TextToImage]
    pixels: Callable[[Tensor], Tensor]
    templates: tuple[str, ...]
    keep_texts: tuple[str, ...]
    learning_rate: float


def load_subject(pipeline: str, request: DebiasRequest, progress: Callable[[str], None]) -> Subject:
    """The pipeline of a request.

    Raises:
        InputError: if it is neither "shapes" nor a folder of diffusers, or its CLIP model is not given.
    """
    if pipeline == SHAPES:
        return _shapes(request, progress)
    if not (Path(pipeline) / "model_index.json").is_file():
        raise InputError(f"{pipeline!r} is neither 'shapes' nor a folder of diffusers with a model_index.json")
    if request.clip is None:
        raise InputError(
            f"{pipeline} has no image encoder to compare pictures with texts; name the folder of its CLIP model with "
            "--clip"
        )
    if not (request.clip / "config.json").is_file():
        raise InputError(f"{request.clip} holds no CLIP model: there is no config.json in it")
    return _diffusers(Path(pipeline), request.clip, request, progress)


def _shapes(request: DebiasRequest, progress: Callable[[str], None]) -> Subject:
    from equipoise.data.tiny_clip import tiny_clip
    from equipoise.data.tiny_diffusion import text_condition, tiny_text_to_image
    from equipoise.integrations.clip import CLIPTower

    progress("loading the shapes pipeline, which takes minutes the first time")
    pipeline, tower = tiny_text_to_image(), CLIPTower.from_pretrained(tiny_clip())

    def reader(model: TwoTower) -> Callable[[Sequence[str]], Tensor]:
        return lambda prompts: text_condition(encode_texts(model, prompts))

    def debiased(folder: Path, model: nn.Module) -> TextToImage:
        return TwoStageSampler(
            pipeline.denoiser,
            reader(tower),
            reader(model),  # type: ignore[arg-type]
            lambda latents: ((pipeline.autoencoder.decode(latents) + 1) / 2).clamp(0, 1),
            switch_fraction=request.switch,
            count=pipeline.count,
            eta=pipeline.eta,
        )

    return Subject(
        SHAPES, tower, pipeline, debiased, lambda images: 2 * images - 1, TEMPLATES, _CAPTIONS, learning_rate=2e-3
    )


def _diffusers(folder: Path, clip: Path, request: DebiasRequest, progress: Callable[[str], None]) -> Subject:
    from equipoise.integrations.clip import CLIPTower
    from equipoise.integrations.fair_diffusers import TwoStagePipeline, debiased_text_encoder, load_pipeline

    progress("loading the pipeline")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loading(str(folder), "pipeline"):
        pipeline = load_pipeline(folder.resolve()).to(device)
    with loading(str(clip), "CLIP model"):
        tower = CLIPTower.from_pretrained(clip).to(device)
    settings: dict[str, Any] = {"num_inference_steps": request.sampling_steps, "guidance_scale": request.guidance}

    def pixels(images: Tensor) -> Tensor:
        if tower.image_processor is None:
            raise InputError(f"{clip} has no image processor, so pictures cannot be put as it reads them")
        return tower.pixel_values((255 * images).round().to(torch.uint8).unbind())

    def debiased(adapter: Path, model: nn.Module) -> TextToImage:
        encoder = debiased_text_encoder(pipeline, adapter)
        return TwoStagePipeline(pipeline, encoder, switch_fraction=request.switch, **settings)

    original = TwoStagePipeline(pipeline, None, **settings)
    return Subject(folder.name, tower, original, debiased, pixels, _PORTRAITS, UNRELATED, learning_rate=1e-4)
