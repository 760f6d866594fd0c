"""How far generated pictures are from others, of a few hundred features: the kernel inception distance of any features.

    KID = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{ij} k(x_i, y_j)           k(x, y) = (γ x·y + c)^q

the unbiased squared maximum mean discrepancy of a polynomial kernel. Being unbiased, it may be a little below 0 where
the two sets are alike, and small sets can be compared with large ones. The features are the caller's: of an inception
network for the usual numbers, of any other encoder where none is at hand.

Source: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018; the same formula as torchmetrics', whose value is a mean
over random subsets.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, InParts, Positive, Real, Scalar

_PART = 1 << 22  # numbers of a block of the kernel matrix


@checked
def kernel_inception_distance(
    features: Annotated[Float[Tensor, "n d"], InParts()],
    reference: Annotated[Float[Tensor, "m d"], InParts()],
    degree: Count = 3,
    gamma: Positive | None = None,
    coef: Real = 1.0,
) -> Scalar:
    """Unbiased squared distance between two sets of features.

    Args:
        features: (n, D) of generated pictures, n ≥ 2.
        reference: (m, D) of the pictures they should be like, m ≥ 2.
        degree: q of the kernel.
        gamma: γ; 1 / D if absent.
        coef: c.

    Returns:
        Scalar float64, without gradient.

    Raises:
        ValueError: on fewer than two samples in a set, or features that are not finite.

    >>> x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    >>> bool(kernel_inception_distance(x[:100], x[100:]).abs() < 0.2 < kernel_inception_distance(x, x + 1))
    True
    """
    for name, rows in (("features", features), ("reference", reference)):
        if len(rows) < 2:
            raise ValueError(f"{name} holds {len(rows)} sample, at least 2 are needed")
    scale = 1 / features.shape[1] if gamma is None else gamma
    n, m = len(features), len(reference)

    def kernel_sum(rows: Tensor, others: Tensor, *, within: bool) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=rows.device)
        size = max(1, _PART // len(others))
        with torch.autocast(rows.device.type, enabled=False):
            for start in range(0, len(rows), size):
                part = rows[start : start + size].double()
                values = (scale * (part @ others.double().T) + coef) ** degree
                if within:
                    places = torch.arange(len(part), device=rows.device)
                    values[places, start + places] = 0
                total += values.sum()
        return total

    with torch.no_grad():
        same = kernel_sum(features, features, within=True) / (n * (n - 1))
        same = same + kernel_sum(reference, reference, within=True) / (m * (m - 1))
        found = same - 2 * kernel_sum(features, reference, within=False) / (n * m)
    if not bool(found.isfinite()):
        raise ValueError("features or reference hold NaN or infinite values, or too large ones for this kernel")
    return found
