"""The layers of the network: convolution, batch norm and ReLU, and how they are initialised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

Init: TypeAlias = Literal["kaiming", "published"]
_PUBLISHED_STD = 0.001


class Conv2d(nn.Conv2d):
    """A convolution that keeps the size up to its stride, and is initialised by `initialize` alone."""

    def __init__(
        self,
        before: int,
        after: int,
        size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        *,
        bias: bool,
    ) -> None:
        super().__init__(before, after, size, stride, dilation * (size // 2), dilation, groups, bias)

    def reset_parameters(self) -> None:
        """Nothing, so that torch's global generator is not drawn from."""


def initialize(module: nn.Module, init: Init, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions; biases are 0, batch norms the identity.

    Args:
        module: what is initialised, in place.
        init: "kaiming" for training from scratch (normal, by the fan-in), "published" for N(0, 0.001²).
        generator: of the draws.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            if init == "kaiming":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.normal_(layer.weight, 0.0, _PUBLISHED_STD, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def conv_bn(before: int, after: int, size: int, stride: int = 1, *, relu: bool) -> nn.Sequential:
    """Convolution without bias, batch norm and, if wanted, ReLU: a layer of the backbone."""
    return nn.Sequential(Conv2d(before, after, size, stride, bias=False), nn.BatchNorm2d(after), *_relus(relu))


def conv_bn_relu(before: int, after: int, *, bias: bool = True) -> nn.Sequential:
    """A 1 × 1 convolution, batch norm and ReLU: a layer of the head."""
    return nn.Sequential(Conv2d(before, after, 1, bias=bias), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def separable(before: int, after: int, dilation: int = 1) -> nn.Sequential:
    """A 3 × 3 convolution of every channel by itself with batch norm, and one of 1 × 1 with batch norm and ReLU."""
    depthwise = Conv2d(before, before, 3, dilation=dilation, groups=before, bias=True)
    return nn.Sequential(depthwise, nn.BatchNorm2d(before), *conv_bn_relu(before, after))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The maps at another size, bilinear; as they are where they have it."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return interpolate(maps, size, mode="bilinear", align_corners=False)


def _relus(wanted: bool) -> Iterator[nn.Module]:
    if wanted:
        yield nn.ReLU(inplace=True)
