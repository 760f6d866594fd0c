"""A high-resolution backbone: branches of four resolutions side by side, which exchange what they found.

    conv1, conv2    3 × 3, stride 2 each, 64 channels; the first is kept, for fine texture is in it
    stage 1         4 bottlenecks at H/4
    stages 2, 3, 4  1, 4 and 3 modules of 2, 3 and 4 branches with W, 2W, 4W, 8W channels at H/4 to H/32; a module is 4
                    basic blocks in every branch, and a fusion: the ReLU of the sum, in every branch, of all branches
                    brought to its size (1 × 1 convolution and bilinear, or 3 × 3 convolutions of stride 2)
    output          all four branches at H/4: 15 W channels

Names of parameters are those of the authors of HRNet, so that their ImageNet weights fit.

Source: HRNet (Wang et al., TPAMI 2020); configuration by the code of PL23K/IceHrNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.dense.transfer.layers import Conv2d, Init, conv_bn, initialize, resized
from equipoise.dense.transfer.weights import load_weights

_STEM, _BOTTLENECK, _EXPANSION, _LEAST = 64, 64, 4, 32
_CLASSIFIER = ("incre_modules", "downsamp_modules", "final_layer", "classifier", "last_layer")


class HRNetFeatures(NamedTuple):
    """What the backbone finds.

    Attributes:
        conv1: (B, 64, H/2, W/2).
        stage1: (B, 256, H/4, W/4).
        high: (B, 15 width, H/4, W/4).
    """

    conv1: Tensor
    stage1: Tensor
    high: Tensor


class _Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions beside the identity, or a projection where the channels differ."""

    def __init__(self, before: int) -> None:
        super().__init__()
        after = _BOTTLENECK * _EXPANSION
        self.conv1, self.bn1 = Conv2d(before, _BOTTLENECK, 1, bias=False), nn.BatchNorm2d(_BOTTLENECK)
        self.conv2, self.bn2 = Conv2d(_BOTTLENECK, _BOTTLENECK, 3, bias=False), nn.BatchNorm2d(_BOTTLENECK)
        self.conv3, self.bn3 = Conv2d(_BOTTLENECK, after, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = None if before == after else conv_bn(before, after, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return relu(self.bn3(self.conv3(inner)) + (x if self.downsample is None else self.downsample(x)))


class _BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + x)


class _Module(nn.Module):
    """Blocks in every branch, then the exchange between all of them."""

    def __init__(self, channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(_BasicBlock(c) for _ in range(blocks))) for c in channels)
        places = range(len(channels))
        self.fuse_layers = nn.ModuleList(nn.ModuleList(_route(channels, j, i) for j in places) for i in places)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        found = [branch(x) for branch, x in zip(self.branches, branches, strict=True)]
        fused = []
        for own, routes in zip(found, self.fuse_layers, strict=True):
            size = (own.shape[-2], own.shape[-1])
            parts = [resized(route(x), size) for route, x in zip(routes.children(), found, strict=True)]
            fused.append(relu(sum(parts[1:], parts[0])))
        return fused


def _route(channels: Sequence[int], source: int, goal: int) -> nn.Module:
    """From one branch to another: the finer one by strides, the coarser one to be resized."""
    if source == goal:
        return nn.Identity()
    if source > goal:
        return conv_bn(channels[source], channels[goal], 1, relu=False)
    steps = range(source + 1, goal + 1)
    return nn.Sequential(
        *(conv_bn(channels[source], channels[k if k == goal else source], 3, 2, relu=k != goal) for k in steps)
    )


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """To one branch more, made of the coarsest one there is."""
    kept = [nn.Identity() if a == b else conv_bn(a, b, 3, relu=True) for a, b in zip(before, after, strict=False)]
    return nn.ModuleList([*kept, nn.Sequential(conv_bn(before[-1], after[-1], 3, 2, relu=True))])


