"""What the two claims on salient objects share: noisy ellipses, one large and some small, and a small network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from equipoise.dense import SaliencyReport, SizeInvariantLoss, object_frames

SIDE, IMAGES, STEPS, BATCH, NOISE = 40, 96, 150, 8, 0.8
_SMALL = 25


class Ellipses(NamedTuple):
    """Pictures with their masks.

    Attributes:
        x: (n, 1, 40, 40) the mask and noise.
        mask: (n, 40, 40).
    """

    x: Tensor
    mask: Tensor


def draw_ellipses(n: int, generator: torch.Generator) -> Ellipses:
    """One ellipse of sides 15 or 16 and one to three of sides 3 or 4 in every picture, with a pixel between them."""
    masks = torch.zeros(n, SIDE, SIDE, dtype=torch.long)
    for mask in masks:
        few = 1 + _drawn(3, generator)
        _put(mask, 15, generator)
        for _ in range(few):
            _put(mask, 3, generator)
    return Ellipses((masks + NOISE * torch.randn(masks.shape, generator=generator))[:, None], masks)


def train(settings: dict[str, float], loss: nn.Module, seed: int, steps: int, images: int) -> nn.Sequential:
    """Three dilated convolutions of 12 channels, trained by Adam."""
    generator = torch.Generator().manual_seed(1000 + seed)
    data = draw_ellipses(images, generator)
    framed = isinstance(loss, SizeInvariantLoss)
    frames = [object_frames(mask) for mask in data.mask] if framed else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for width, dilation in ((1, 1), (12, 2), (12, 4)):
            convolution = nn.Conv2d(width, 12, 3, padding=dilation, dilation=dilation)
            layers += [convolution, nn.BatchNorm2d(12), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Conv2d(12, 1, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=settings["lr"])
    for _ in range(steps):
        rows = torch.randperm(images, generator=generator)[:BATCH]
        logits, target = network(data.x[rows])[:, 0], data.mask[rows]
        value = loss(logits, target, [frames[row] for row in rows.tolist()]) if framed else loss(logits, target.float())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def judge(network: nn.Sequential, seed: int, images: int) -> dict[str, float]:
    """Measures on fresh pictures, and the recall of small objects at a probability of one half."""
    data = draw_ellipses(images, torch.Generator().manual_seed(2000 + seed))
    maps = network(data.x)[:, 0].sigmoid()
    report = SaliencyReport(structural=False)
    report.update(maps, data.mask)
    found = {name: float(value) for name, value in report.compute().items()}
    hit = total = 0
    for p, mask in zip(maps, data.mask, strict=True):
        for top, bottom, left, right in object_frames(mask).tolist():
            inside = mask[top:bottom, left:right] == 1
            if int(inside.sum()) < _SMALL:
                hit += int((p[top:bottom, left:right][inside] > 0.5).sum())
                total += int(inside.sum())
    return {
        "MAE": found["mae"],
        "SI-MAE": found["si_mae"],
        "F, mean": found["f_mean"],
        "SI-F, mean": found["si_f_mean"],
        "AUC": found["auc"],
        "SI-AUC": found["si_auc"],
        "recall of small objects": hit / total,
    }


def _put(mask: Tensor, side: int, generator: torch.Generator) -> None:
    """Set an ellipse of sides `side` or one more, away from what is there."""
    height, width = side + _drawn(2, generator), side + _drawn(2, generator)
    y = (torch.arange(height) - (height - 1) / 2) / (height / 2)
    x = (torch.arange(width) - (width - 1) / 2) / (width / 2)
    shape = (y[:, None] ** 2 + x[None] ** 2 <= 1).long()
    while True:
        top, left = 1 + _drawn(SIDE - height - 1, generator), 1 + _drawn(SIDE - width - 1, generator)
        if not mask[top - 1 : top + height + 1, left - 1 : left + width + 1].any():
            mask[top : top + height, left : left + width] = shape
            return


def _drawn(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=generator))
