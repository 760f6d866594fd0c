"""The public names of `equipoise.language` for divergences."""

import torch

from contracts.model import Function, Loss
from equipoise.core.token_divergence.fused import LinearHead

PACKAGES = ["language"]


def _logits(generator, n):
    return {name: torch.randn(n, 5, generator=generator) for name in ("student_logits", "teacher_logits")}


def _with_labels(generator, n):
    """Every fourth token does not count."""
    labels = torch.arange(n) % 5
    labels[::4] = 5
    return {**_logits(generator, n), "labels": labels}


def _with_target(generator, n):
    return {**_logits(generator, n), "target": torch.arange(n) % 5}


def _hidden(generator, n):
    return {
        "student_hidden": torch.randn(n, 3, generator=generator),
        "student_head": LinearHead(torch.randn(5, 3, generator=generator)),
        "teacher_hidden": torch.randn(n, 4, generator=generator),
        "teacher_head": LinearHead(torch.randn(5, 4, generator=generator)),
    }


ENTRIES = [
    Loss(
        "equipoise.language.ABDivergenceLoss",
        {"alpha": 0.3, "beta": 0.6, "ignore_index": 5},
        _with_labels,
        functional="equipoise.language.ab_divergence",
    ),
    Loss(
        "equipoise.language.TokenDivergenceLoss",
        {"divergence": "jsd", "temperature": 2.0, "ignore_index": 5},
        _with_labels,
        functional="equipoise.language.token_divergence_loss",
    ),
    Function("equipoise.language.ab_divergence", {"alpha": 0.3, "beta": 0.6, "ignore_index": 5}, _with_labels),
    Function("equipoise.language.token_divergence_loss", {"divergence": "tvd", "temperature": 2.0}, _logits),
    Function("equipoise.language.fused_divergence_loss", {"divergence": "jsd"}, _hidden),
    Function("equipoise.language.log_mass_ratio", {"lr": 0.5}, _logits),
    Function("equipoise.language.standardized_ab_loss", {"alpha": 0.9, "beta": 0.3}, _logits),
    Function("equipoise.language.transformed_teacher_ab_loss", {"exponent": 0.3}, _logits),
    Function("equipoise.language.decoupled_ab_loss", {"temperature": 2.0}, _with_target),
]
OTHERS = {"equipoise.language.DecoupledLoss": "what `decoupled_ab_loss` returns"}
