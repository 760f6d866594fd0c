"""IceHrNet: a segmentation network that keeps the finest texture.

    high, low = HRNet: the branches at H/4, and the map after the first convolution, at H/2
    h = ASPP(high)                     256 channels: a 1 × 1 convolution, separable ones of dilation 12, 24, 36, a mean
                                       over the image; all of them joined by a 1 × 1 convolution, then dropout 0.1
    l = 1 × 1 convolution of low       48 channels
    z = two separable 3 × 3 convolutions of [h at the size of l, l], 256 channels, and a 1 × 1 convolution to C classes
    logits = z at H × W, bilinear

What tells ice from frozen soil is in the highest frequencies, which are gone at H/4; hence the low-level map at H/2.

Source: PL23K/IceHrNet, configuration files and training log. The released head lacks the ASPP that the log counts; this
is the network of the log, with 66,853,746 values, and `low_level="stage1"` and "kaiming" are reconstructed options.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, NumClasses, ProperFraction, Whole
from equipoise.dense.transfer.hrnet import HRNetBackbone, check_images, trains_statistics
from equipoise.dense.transfer.layers import Conv2d, Init, conv_bn_relu, initialize, resized, separable

LowLevel: TypeAlias = Literal["conv1", "stage1"]
_LOW, _DECODER = 48, 256


class ParameterCounts(NamedTuple):
    """Number of trainable values of a network.

    Attributes:
        backbone: of HRNet.
        aspp: of the pyramid of dilations.
        decoder: of what follows.
        total: of all.
        with_statistics: of all, and the running means and variances of batch norm.
    """

    backbone: int
    aspp: int
    decoder: int
    total: int
    with_statistics: int


class ASPP(nn.Module):
    """Pyramid of dilated convolutions: what stands around a pixel, near and far, and in the whole image.

    Args:
        in_channels: of the maps.
        rates: dilations; rate 1 is a 1 × 1 convolution, all others are separable ones of 3 × 3.
        out_channels: of every branch and of the result.
        dropout: probability that a value of the result is left out.
        init: see `HRNetBackbone`.
        seed: of the initial weights.

    Raises:
        ValueError: for bad settings.

    >>> ASPP(32, (1, 2, 4), 16).eval()(torch.rand(2, 32, 10, 12)).shape
    torch.Size([2, 16, 10, 12])
    """

    @checked
    def __init__(
        self,
        in_channels: Count,
        rates: Sequence[Count] = (1, 12, 24, 36),
        out_channels: Count = 256,
        *,
        dropout: ProperFraction = 0.1,
        init: Init = "kaiming",
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        if not rates:
            raise ValueError("rates are empty; give at least one dilation, such as (1, 12, 24, 36)")
        self.branches = nn.ModuleList(
            conv_bn_relu(in_channels, out_channels) if rate == 1 else separable(in_channels, out_channels, rate)
            for rate in rates
        )
        self.pooled = conv_bn_relu(in_channels, out_channels, bias=False)
        self.join = conv_bn_relu((len(rates) + 1) * out_channels, out_channels)
        self.dropout = nn.Dropout(dropout)
        initialize(self, init, torch.Generator().manual_seed(seed))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, out_channels, H, W) of maps (B, in_channels, H, W).

        Raises:
            ValueError: for one image in training, of which batch norm has no variance.
        """
        self.check_batch(maps)
        pooled = self.pooled(maps.mean((-2, -1), keepdim=True)).expand(-1, -1, *maps.shape[-2:])
        found: Tensor = self.dropout(self.join(torch.cat([*(branch(maps) for branch in self.branches), pooled], 1)))
        return found

    def check_batch(self, batch: Tensor) -> None:
        """Raise `ValueError` for one image where the batch norm of the image's mean is in training."""
        if len(batch) == 1 and trains_statistics(self.pooled):
            raise ValueError(
                "a batch of one image cannot be trained on: its mean has no variance; take at least two, or put the "
                "batch norms in evaluation mode"
            )


