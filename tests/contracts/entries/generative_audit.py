"""The audit of text-to-image models in `equipoise.generative`."""

import torch

from contracts.model import Function, binary, renamed


def _logits(generator, n):
    return {"logit_yes": torch.randn(n, generator=generator), "logit_no": torch.randn(n, generator=generator)}


def _flags(generator, n):
    return {"triggered": torch.arange(n) % 2, "visible": torch.arange(n) % 3 % 2}


PACKAGES: list[str] = []

_COUNTS = {"flagged": 3, "total": 8}
_NO_NUMBERS = {"autocast_changes_nothing": "it computes no floating values"}

ENTRIES = [
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
    "equipoise.generative.mirror_match": "its test gives it bad answers; it takes words, and no tensors",
    "equipoise.generative.MatchResult": "a result that the library makes",
    "equipoise.generative.VerifyResult": "a result that the library makes",
    "equipoise.generative.Calibration": "a result that the library makes",
}
