"""LightFair: neutral prompts balanced in the text encoder, on a small model with a planted bias."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.functional import spearman_corrcoef

from equipoise.claims.lab.tuning import VALIDATION_SEEDS, Setting, Tuning, grid
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.core.models.two_tower import encode_texts
from equipoise.data.shapes import parse
from equipoise.data.shapes.seeing import see
from equipoise.data.tiny_clip import TinyCLIPConfig, tiny_clip
from equipoise.data.tiny_diffusion import TinyDiffusionConfig, TinyTextToImage, text_condition, tiny_text_to_image
from equipoise.generative import (
    AttributeBias,
    LightFairDebiaser,
    QualityGap,
    References,
    TwoStageSampler,
    attribute_bias,
    equidistant_projection,
    text_skew,
)
from equipoise.integrations.clip import CLIPTower

_CONCEPTS, _VALUES = ("dax", "wug"), ("red", "blue")
_BIAS, _PICTURES, _DRAWN = 0.85, 48, 128
_FULL, _ODDS, _ORIGINAL, _PROJECTED = "LightFair", "equalized odds alone", "original", "equidistant projection"
_DATA, _OVER = "training data", "over τ"
_FRACTIONS = (0.4, 0.6, 0.8)
_OTHERS = (
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
_UNSEEN = ("cyan cross", "blue circle", "red square", "small green square", "a picture of the magenta triangle")
Read = Callable[[Sequence[str]], Tensor]


class _World(NamedTuple):
    pipeline: TinyTextToImage
    tower: CLIPTower


@lru_cache(maxsize=2)
def _world(model: int, quick: bool) -> _World:
    if not quick:
        pipeline = tiny_text_to_image(TinyDiffusionConfig(seed=model, bias=_BIAS))
        return _World(pipeline, CLIPTower.from_pretrained(tiny_clip()))
    clip = TinyCLIPConfig(steps=60, pictures=400)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = tiny_text_to_image(TinyDiffusionConfig(steps=60, pictures=400, bias=_BIAS, clip=clip), folder)
        return _World(pipeline, CLIPTower.from_pretrained(tiny_clip(clip, folder)))


def _model_of(seed: int) -> int:
    """Three denoisers in turn, and a fourth for the choice of settings."""
    return 902 if seed in VALIDATION_SEEDS else (0, 900, 901)[seed % 3]


@lru_cache(maxsize=4)
def _references(seed: int, quick: bool) -> References:
    return _debiaser(_ODDS, {}, seed, quick).collect_references(4 if quick else _PICTURES)


def _debiaser(arm: str, setting: Setting, seed: int, quick: bool) -> LightFairDebiaser:
    world = _world(_model_of(seed), quick)
    given: dict[str, Any] = {
        "steps": 3 if quick else 100,
        "learning_rate": 2e-3,
        **({"lambda_q": 0.0} if arm == _ODDS else {}),
    }
    return LightFairDebiaser(
        world.tower,
        world.pipeline,
        _CONCEPTS,
        _VALUES,
        keep_texts=_OTHERS,
        pixels=lambda images: 2 * images - 1,
        seed=seed,
        **{**given, **setting},
    )


def _trained(arm: str, setting: Setting, seed: int, quick: bool) -> nn.Module:
    debiaser = _debiaser(arm, setting, seed, quick)
    debiaser.references = _references(seed, quick)
    with warnings.catch_warnings():
        # After a few steps with hardly a model, which quick runs are, prompts are anything.
        warnings.filterwarnings("ignore", message="prompts that name a value")
        debiaser.fit()
    return debiaser.merged_encoder()


def _reader(tower: nn.Module) -> Read:
    return lambda prompts: text_condition(encode_texts(tower, prompts))  # type: ignore[arg-type]


def _colours(pictures: Tensor) -> Tensor:
    """0 for red, 1 for blue, by the energy of saturated pixels; −1 where there is none."""
    saturated = (pictures.amax(1) - pictures.amin(1)) > 0.3
    energy = (pictures * saturated[:, None]).sum((2, 3))
    found = (energy[:, 2] > energy[:, 0]).long()
    return torch.where(energy.sum(1) > 0, found, -torch.ones_like(found))


def _pictures(world: _World, last: Read, prompts: Sequence[str], seed: int, fraction: float = 1.0) -> Tensor:
    pipeline = world.pipeline
    sampler = TwoStageSampler(
        pipeline.denoiser,
        _reader(world.tower),
        last,
        lambda latents: ((pipeline.autoencoder.decode(latents) + 1) / 2).clamp(0, 1),
        switch_fraction=fraction,
        count=pipeline.count,
        eta=pipeline.eta,
    )
    return sampler(prompts, [100_000 + 1_000 * seed + k for k in range(len(prompts))])


def _judged(world: _World, last: Read, seed: int, quick: bool, fraction: float = 1.0) -> dict[str, float]:
    """Bias and shape accuracy of pictures of both concepts."""
    count = 8 if quick else _DRAWN
    bias, gap, right = AttributeBias(len(_CONCEPTS), 2), QualityGap(len(_CONCEPTS), 2), []
    with warnings.catch_warnings():
        # One colour only, as of a concept that is all red, has no gap.
        warnings.filterwarnings("ignore", message=".*prompts have")
        for place, concept in enumerate(_CONCEPTS):
            pictures = _pictures(world, last, [concept] * count, seed, fraction)
            shaped = torch.tensor([float(seen.meets(parse(concept))) for seen in see(pictures)])
            colours, prompt = _colours(pictures), torch.full((count,), place)
            bias.update(colours, prompt)
            gap.update(shaped, colours, prompt)
            right.append(shaped.mean())
        found = {"bias": float(bias.compute()["mean"]), "gap in shape accuracy": float(gap.compute()["mean"])}
    return {**found, "shape accuracy": float(torch.stack(right).mean())}


def _named_shown(world: _World, last: Read, seed: int, quick: bool) -> float:
    """Share of the pictures of prompts that name a colour which have it."""
    count, shown = 4 if quick else 32, []
    for concept in _CONCEPTS:
        for place, value in enumerate(_VALUES):
            colours = _colours(_pictures(world, last, [f"{value} {concept}"] * count, seed + 500))
            shown.append((colours == place).double().mean())
    return float(torch.stack(shown).mean())


def _projected(world: _World, held: References) -> Read:
    """The closest vector with equal cosines, for the bare concepts."""
    texts = encode_texts(world.tower, _CONCEPTS)
    moved = equidistant_projection(texts, held.centers)
    return lambda prompts: text_condition(moved[[_CONCEPTS.index(prompt) for prompt in prompts]])


def _run(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    world, held = _world(_model_of(seed), quick), _references(seed, quick)
    original = _reader(world.tower)
    found = {_DATA: {"bias": 2 * _BIAS - 1}, _ORIGINAL: _judged(world, original, seed, quick)}
    skew = text_skew(encode_texts(world.tower, _CONCEPTS), held.centers, float(world.tower.logit_scale))
    found["text side of the original"] = {"bias": float(attribute_bias(skew.double()).mean)}
    found[_ORIGINAL]["named colour shown"] = _named_shown(world, original, seed, quick)
    found[_PROJECTED] = _judged(world, _projected(world, held), seed, quick)
    for arm, setting in settings.items():
        tower = _trained(arm, setting, seed, quick)
        found[arm] = _judged(world, _reader(tower), seed, quick)
        found[arm]["named colour shown"] = _named_shown(world, _reader(tower), seed, quick)
        texts = encode_texts(tower, _UNSEEN)  # type: ignore[arg-type]
        cosines = (texts * encode_texts(world.tower, _UNSEEN)).sum(1)
        found[arm]["cosine of other texts"] = float(cosines.min())
        if arm == _FULL:
            for fraction in _FRACTIONS:
                found[_at(fraction)] = _judged(world, _reader(tower), seed, quick, fraction)
    curve = [found[_ORIGINAL], *(found[_at(fraction)] for fraction in _FRACTIONS), found[_FULL]]
    along = torch.tensor([0.0, *_FRACTIONS, 1.0])
    found[_OVER] = {
        f"rank correlation of {name}": float(spearman_corrcoef(torch.tensor([each[name] for each in curve]), along))
        for name in ("bias", "shape accuracy")
    }
    return found


def _at(fraction: float) -> str:
    return f"{_FULL}, τ = {fraction:g} T"


def _score(arm: str, setting: Setting, seed: int) -> float:
    return -_judged(_world(_model_of(seed), False), _reader(_trained(arm, setting, seed, False)), seed, False)["bias"]


CLAIM = Claim(
    slug="lightfair",
    statement=(
        "A neutral prompt shows one attribute value far more often than the others, more than its training data do. "
        "Moving its text embedding to the middle between the pictures of the values, and making these equally close "
        "to their prompts, evens the pictures out; read late in sampling only, it costs less quality and helps less."
    ),
    experiments=(
        Experiment(
            name="Two concepts with a planted colour",
            protocol=(
                "Pictures of 16 × 16 of the shapes world, in which 'dax' is a cross, red in 85 % of the captions that "
                "name no colour and else blue, and 'wug' a triangle, blue in 85 % and else red. The small CLIP and "
                "diffusion model of the library (128 principal components, 200 steps, conditioned on the pooled text), "
                "of which the seed takes one of three trainings. 48 pictures of 'red dax' and so on, in four "
                "templates, give the centres. LoRA of rank 4 on the text transformer, 100 steps of Adam, λ_keep = 1 on "
                "12 other captions, pull .1. Bias and shape accuracy are of 128 pictures each of 'dax' and 'wug' by "
                "DDIM with 40 steps and η = 1; the colour is that of most energy among saturated pixels, the shape "
                "that of the library's rule-based judge; a named colour is looked for in 32 pictures each of four "
                "prompts. Both trained arms have three settings to choose from by the bias on three other seeds and a "
                "fourth training of the model: λ_q of .25, .5, 1 at a rate of .002, and without λ_q rates of .001, "
                ".002, .005. The projection has no setting. τ is 0 (the original), .4, .6, .8 and 1 of T."
            ),
            run=_run,
            parts=(
                Gain("bias is lower than the original's by .2", _FULL, _ORIGINAL, "bias", 0.2, higher_is_better=False),
                Gain("the original's bias exceeds that of its training data", _ORIGINAL, _DATA, "bias", 0.05),
                Gain(
                    "bias is lower than with equalized odds alone", _FULL, _ODDS, "bias", 0.05, higher_is_better=False
                ),
                Bound("bias falls as τ grows", _OVER, "rank correlation of bias", at_most=-0.8),
                Bound("shape accuracy falls as τ grows", _OVER, "rank correlation of shape accuracy", at_most=-0.3),
                Bound(
                    "a named colour is still shown in 80 % of the pictures", _FULL, "named colour shown", at_least=0.8
                ),
                Gain("shape accuracy beside the original", _FULL, _ORIGINAL, "shape accuracy", 0.02, asserted=False),
                Gain(
                    "bias beside the projection, which is not trained",
                    _FULL,
                    _PROJECTED,
                    "bias",
                    0.05,
                    higher_is_better=False,
                    asserted=False,
                ),
                Gain("shape accuracy beside the projection", _FULL, _PROJECTED, "shape accuracy", 0.02, asserted=False),
                Gain(
                    "a named colour is shown as often as by the original",
                    _FULL,
                    _ORIGINAL,
                    "named colour shown",
                    0.01,
                    asserted=False,
                ),
                Bound("other texts stay where they are", _FULL, "cosine of other texts", at_least=0.98, asserted=False),
            ),
            tuning=Tuning(
                {
                    _FULL: grid(lambda_q=(0.5, 0.25, 1.0)),
                    _ODDS: grid(learning_rate=(0.002, 0.001, 0.005)),
                },
                _score,
            ),
        ),
    ),
    caveats=(
        "The formulas are reconstructed; no code of the paper is public. Its models, its attributes of people and its "
        "numbers are not part of this claim.",
        "One text encoder and three denoisers of a toy world. The denoiser reads the pooled text only, without "
        "guidance and without cross-attention, so that the weighting of foregrounds was not tested.",
        "The least effects were set after the method had been tried on one of the three denoisers, and the bound on "
        "colours that a prompt names after one further seed.",
    ),
)
