"""Losses of a segmentation network under one budget: the same weights to begin with, the same images in each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, one_hot

from equipoise.data.pretrained import ImageEncoder
from equipoise.dense import ClassGroups, PyramidSegmenter, SegmentationAUCLoss, SegmentationMeter, TailMemoryBank
from equipoise.workflows.segment.images import Labelled
from equipoise.workflows.segment.request import SegmentRequest

LOSSES = ("cross-entropy", "weighted", "dice", "auc", "auc-bank")


@dataclass(frozen=True, eq=False)
class Contender:
    """A network that was trained with a loss.

    Attributes:
        loss: its name.
        network: in evaluation mode.
        val: "miou", "tail" and others on the validation images, at the size of training.
        seconds: of training.
    """

    loss: str
    network: PyramidSegmenter
    val: dict[str, float]
    seconds: float


def channels(encoder: ImageEncoder) -> tuple[int, ...]:
    """Of the encoder's maps."""
    return tuple(each.shape[1] for each in encoder.pyramid(torch.full((1, 3, 64, 64), 0.5)))


def train(
    loss: str,
    data: Labelled,
    encoder: ImageEncoder,
    groups: ClassGroups,
    request: SegmentRequest,
    progress: Callable[[int], None],
) -> PyramidSegmenter:
    """A network trained on the images to learn from, in evaluation mode."""
    network = PyramidSegmenter(
        encoder.pyramid, channels(encoder), len(data.names), request.width, seed=request.seed
    ).train()
    criterion = objective(loss, data.pixels("train", request.ignore_index), request.ignore_index)
    bank = None
    if loss == "auc-bank":
        bank = TailMemoryBank(groups.tail, ignore_index=request.ignore_index, seed=request.seed)
    generator = torch.Generator().manual_seed(request.seed)
    optimizer = torch.optim.AdamW(network.parameters(), request.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / request.steps) ** 0.9)
    rows = data.of("train")
    order: list[int] = []
    for step in range(request.steps):
        # Every image once before any comes again.
        while len(order) < request.batch_size:
            order += torch.randperm(len(rows), generator=generator).tolist()
        chosen, order = [rows[k] for k in order[: request.batch_size]], order[request.batch_size :]
        images, labels = _batch(data, chosen, generator, bank, request.ignore_index)
        logits = interpolate(network(images), size=labels.shape[1:], mode="bilinear", align_corners=False)
        optimizer.zero_grad()
        criterion(logits, labels).backward()
        optimizer.step()
        schedule.step()
        progress(step + 1)
    return network.eval()


def objective(loss: str, pixels: Tensor, ignore: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss by its name, of logits (n, C, h, w) and labels (n, h, w).

    Args:
        loss: of `LOSSES`. "weighted" divides by the square root of the pixels of a class; "dice" adds one minus the
            soft Dice overlap to the cross-entropy, "auc" the pixel AUC loss.
        pixels: (C,) of each class in training.
        ignore: label of pixels that do not count.
    """
    if loss.startswith("auc"):
        both = SegmentationAUCLoss(1.0, ignore_index=ignore)
        return lambda logits, target: both(logits, target).total
    weight: Tensor | None = None
    if loss == "weighted":
        each = pixels.clamp(min=1).double().rsqrt()
        weight = (each / each.mean()).float()

    def criterion(logits: Tensor, target: Tensor) -> Tensor:
        valid = target != ignore
        # The mean by hand: that of PyTorch is NaN on a batch without a valid pixel.
        entropy = cross_entropy(logits, target, weight, ignore_index=ignore, reduction="sum")
        held = valid.sum() if weight is None else weight[target[valid]].sum()
        found = entropy / held.clamp(min=1e-12)
        return found + _dice(logits, target, valid) if loss == "dice" else found

    return criterion


@torch.no_grad()
def predict(network: PyramidSegmenter, image: Tensor, sides: tuple[int, int]) -> Tensor:
    """The class of every pixel (h, w) of an image (3, h', w') uint8, at a size of its own."""
    logits = network(image[None].float() / 255)
    return interpolate(logits, size=sides, mode="bilinear", align_corners=False)[0].argmax(0)


def measured(
    network: PyramidSegmenter, data: Labelled, groups: ClassGroups, request: SegmentRequest
) -> dict[str, float]:
    """The measures of the validation images, at the size of training."""
    held = {name: members for name, members in groups._asdict().items() if members}
    meter = SegmentationMeter(len(data.names), ignore_index=request.ignore_index, groups=held)
    for k in data.of("val"):
        sides = data.labels[k].shape
        meter.update(predict(network, data.images[k], (sides[0], sides[1]))[None], data.labels[k][None])
    found = meter.compute()
    scalars = {name: float(value) for name, value in found.items() if value.ndim == 0}
    return {**scalars, "tail": scalars.get("miou/tail", float("nan"))}


def _batch(
    data: Labelled, chosen: list[int], generator: torch.Generator, bank: TailMemoryBank | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Images from 0 to 1 and labels, some mirrored; smaller ones are filled up with pixels that do not count."""
    pairs = []
    for k in chosen:
        image, label = data.images[k].float() / 255, data.labels[k]
        if float(torch.rand((), generator=generator)) < 0.5:
            image, label = image.flip(-1), label.flip(-1)
        if bank is not None:
            image, label = bank(image, label)
        pairs.append((image, label))
    height, width = (max(label.shape[axis] for _, label in pairs) for axis in (0, 1))
    images = torch.full((len(pairs), 3, height, width), 0.5)
    labels = torch.full((len(pairs), height, width), ignore_index)
    for place, (image, label) in enumerate(pairs):
        images[place, :, : label.shape[0], : label.shape[1]] = image
        labels[place, : label.shape[0], : label.shape[1]] = label
    return images, labels


def _dice(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """One minus the soft Dice overlap, the mean over the classes that are there."""
    hot = one_hot(target.masked_fill(~valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    share = logits.softmax(1) * valid[:, None]
    both, size = (share * hot).sum((0, 2, 3)), (share + hot).sum((0, 2, 3))
    present = hot.sum((0, 2, 3)) > 0
    return (1 - 2 * both / size.clamp(min=1e-12))[present].sum() / present.sum().clamp(min=1)


def state(network: PyramidSegmenter) -> dict[str, Any]:
    """What a network is saved by, beside the encoder's card."""
    return {key: value.contiguous() for key, value in network.state_dict().items()}