class DeepLabDecoder(nn.Module):
    """Decoder that joins what a pixel is about with how it looks in detail.

    Args:
        num_classes: C.
        low_channels: of the low-level maps.
        high_channels: of the high-level maps.
        init: see `HRNetBackbone`.
        seed: of the initial weights.

    Raises:
        ValueError: for bad settings.

    >>> DeepLabDecoder(3, 8, 16).eval()(torch.rand(1, 16, 4, 4), torch.rand(1, 8, 7, 8)).shape
    torch.Size([1, 3, 7, 8])
    """

    @checked
    def __init__(
        self,
        num_classes: NumClasses,
        low_channels: Count = 64,
        high_channels: Count = 256,
        *,
        init: Init = "kaiming",
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        self.low = conv_bn_relu(low_channels, _LOW)
        self.refine = nn.Sequential(separable(high_channels + _LOW, _DECODER), separable(_DECODER, _DECODER))
        self.classify = Conv2d(_DECODER, num_classes, 1, bias=True)
        initialize(self, init, torch.Generator().manual_seed(seed))

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Logits (B, C, H, W) of high-level maps of any size and low-level maps (B, low_channels, H, W)."""
        detail = self.low(low)
        size = (detail.shape[-2], detail.shape[-1])
        logits: Tensor = self.classify(self.refine(torch.cat([resized(high, size), detail], 1)))
        return logits


class IceHrNet(nn.Module):
    """Segmentation network of an HRNet, an `ASPP` and a `DeepLabDecoder` that is fed with the first convolution.

    Takes images of any size from 32 × 32 on.

    Args:
        num_classes: C.
        width: of the backbone.
        blocks: of the backbone.
        modules: of the backbone.
        aspp_rates: dilations; rate 1 is a 1 × 1 convolution.
        aspp_channels: of the pyramid's result.
        in_channels: of the images.
        low_level: the map that the decoder sees beside the high-level ones: "conv1" at H/2, as published, or "stage1"
            at H/4.
        dropout: after the pyramid.
        init: "kaiming", or "published": N(0, 0.001²), which is for a backbone with weights and slow without.
        backbone_weights: path to ImageNet weights of an HRNet, see `HRNetBackbone`; None trains from scratch.
        seed: of the initial weights; torch's global generator is left alone.

    Raises:
        FileNotFoundError: if there are no weights at the path.
        ImportError: if the weights need safetensors, which is not installed.
        ValueError: for bad settings, or weights that do not fit.

    >>> model = IceHrNet.tiny(3).eval()
    >>> model(torch.rand(2, 3, 48, 64)).shape, model.parameter_counts().total
    (torch.Size([2, 3, 48, 64]), 1027395)
    """

    @checked
    def __init__(
        self,
        num_classes: NumClasses,
        width: Count = 48,
        blocks: Sequence[Count] = (4, 4, 4, 4),
        modules: Sequence[Count] = (1, 1, 4, 3),
        aspp_rates: Sequence[Count] = (1, 12, 24, 36),
        aspp_channels: Count = 256,
        in_channels: Count = 3,
        *,
        low_level: LowLevel = "conv1",
        dropout: ProperFraction = 0.1,
        init: Init = "kaiming",
        backbone_weights: str | Path | None = None,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        if not aspp_rates:
            raise ValueError("aspp_rates are empty; give at least one dilation, such as (1, 12, 24, 36)")
        self.low_level = low_level
        self.backbone = HRNetBackbone(
            width, blocks, modules, in_channels, init=init, weights=backbone_weights, seed=seed
        )
        # Seeds of the parts differ, so that no two of them begin with the same weights.
        high = self.backbone.high_channels
        self.aspp = ASPP(high, aspp_rates, aspp_channels, dropout=dropout, init=init, seed=seed + 1)
        low = self.backbone.low_channels[low_level]
        self.decoder = DeepLabDecoder(num_classes, low, aspp_channels, init=init, seed=seed + 2)

    @classmethod
    def tiny(cls, num_classes: int, *, low_level: LowLevel = "conv1", seed: int = 0) -> IceHrNet:
        """A network of width 8 with one block and one module in every stage, for tests and small images."""
        return cls(num_classes, 8, (1, 1, 1, 1), (1, 1, 1, 1), low_level=low_level, seed=seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, in_channels, H, W).

        Raises:
            ValueError: for other shapes, images below 32 × 32 pixels, or one image in training.
        """
        check_images(images, self.backbone.in_channels)
        # Before the backbone, whose running statistics a batch that is refused must not move.
        self.aspp.check_batch(images)
        found = self.backbone(images)
        low = found.conv1 if self.low_level == "conv1" else found.stage1
        return resized(self.decoder(self.aspp(found.high), low), (images.shape[-2], images.shape[-1]))

    def parameter_counts(self) -> ParameterCounts:
        """Number of trainable values by part, and with the running statistics of batch norm."""
        parts = [sum(p.numel() for p in part.parameters()) for part in (self.backbone, self.aspp, self.decoder)]
        statistics = sum(each.numel() for name, each in self.named_buffers() if "running_" in name)
        return ParameterCounts(parts[0], parts[1], parts[2], sum(parts), sum(parts) + statistics)
