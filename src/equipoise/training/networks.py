"""Small networks for tables, initialised from a seed without touching the global generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Standardize(nn.Module):
    """Subtract the training mean and divide by the training deviation; constant features become 0.

    Args:
        features: (n, d) training features to take the statistics of.

    >>> layer = Standardize(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    >>> layer(torch.tensor([[3.0, 5.0]]))
    tensor([[1., 0.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Float[Tensor, "n d"]) -> None:
        super().__init__()
        wide = features.double()
        deviation = wide.std(0, correction=0)
        # A deviation at rounding level is that of a constant.
        constant = deviation <= 1e-12 * wide.abs().amax(0).clamp_min(1e-300)
        self.register_buffer("mean", wide.mean(0).float())
        self.register_buffer("scale", torch.where(constant, 1.0, deviation).float())

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Standardised features."""
        return (features - self.mean) / self.scale


def mlp(
    in_features: int, out_features: int, hidden: Sequence[int] = (64, 32), *, dropout: float = 0.0
) -> nn.Sequential:
    """A multilayer perceptron with ReLU; no hidden layer makes it linear.

    >>> [type(layer).__name__ for layer in mlp(4, 1, (8,))]
    ['Linear', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    width = in_features
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out_features))
