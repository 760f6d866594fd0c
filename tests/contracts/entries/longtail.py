"""The public names of `equipoise.longtail`."""

import torch

from contracts.model import Optimizer

_SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.1}
_COUNTS = {"class_counts": (60, 20, 4)}

ENTRIES = (
    Optimizer("equipoise.longtail.SAM", {**_SGD, "rho": 0.3}, per_sample=False),
    Optimizer("equipoise.longtail.ImbSAM", {**_SGD, **_COUNTS, "rho": 0.3, "eta": 30.0}),
    Optimizer("equipoise.longtail.FocalSAM", {**_SGD, **_COUNTS, "rho": 0.3, "gamma": 1.0, "lam": 0.5}),
    Optimizer(
        "equipoise.longtail.SSESAM",
        {**_SGD, **_COUNTS, "total_epochs": 4, "rho_head": 0.2, "rho_tail": 0.3, "gamma": 0.5, "eta": 30.0},
    ),
    Optimizer("equipoise.longtail.ClassConditionalSAM", {**_SGD, **_COUNTS, "rho": 0.3, "power": 0.5}),
)

OTHERS: dict[str, str] = {}
