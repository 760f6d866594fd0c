"""Why a setting fails: the Lipschitz constant of a class-dependent loss inside every class.

    B_c = min over samples of class c of z_c          β̃_c = sqrt(β_c² + (Σ_{k≠c} β_k)²)
    μ_c = α_c β̃_c (1 − softmax(β B + Δ)_c)            bound ∝ Σ_c μ_c sqrt(π_c) / (C π_min)

The bound on the balanced risk of a class-dependent loss is driven by the class with the largest μ_c √π_c. It shows why
weights and factors are at odds: α falls with the share of a class, β and with it β̃ rise.

Wang et al., "A Unified Perspective for Loss-Oriented Imbalanced Learning via Localization", TPAMI 2026, by way of a
public reading note. Reconstructed: that the softmax is over the vector β_k B_k + Δ_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.class_stats import ClassStats
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget
from equipoise.core.validate import warn_once


@dataclass(frozen=True)
class LocalizedBound:
    """The terms of the bound by class.

    Attributes:
        mu: (C,) localized Lipschitz constants, float64; NaN for a class without samples.
        terms: (C,) μ_c √π_c.
        value: Σ_c μ_c √π_c / (C π_min), over classes with samples. It compares settings; it is no certificate.
        bottleneck: the class with the largest term.
    """

    mu: Float[Tensor, " c"]
    terms: Float[Tensor, " c"]
    value: float
    bottleneck: int


@checked
def vs_local_lipschitz(
    logits: ClassScores,
    target: ClassTarget,
    class_counts: Any,
    *,
    weight: Float[Tensor, " classes"] | None = None,
    factor: Float[Tensor, " classes"] | None = None,
    offset: Float[Tensor, " classes"] | None = None,
) -> LocalizedBound:
    """The localized Lipschitz constants of a `VSLoss` on these training logits.

    Args:
        logits: (n, C) raw scores of training samples.
        target: (n,) class indices.
        class_counts: training samples per class.
        weight: (C,) α; ones if absent.
        factor: (C,) β; ones if absent.
        offset: (C,) Δ; zeros if absent.

    >>> logits, target = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    >>> found = vs_local_lipschitz(logits, target, [90, 10])
    >>> found.mu, found.bottleneck
    (tensor([0.7071, 0.7071], dtype=torch.float64), 0)
    """
    stats = ClassStats.of(class_counts)
    c = stats.num_classes
    if logits.shape[1] != c:
        raise ValueError(f"logits must have {c} columns, one per class, got {tuple(logits.shape)}")
    ones = torch.ones(c, dtype=torch.float64)
    alpha, beta, delta = (
        default if given is None else given.detach().cpu().double()
        for given, default in ((weight, ones), (factor, ones), (offset, torch.zeros_like(ones)))
    )
    own = logits.detach().cpu().double().gather(1, target.cpu()[:, None]).squeeze(1)
    lowest = torch.full((c,), torch.inf, dtype=torch.float64).scatter_reduce(0, target.cpu(), own, "amin")
    missing = lowest.isinf()
    if bool(missing.any()):
        warn_once(f"class {int(missing.nonzero()[0, 0])} has no sample here: its localized constant is NaN")
    spread = (beta.square() + (beta.sum() - beta).square()).sqrt()
    scores = (beta * lowest + delta).masked_fill(missing, -torch.inf)
    mu = (alpha * spread * (1 - scores.softmax(0))).masked_fill(missing, torch.nan)
    prior = stats.prior
    terms = mu * prior.sqrt()
    value = float(terms.nansum() / (c * prior.min()))
    return LocalizedBound(mu, terms, value, int(terms.nan_to_num(-torch.inf).argmax()))
