"""What the all-pairs kernels are asked for and what they return."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

# A sample's part of its side's weight: one number where all samples weigh the same.
Share: TypeAlias = float | Tensor


# Names of what is wanted of single samples beside the mean over all pairs: "value", "slope", "curvature", the
# functions of a `Surrogate`, each averaged over the pairs of the sample.
Want: TypeAlias = Collection[str]


class Side(NamedTuple):
    """The samples of one side.

    Attributes:
        scale: `scale * slope` is the gradient of the mean over all pairs in u (or in a), `scale * curvature` its
            Hessian diagonal.
        means: what was wanted of each sample, (..., n).
    """

    scale: Share
    means: dict[str, Tensor]

    def scaled(self, name: str) -> Tensor:
        """The gradient for "slope", the Hessian diagonal for "curvature"."""
        return self.means[name] * self.scale


class PairMeans(NamedTuple):
    """The weighted mean over all pairs, shape (...), and its two sides u and a, shapes (..., n)."""

    value: Tensor
    u: Side
    a: Side


def wide(x: Tensor) -> torch.dtype:
    """The dtype of accumulators: float64 wherever the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64