class HRNetBackbone(nn.Module):
    """HRNet without its classifier, with the maps after the first convolution and the first stage.

    Takes images of any size from 32 × 32 on; a side need not be a multiple of 32.

    Args:
        width: channels W of the finest branch; published are 18, 30, 32, 40, 44, 48, 60 and 64.
        blocks: number of blocks of a branch in each of the four stages.
        modules: number of modules in each of the four stages.
        in_channels: of the images.
        init: "kaiming", or "published": N(0, 0.001²), which trains slowly from scratch.
        weights: path to weights of an HRNet of this width, such as those of ImageNet, as safetensors or by
            `torch.save`; those of its classifier are left out. None leaves the backbone as it was drawn.
        seed: of the initial weights; torch's global generator is left alone.

    Attributes:
        high_channels: 15 W.
        low_channels: name of a low-level map → its channels.

    Raises:
        FileNotFoundError: if there are no weights at the path.
        ImportError: if the weights need safetensors, which is not installed.
        ValueError: for bad settings, or weights that do not fit.

    >>> backbone = HRNetBackbone(8, blocks=(1, 1, 1, 1), modules=(1, 1, 1, 1)).eval()
    >>> [tuple(maps.shape) for maps in backbone(torch.rand(1, 3, 40, 64))]
    [(1, 64, 20, 32), (1, 256, 10, 16), (1, 120, 10, 16)]
    """

    @checked
    def __init__(
        self,
        width: Count = 48,
        blocks: Sequence[Count] = (4, 4, 4, 4),
        modules: Sequence[Count] = (1, 1, 4, 3),
        in_channels: Count = 3,
        *,
        init: Init = "kaiming",
        weights: str | Path | None = None,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        for name, counts in (("blocks", blocks), ("modules", modules)):
            if len(counts) != 4:
                raise ValueError(f"{name}={counts} must have four numbers, one for each stage")
        self.in_channels = in_channels
        expanded = _BOTTLENECK * _EXPANSION
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.low_channels = {"conv1": _STEM, "stage1": expanded}
        self.high_channels = sum(channels)
        self.conv1, self.bn1 = Conv2d(in_channels, _STEM, 3, 2, bias=False), nn.BatchNorm2d(_STEM)
        self.conv2, self.bn2 = Conv2d(_STEM, _STEM, 3, 2, bias=False), nn.BatchNorm2d(_STEM)
        self.layer1 = nn.Sequential(
            *(_Bottleneck(expanded if k else _STEM) for k in range(blocks[0] * modules[0])),
        )
        before = [expanded]
        for stage in (2, 3, 4):
            after = channels[:stage]
            self.add_module(f"transition{stage - 1}", _transition(before, after))
            units = (_Module(after, blocks[stage - 1]) for _ in range(modules[stage - 1]))
            self.add_module(f"stage{stage}", nn.Sequential(*units))
            before = after
        initialize(self, init, torch.Generator().manual_seed(seed))
        if weights is not None:
            load_weights(self, weights, unused=_CLASSIFIER)

    def forward(self, images: Tensor) -> HRNetFeatures:
        """Maps of images (B, C, H, W).

        Raises:
            ValueError: for other shapes, images below 32 × 32 pixels, or in training one image of 32 × 32, of which the
                coarsest branch has one pixel.
        """
        check_images(images, self.in_channels)
        if len(images) == 1 and max(images.shape[-2:]) == _LEAST and trains_statistics(self):
            raise ValueError(
                f"one image of {_LEAST} × {_LEAST} pixels cannot be trained on: its coarsest map is one pixel, which "
                "has no variance; take at least two images, or larger ones"
            )
        conv1 = relu(self.bn1(self.conv1(images)))
        stage1 = self.layer1(relu(self.bn2(self.conv2(conv1))))
        branches = [stage1]
        for stage in (2, 3, 4):
            transition = self.get_submodule(f"transition{stage - 1}")
            sources = [*branches, branches[-1]]
            branches = [step(x) for step, x in zip(transition.children(), sources, strict=True)]
            branches = self.get_submodule(f"stage{stage}")(branches)
        size = (branches[0].shape[-2], branches[0].shape[-1])
        return HRNetFeatures(conv1, stage1, torch.cat([resized(branch, size) for branch in branches], 1))


def trains_statistics(module: nn.Module) -> bool:
    """Whether some batch norm of a module takes its mean and variance from the batch."""
    return any(isinstance(part, nn.BatchNorm2d) and part.training for part in module.modules())


def check_images(images: Tensor, channels: int) -> None:
    """Raise `ValueError` unless these are images of so many channels that are large enough."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != channels:
        shown = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise ValueError(f"images must have shape (batch, {channels}, height, width), got {shown}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point, got {images.dtype}; convert them with images.float() / 255")
    if min(images.shape[-2:]) < _LEAST:
        raise ValueError(f"images of {tuple(images.shape[-2:])} pixels are too small; pad or resize them to {_LEAST}")
