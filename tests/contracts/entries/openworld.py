"""The public names of `equipoise.openworld`."""

import torch

from contracts.model import Function, Loss, Measure, multiclass, renamed

logits = multiclass(6)
scores = renamed(logits, logits="scores")


def _all_ignored(generator, n):
    return {**logits(generator, n), "target": torch.full((n,), -100)}


ENTRIES = (
    Loss(
        "equipoise.openworld.AUTKCLoss",
        {"k": 3, "ignore_index": -100},
        logits,
        functional="equipoise.openworld.autkc_loss",
        undefined=_all_ignored,
    ),
    Function("equipoise.openworld.autkc_loss", {"k": 3, "ignore_index": -100}, logits),
    Loss("equipoise.openworld.TopKHingeLoss", {"k": 3, "variant": 5}, logits),
    Loss("equipoise.openworld.TopKEntropyLoss", {"k": 3}, logits),
    Function("equipoise.openworld.autkc", {"k": 3}, scores),
    Function("equipoise.openworld.topk_accuracy", {"k": 3}, scores),
    Function("equipoise.openworld.top_k_accuracies", {"k": 3}, scores),
    Measure("equipoise.openworld.AUTKC", {"k": 3}, scores),
)

OTHERS: dict[str, str] = {}
