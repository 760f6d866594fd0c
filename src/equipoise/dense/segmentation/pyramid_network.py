"""A small segmentation network upon the maps of an encoder: few weights to train, fine borders from fine maps.

    p_L = lateral_L(m_L);   p_k = conv_k(lateral_k(m_k) + upsample(p_{k+1}));   logits = head(p_1)

m_1 … m_L are maps from fine to coarse. Lateral convolutions are 1x1, the others 3x3, all with batch norm and ReLU; maps
are brought to the next finer size bilinearly.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; as a segmentation head, one output upon the
finest map, reconstructed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from equipoise.core.signature import checked
from equipoise.core.types import Count, NumClasses


class PyramidSegmenter(nn.Module):
    """Logits at the size of the finest map, from the maps of an encoder.

    Args:
        maps: a function of images (n, 3, h, w) that gives maps from fine to coarse, such as `pyramid` of
            `equipoise.data.pretrained.image_encoder()`; what it is made of is not trained and not saved with this
            module.
        channels: of the maps.
        num_classes: C.
        width: of the pyramid.
        seed: of the first weights.

    Raises:
        ValueError: if there is no map.

    >>> from equipoise.data.pretrained import EfficientNetLite0
    >>> network = PyramidSegmenter(EfficientNetLite0().eval().pyramid, (16, 24, 40, 112, 320), 4, width=16)
    >>> network(torch.rand(2, 3, 64, 96)).shape
    torch.Size([2, 4, 32, 48])
    """

    @checked
    def __init__(
        self,
        maps: Callable[[Any], list[Tensor]],
        channels: Sequence[Count],
        num_classes: NumClasses,
        width: Count = 64,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not len(channels):
            raise ValueError("channels is empty; at least one map is needed")
        # In a tuple, so that an encoder that is a module becomes no part of this one.
        self._maps = (maps,)
        self.channels, self.num_classes, self.width = tuple(channels), num_classes, width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.laterals = nn.ModuleList(_block(size, width, 1) for size in channels)
            self.joints = nn.ModuleList(_block(width, width, 3) for _ in channels[1:])
            self.head = nn.Conv2d(width, num_classes, 1)

    @checked
    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes a b"]:
        """Logits at the size of the finest map.

        Raises:
            ValueError: if the encoder gives other maps than `channels` says.
        """
        with torch.no_grad():
            maps = self._maps[0](images)
        return self.decode(maps)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of maps that were computed before.

        Raises:
            ValueError: if they are not as `channels` says.
        """
        found = tuple(each.shape[1] for each in maps)
        if found != self.channels:
            raise ValueError(f"maps have {found} channels, wanted {self.channels}")
        x = self.laterals[-1](maps[-1])
        for each, lateral, joint in zip(maps[-2::-1], self.laterals[-2::-1], self.joints[::-1], strict=True):
            up = interpolate(x, size=each.shape[-2:], mode="bilinear", align_corners=False)
            x = joint(lateral(each) + up)
        logits: Tensor = self.head(x)
        return logits


def _block(before: int, after: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())
