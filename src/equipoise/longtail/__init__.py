"""Classes that are hardly there: losses, optimizers, experts, label trees, and a microscope for their training.

Names are loaded when first touched.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name → module of this room.
_MODULES: dict[str, str] = {
    "BalancedSoftmaxLoss": "class_dependent",
    "CDTLoss": "class_dependent",
    "CVSLoss": "confidence_scale",
    "ClassConditionalSAM": "sharpness",
    "ConfidenceScaleBank": "confidence_scale",
    "FlipTTA": "curvature",
    "FocalSAM": "sharpness",
    "ImbSAM": "sharpness",
    "LDAMLoss": "class_dependent",
    "LogitAdjustedLoss": "class_dependent",
    "PhasedLoss": "class_dependent",
    "SAM": "sharpness",
    "SSESAM": "sharpness",
    "ShotAccuracy": "metrics.groups",
    "VSLoss": "class_dependent",
    "class_factors": "class_dependent",
    "class_hessian_extremes": "curvature",
    "class_sharpness": "curvature",
    "consistency_gap": "class_dependent",
    "fit_confidence_scale": "confidence_scale",
    "focal_coefficients": "sharpness",
    "localization_loss": "class_dependent",
    "post_hoc_adjust": "class_dependent",
    "shot_accuracy": "metrics.groups",
    "sse_rho_head_schedule": "sharpness",
    "tail_classes": "sharpness",
    "vs_local_lipschitz": "localized",
    "vs_loss": "class_dependent",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
