"""The public names of `equipoise.generative` for pictures that show every attribute value as often."""

import torch

from contracts.model import Function, Measure

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


_COUNTS = {"bad_arguments_are_refused_by_name": "counts may be whole numbers or shares; its test gives it bad ones"}

ENTRIES = [
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
    "equipoise.generative.AttributeBiasValues": "a result that the library makes",
    "equipoise.generative.TwoStagePlan": "a result that the library makes",
}
