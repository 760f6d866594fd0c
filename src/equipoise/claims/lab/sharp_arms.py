"""Sharpness-aware optimizers side by side on a long-tailed world, for the claims of Focal-SAM and SSE-SAM."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from equipoise.claims.lab.long_tails import World, accuracies, network, train
from equipoise.longtail import SAM, SSESAM, FocalSAM, ImbSAM, LogitAdjustedLoss, class_sharpness

RHO = 0.2


def compare(world: World, arms: tuple[str, ...], epochs: int, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy and the sharpness of head and tail, arm by arm, under one budget of epochs."""

    def rate(epoch: int) -> float:
        return 0.05 * (1 + math.cos(math.pi * epoch / epochs))

    measures = {}
    for name in arms:
        model = network(world, seed)
        base: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
        params, counts = model.parameters(), world.counts
        if name == "SGD":
            optimizer: torch.optim.Optimizer = SAM(params, SGD, 0.0, **base)
        elif name == "SAM":
            optimizer = SAM(params, SGD, RHO, **base)
        elif name == "ImbSAM":
            optimizer = ImbSAM(params, SGD, counts, RHO, eta=20, **base)
        elif name == "Focal-SAM":
            optimizer = FocalSAM(params, SGD, counts, RHO, gamma=2.0, lam=0.8, **base)
        else:
            optimizer = SSESAM(
                params, SGD, counts, total_epochs=epochs, rho_head=0.05, rho_tail=RHO, gamma=0.7, eta=20, **base
            )
        loss = LogitAdjustedLoss(counts, reduction="none")
        train(world, model, loss, optimizer, rate, epochs, seed, True)
        sharp = class_sharpness(model, _each, world.x, world.y, 0.5, len(counts))
        measures[name] = {
            **accuracies(world, model),
            "head sharpness": float(sharp[list(world.head)].mean()),
            "tail sharpness": float(sharp[list(world.tail)].mean()),
        }
    return measures


def _each(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, target, reduction="none")
