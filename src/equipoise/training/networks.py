"""Small networks for tables, signals and images, initialised from a seed without touching the global generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize


class Standardize(nn.Module):
    """Subtract the training mean and divide by the training deviation; constant features become 0.

    Args:
        features: (n, d) training features to take the statistics of.
        weight: (n,) non-negative, how often each row counts.

    >>> layer = Standardize(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    >>> layer(torch.tensor([[3.0, 5.0]]))
    tensor([[1., 0.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Float[Tensor, "n d"], weight: Float[Tensor, " n"] | None = None) -> None:
        super().__init__()
        wide = features.double()
        if weight is None:
            mean, deviation = wide.mean(0), wide.std(0, correction=0)
        else:
            share = weight.double() / weight.double().sum()
            mean = share @ wide
            deviation = (share @ (wide - mean).square()).sqrt()
        # A deviation at rounding level is that of a constant.
        constant = deviation <= 1e-12 * wide.abs().amax(0).clamp_min(1e-300)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", torch.where(constant, 1.0, deviation).float())

    def forward(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Standardised features."""
        return (features - self.mean) / self.scale


class StandardizeChannels(Standardize):
    """Standardise every channel of signals or images by its mean and deviation over training samples and places.

    Args:
        inputs: (n, channels, ...) training inputs to take the statistics of.

    >>> layer = StandardizeChannels(torch.tensor([[[1.0, 3.0]], [[1.0, 3.0]]]))
    >>> layer(torch.tensor([[[1.0, 2.0]]]))
    tensor([[[-1.,  0.]]])
    """

    def __init__(self, inputs: Float[Tensor, "n c *places"]) -> None:
        super().__init__(inputs.movedim(1, -1).flatten(0, -2))

    def forward(self, inputs: Float[Tensor, "n c *places"]) -> Float[Tensor, "n c *places"]:
        """Standardised inputs."""
        return super().forward(inputs.movedim(1, -1)).movedim(-1, 1)


class CosineLinear(nn.Linear):
    """Cosines of features (n, d) and the vectors of classes, (n, C), in place of their products.

    >>> layer = CosineLinear(2, 3, bias=False)
    >>> bool(layer(torch.tensor([[3.0, 4.0]])).abs().max() <= 1.0001)
    True
    """

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Cosines; 0 for features that are all 0."""
        return super().forward(normalize(features, dim=1)) / self.weight.norm(dim=1).clamp_min(1e-12)


def mlp(
    in_features: int,
    out_features: int,
    hidden: Sequence[int] = (64, 32),
    *,
    dropout: float = 0.0,
    cosines: bool = False,
) -> nn.Sequential:
    """A multilayer perceptron with ReLU; no hidden layer makes it linear, `cosines` ends it in a `CosineLinear`.

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
    head = CosineLinear(width, out_features, bias=False) if cosines else nn.Linear(width, out_features)
    return nn.Sequential(*layers, head)


def convolutions(inputs: Float[Tensor, "n c *places"], out_features: int, width: int = 32) -> nn.Sequential:
    """A small convolutional network for signals (n, channels, time) or images (n, channels, height, width).

    Two convolutions, of `width` and twice as many channels, with a pooling between them, and a hidden layer of 64;
    channels are standardised by the inputs given.

    >>> convolutions(torch.rand(5, 1, 8, 8), 3)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """
    axes = inputs.ndim - 2
    conv, pool, mean = (
        (nn.Conv1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d)
        if axes == 1
        else (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
    )
    return nn.Sequential(
        StandardizeChannels(inputs),
        conv(inputs.shape[1], width, 3, padding=1),
        nn.ReLU(),
        pool(2),
        conv(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        mean(4),
        nn.Flatten(),
        nn.Linear(2 * width * 4**axes, 64),
        nn.ReLU(),
        nn.Linear(64, out_features),
    )
