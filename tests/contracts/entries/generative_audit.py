"""The audit of text-to-image models in `equipoise.generative`."""

import torch

from contracts.model import Function, binary, renamed
from equipoise.data.shapes import PixelJudge, RenderedTextToImage, RuleTextJudge


def _logits(generator, n):
    return {"logit_yes": torch.randn(n, generator=generator), "logit_no": torch.randn(n, generator=generator)}


def _flags(generator, n):
    return {"triggered": torch.arange(n) % 2, "visible": torch.arange(n) % 3 % 2}


PACKAGES: list[str] = []

_COUNTS = {"flagged": 3, "total": 8}
_JUDGES = {"vision_judge": PixelJudge(), "text_judge": RuleTextJudge()}
_PAINTER = {"generator": RenderedTextToImage()}
_NO_NUMBERS = {"autocast_changes_nothing": "it computes no floating values"}

ENTRIES = [
    Function(
        "equipoise.generative.BlackMirrorDetector",
        {**_PAINTER, **_JUDGES, "votes": 3, "variants": 4, "threshold": 0.5, "seed": 1},
    ),
    Function(
        "equipoise.generative.GlobalSimilarityDetector",
        {**_PAINTER, "encode_images": torch.flatten, "variants": 4, "phrases": ("a photo",), "seed": 1},
    ),
    Function(
        "equipoise.generative.ClipDeviationDetector",
        {**_PAINTER, "encode_images": torch.flatten, "encode_texts": torch.flatten, "seed": 1},
    ),
    Function("equipoise.generative.yes_no_probability", {}, _logits),
    Function(
        "equipoise.generative.mirror_verify",
        {"new": ["cat"], "lost": ["dog"], "threshold": 0.9},
        lambda generator, n: {"p_yes": torch.rand(2, n, generator=generator)},
    ),
    Function(
        "equipoise.generative.detection_metrics", {"threshold": 0.5}, renamed(binary, scores="score", target="label")
    ),
    Function("equipoise.generative.attack_labels", {"convention": "triggered"}, _flags, _NO_NUMBERS),
    Function(
        "equipoise.generative.calibrate_threshold",
        {"target_fpr": 0.25, "confidence": 0.9},
        lambda generator, n: {"clean_scores": torch.rand(n, generator=generator)},
    ),
    Function("equipoise.generative.rate_interval", {**_COUNTS, "confidence": 0.9}),
    Function("equipoise.generative.binomial_p_value", {**_COUNTS, "rate": 0.25}),
    Function("equipoise.generative.fisher_p_value", {**_COUNTS, "clean_flagged": 1, "clean_total": 9}),
]

OTHERS = {
    "equipoise.generative.Branch": "a result that the library makes",
    "equipoise.generative.GeneratorError": "an error that a generator raises; tests of the detector raise it",
    "equipoise.generative.GroupRate": "a result that the library makes",
    "equipoise.generative.ModelReport": "a result that the library makes",
    "equipoise.generative.Pattern": "a result that the library makes",
    "equipoise.generative.Report": "a result that the library makes",
    "equipoise.generative.mirror_match": "its test gives it bad answers; it takes words, and no tensors",
    "equipoise.generative.MatchResult": "a result that the library makes",
    "equipoise.generative.VerifyResult": "a result that the library makes",
    "equipoise.generative.Calibration": "a result that the library makes",
}
