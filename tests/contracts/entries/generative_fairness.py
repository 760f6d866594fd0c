"""The public names of `equipoise.generative` for pictures that show every attribute value as often."""

import torch

from contracts.model import Function, Measure
from equipoise.generative import FairPrompts
from fair_tower import SquareTower, draw_squares

# The room is that of `entries/generative.py`.
PACKAGES: list[str] = []


def _texts(generator, n):
    return {"text": torch.randn(n, 5, generator=generator), "centers": torch.randn(n, 3, 5, generator=generator)}


def _pictures(generator, n):
    return {
        "text": torch.randn(3, 5, generator=generator),
        "images": [torch.randn(4 + k, 5, generator=generator) for k in range(3)],
    }


def _named(generator, n):
    return {"image_embeddings": {name: torch.randn(4, 5, generator=generator) for name in ("red", "blue")}}


def _counts(generator, n):
    return {"counts": torch.randint(1, 40, (4, 3), generator=generator)}


def _two_counts(generator, n):
    shares = torch.rand(4, 3, generator=generator) + 0.1
    return {"generated": torch.randint(1, 40, (4, 3), generator=generator), "text": shares}


def _features(generator, n):
    return {name: torch.randn(n, 5, generator=generator) for name in ("features", "reference")}


def _classified(generator, n):
    attribute = torch.randint(0, 3, (n,), generator=generator)
    return {"attribute": attribute, "prompt": torch.arange(n) % 2}


def _judged(generator, n):
    return {"quality": torch.rand(n, generator=generator), **_classified(generator, n)}


def _images(generator, n):
    return {
        "images": torch.rand(n, 3, 4, 4, generator=generator),
        "foreground": torch.rand(n, 4, 4, generator=generator) + 0.1,
    }


def _maps(generator, n):
    return {"maps": [torch.rand(n, 2, 2, generator=generator), torch.rand(n, 4, 4, generator=generator)]}


def encode(prompts):
    return torch.zeros(len(prompts), 2)


_PROMPTS = {"concepts": ("dax",), "templates": ("{}", "a {}")}
_ENCODES = {
    "bad_arguments_are_refused_by_name": "pictures are whatever the encoder takes",
    "autocast_changes_nothing": "the encoder is the caller's and runs as autocast has it",
}

_COUNTS = {"bad_arguments_are_refused_by_name": "counts may be whole numbers or shares; its test gives it bad ones"}

ENTRIES = [
    Function("equipoise.generative.FairPrompts", {**_PROMPTS, "attributes": ("red", "blue")}),
    Function(
        "equipoise.generative.LightFairDebiaser",
        {
            **_PROMPTS,
            "attributes": ("red", "blue"),
            "tower": SquareTower(),
            "generator": draw_squares,
            "rank": 2,
            "scale": 4.0,
            "lambda_q": 0.5,
            "pull": 0.1,
            "keep": 1.0,
            "steps": 3,
            "learning_rate": 0.01,
            "concepts_per_step": 2,
            "batch_size": 8,
            "seed": 0,
        },
    ),
    Function(
        "equipoise.generative.TwoStageSampler",
        {
            "denoiser": None,
            "original": encode,
            "debiased": encode,
            "switch_fraction": 0.9,
            "count": 10,
            "eta": 0.0,
        },
    ),
    Function("equipoise.generative.attention_foreground", {"height": 4, "width": 4}, _maps),
    Function(
        "equipoise.generative.draw_references",
        {
            "tower": SquareTower(),
            "generator": draw_squares,
            "prompts": FairPrompts(("dax",), ("red", "blue")),
            "n": 2,
            "batch_size": 8,
        },
    ),
    Function(
        "equipoise.generative.embed_pictures",
        {"tower": SquareTower(), "pictures": torch.rand(2, 3, 4, 4), "prompts": ("a", "b")},
        exempt=_ENCODES,
    ),
    Function("equipoise.generative.weigh_foreground", {"background": "black"}, _images),
    Measure("equipoise.generative.AttributeBias", {"num_prompts": 2, "num_attributes": 3}, _classified),
    Measure("equipoise.generative.QualityGap", {"num_prompts": 2, "num_attributes": 3}, _judged),
    Function("equipoise.generative.attribute_bias", {}, _counts, exempt=_COUNTS),
    Function("equipoise.generative.attribute_centers", {}, _named),
    Function("equipoise.generative.attribute_distances", {"distance": "euclidean"}, _texts),
    Function("equipoise.generative.bias_amplification", {}, _two_counts, exempt=_COUNTS),
    Function(
        "equipoise.generative.equalized_odds_loss",
        {"distance": "cosine", "target": (0.5, 0.25, 0.25), "logit_scale": 20.0},
        _texts,
    ),
    Function("equipoise.generative.equalized_quality_loss", {"pull": 0.1}, _pictures),
    Function("equipoise.generative.equalized_radii", {"distance": "euclidean"}, _pictures),
    Function(
        "equipoise.generative.choose_switch_fraction",
        {"bias": {0.0: 0.9, 1.0: 0.3}, "quality": {0.0: 0.8, 1.0: 0.8}, "tolerance": 0.05},
    ),
    Function("equipoise.generative.equidistant_projection", {}, _texts),
    Function("equipoise.generative.intersect_attributes", {"attributes": {"a": ["b", "c"]}}),
    Function("equipoise.generative.kernel_inception_distance", {"degree": 3, "gamma": 0.2, "coef": 1.0}, _features),
    Function("equipoise.generative.text_skew", {"logit_scale": 20.0}, _texts),
    Function(
        "equipoise.generative.two_stage_conditioning",
        {"num_train_steps": 1000, "num_sampling_steps": 10, "switch_fraction": 0.9},
    ),
]

OTHERS = {
    "equipoise.generative.ConceptReport": "a result that the library makes",
    "equipoise.generative.FairAdapter": "a result that the library makes",
    "equipoise.generative.FairStep": "a result that the library makes",
    "equipoise.generative.References": "made of embeddings; its test gives it bad ones",
    "equipoise.generative.load_fair_adapter": "reads a folder; its test gives it bad ones",
    "equipoise.generative.AttributeBiasValues": "a result that the library makes",
    "equipoise.generative.TwoStagePlan": "a result that the library makes",
}
