"""Optimizers by name: AdamW, and what the rooms declare around it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from equipoise.catalog.declarations import declared
from equipoise.core.registry import OptimizerChoice, Request, by_name

PLAIN = "adamw"


def _adamw(groups: Any, request: Request, **options: Any) -> Optimizer:
    return torch.optim.AdamW(groups, **options)


OPTIMIZERS: dict[str, OptimizerChoice] = by_name(
    [OptimizerChoice(PLAIN, "Adam with decoupled weight decay", _adamw), *declared(OptimizerChoice).values()]
)
