"""The block penalty on the last layer of a network."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Scalar
from equipoise.crowd.tasks.spectral import check_blocks, spectral_assignment


class BlockDiagonalRegularizer(nn.Module):
    """strength · R_k of a weight matrix, whose gradient is strength · D · sign(W).

    The U of the penalty is held fixed in the gradient, as in the U step of `TFCL`; by Danskin's theorem that is the
    gradient wherever λ_k < λ_k+1.

    Args:
        k: blocks wanted among the rows and columns together.
        strength: α₁.

    >>> import torch
    >>> layer, penalty = torch.nn.Linear(4, 3), BlockDiagonalRegularizer(2)
    >>> penalty(layer.weight).backward()
    >>> layer.weight.grad.shape
    torch.Size([3, 4])
    """

    @checked
    def __init__(self, k: Count, strength: NonNegative = 1.0) -> None:
        super().__init__()
        self.k, self.strength = k, strength

    @checked
    def forward(self, weight: Float[Tensor, "rows columns"]) -> Scalar:
        """The penalty of a weight (rows, columns), one side the features and the other the tasks.

        Raises:
            ValueError: if k is larger than rows + columns.
        """
        check_blocks(self.k, *weight.shape)
        distance = spectral_assignment(weight, self.k).distance
        return self.strength * (distance * weight.abs()).sum()

    def extra_repr(self) -> str:
        """The settings, as `print` shows them."""
        return f"k={self.k}, strength={self.strength:g}"
