"""A denoiser of vectors: residual blocks whose scale and shift come from the step and the condition.

    h = W_in x;  h ← h + MLP(LN(h) (1 + scale) + shift) for every block;  output = W_out LN(h), zero at the start
    (scale, shift) = W_block SiLU(MLP(features of the step) + MLP(condition))

Reads components of pictures (`PrincipalAutoencoder`) where a network over pixels would be too slow. It serves diffusion
and, with the time of a bridge, image-to-image bridges.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn


def step_features(steps: Num[Tensor, " n"], width: int = 64, period: float = 10_000.0) -> Float[Tensor, "n width"]:
    """Sines and cosines of the steps at widths/2 frequencies from 1 down to 1/period.

    >>> step_features(torch.tensor([0.0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = width // 2
    frequencies = torch.exp(-math.log(period) * torch.arange(half, device=steps.device) / half)
    angles = steps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class VectorDenoiser(nn.Module):
    """A network (x, step, condition) -> a vector of the size of x.

    Args:
        size: of x.
        condition: size of the condition, 0 for none.
        width: of the residual stream.
        blocks: how many.
        time_features: how many numbers a step is given by.
        hidden: width inside a block, by default twice the width.

    Raises:
        ValueError: if a size is below 1, or the time features are odd.

    >>> network = VectorDenoiser(8, condition=4, width=16, blocks=1)
    >>> network(torch.randn(2, 8), torch.tensor([0, 5]), torch.randn(2, 4)).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        size: int,
        condition: int = 0,
        width: int = 256,
        blocks: int = 3,
        time_features: int = 64,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if min(size, width, blocks) < 1 or condition < 0:
            raise ValueError(
                f"size={size}, width={width} and blocks={blocks} must be at least 1, condition={condition} at least 0"
            )
        if time_features < 2 or time_features % 2:
            raise ValueError(f"time_features={time_features} must be even and at least 2")
        hidden = 2 * width if hidden is None else hidden
        self.size, self.condition_size, self.time_features = size, condition, time_features
        self.inward = nn.Linear(size, width)
        self.time = nn.Sequential(nn.Linear(time_features, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = (
            nn.Sequential(nn.Linear(condition, width), nn.SiLU(), nn.Linear(width, width)) if condition else None
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(blocks))
        self.modulations = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for _ in range(blocks)
        )
        self.last_norm = nn.LayerNorm(width)
        self.outward = nn.Linear(width, size)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(
        self, x: Float[Tensor, "n size"], steps: Tensor, condition: Float[Tensor, "n c"] | None = None
    ) -> Float[Tensor, "n size"]:
        """The prediction for x (n, size) at steps (n,), whole or not.

        Raises:
            ValueError: if a condition is missing, not wanted, or of another size.
        """
        told = self.time(step_features(steps, self.time_features).to(x.dtype))
        wanted, given = self.condition_size, 0 if condition is None else condition.shape[-1]
        if wanted != given:
            raise ValueError(f"the network reads a condition of size {wanted}, got {given}")
        if self.condition is not None:
            told = told + self.condition(condition)
        told = nn.functional.silu(told)
        h = self.inward(x)
        for norm, modulation, body in zip(self.norms, self.modulations, self.bodies, strict=True):
            scale, shift = modulation(told).chunk(2, -1)
            h = h + body(norm(h) * (1 + scale) + shift)
        return self.outward(self.last_norm(h))
