"""Losses and a memory of rare classes on CamVid under one budget: `python benchmarks/camvid.py PATH --output FOLDER`.

PATH is an npz file of pictures as streams: `train_images`, `train_images_offsets`, `train_labels` and so on, the same
of `val` and `test`, `train_class_pixels`, and the label of pixels that do not count, `void`. Every arm of a seed begins
with the same weights and sees the same crops; each has as many settings to choose from, by the mIoU of the official
validation part after training; the test part is judged once. A run that is done is a JSON file in FOLDER and is not run
again. `--network package:function` names another network, a function of the number of classes.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, one_hot

from equipoise.data.pretrained import image_encoder
from equipoise.dense import (
    ClassGroups,
    PyramidSegmenter,
    SegmentationAUCLoss,
    SegmentationMeter,
    TailMemoryBank,
    tail_classes_by_pixels,
)

_MEAN, _STD = torch.tensor([0.41, 0.42, 0.43]).view(3, 1, 1), torch.tensor([0.3, 0.3, 0.3]).view(3, 1, 1)
# Arm → the values of its one setting, as many for each.
ARMS: dict[str, tuple[float, ...]] = {
    "cross-entropy": (1e-3, 3e-3, 6e-3),
    "weighted": (0.25, 0.5, 0.75),
    "Dice": (0.3, 1.0, 3.0),
    "AUC": (0.5, 1.0, 4.0),
    "AUC and bank": (0.5, 1.0, 4.0),
}
_RATE = 3e-3


class Network(nn.Module):
    """A small encoder at strides 2 to 8 with a wide view, and a decoder that adds up its stages at stride 2."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()

        def block(before: int, after: int, stride: int, dilation: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(before, after, 3, stride, dilation, dilation, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())

        sizes = (width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(block(before, after, 2), block(after, after, 1))
            for before, after in zip((3, *sizes), sizes, strict=False)
        )
        self.wide = nn.Sequential(*(block(sizes[-1], sizes[-1], 1, dilation) for dilation in (2, 4, 8)))
        self.heads = nn.ModuleList(nn.Conv2d(size, classes, 1) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at half the size of the images."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        found[-1] = self.wide(found[-1])
        size = found[0].shape[2:]
        maps = (head(each) for head, each in zip(self.heads, found, strict=True))
        return torch.stack([interpolate(each, size=size, mode="bilinear", align_corners=False) for each in maps]).sum(0)


class OnEncoder(nn.Module):
    """A pyramid on the frozen encoder; what the other network reads is undone, for the encoder normalises by itself."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        encoder = image_encoder()
        channels = [each.shape[1] for each in encoder.pyramid(torch.full((1, 3, 64, 64), 0.5))]
        self.network = PyramidSegmenter(encoder.pyramid, channels, classes, seed=int(torch.initial_seed() % 2**31))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at half the size of the images."""
        return self.network((x * _STD + _MEAN).clamp(0, 1))


def load(path: Path, part: str, scale: int, most: int | None) -> tuple[Tensor, Tensor]:
    """Pictures of bytes (n, 3, H, W) and label maps, each `scale` times smaller."""
    with np.load(path, allow_pickle=False) as archive:
        streams = {key: (archive[f"{part}_{key}"], archive[f"{part}_{key}_offsets"]) for key in ("images", "labels")}
    images, labels = [], []
    for k in range(len(streams["images"][1]) - 1)[:most]:
        picture, label = (
            Image.open(io.BytesIO(data[ends[k] : ends[k + 1]].tobytes())) for data, ends in streams.values()
        )
        size = (label.width // scale, label.height // scale)
        images.append(torch.from_numpy(np.array(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))))
        labels.append(torch.from_numpy(np.array(label.resize(size, Image.Resampling.NEAREST))).long())
    return torch.stack(images).movedim(-1, 1), torch.stack(labels)


def dice_loss(logits: Tensor, target: Tensor, void: int) -> Tensor:
    """One minus the soft Dice overlap, the mean over classes that are there."""
    valid = target != void
    hot = one_hot(target.masked_fill(~valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    share = logits.softmax(1) * valid[:, None]
    both, size = (share * hot).sum((0, 2, 3)), (share + hot).sum((0, 2, 3))
    present = hot.sum((0, 2, 3)) > 0
    return (1 - 2 * both[present] / size[present]).mean()


def objective(arm: str, setting: float, pixels: Tensor, void: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of an arm on logits of full size."""
    if arm.startswith("AUC"):
        both = SegmentationAUCLoss(setting, ignore_index=void)
        return lambda logits, target: both(logits, target).total
    weight = None
    if arm == "weighted":
        weight = pixels.float().pow(-setting)
        weight = weight / weight.mean()
    extra = setting if arm == "Dice" else 0.0

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        entropy = cross_entropy(logits, target, weight, ignore_index=void)
        return entropy + extra * dice_loss(logits, target, void) if extra else entropy

    return loss


def judge(model: nn.Module, images: Tensor, labels: Tensor, void: int, groups: ClassGroups) -> dict[str, float]:
    """mIoU, that of every group, and IoU by class."""
    model.eval()
    meter = SegmentationMeter(void, ignore_index=void, groups=groups._asdict())
    with torch.no_grad():
        for x, y in zip(images.split(4), labels.split(4), strict=True):
            logits = model((x.float() / 255 - _MEAN) / _STD)
            meter.update(interpolate(logits, size=y.shape[1:], mode="bilinear", align_corners=False).argmax(1), y)
    found = meter.compute()
    return {
        **{name: float(value) for name, value in found.items() if value.ndim == 0},
        **{f"iou/{k}": float(value) for k, value in enumerate(found["iou"])},
    }


def run(arm: str, setting: float, seed: int, options: argparse.Namespace, data: dict[str, object]) -> dict[str, object]:
    """Train one network; validation and test measures."""
    images, labels = data["train"]  # type: ignore[misc]
    void, groups, pixels = data["void"], data["groups"], data["pixels"]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = data["network"](void)  # type: ignore[operator]
    rate = setting if arm == "cross-entropy" else _RATE
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / options.steps) ** 0.9)
    loss = objective(arm, setting, pixels, void)  # type: ignore[arg-type]
    bank = TailMemoryBank(groups.tail, ignore_index=void, storage=torch.float16, seed=seed)  # type: ignore[attr-defined]
    height, width = (int(0.75 * size) for size in labels.shape[1:])
    started = time.perf_counter()
    for _ in range(options.steps):
        x, y = [], []
        for k in torch.randint(len(images), (options.batch,), generator=generator).tolist():
            top, left = (
                int(torch.randint(full - part + 1, (), generator=generator))
                for full, part in zip(labels.shape[1:], (height, width), strict=True)
            )
            image, label = (each[k][..., top : top + height, left : left + width] for each in (images, labels))
            if float(torch.rand((), generator=generator)) < 0.5:
                image, label = image.flip(-1), label.flip(-1)
            image = (image.float() / 255 - _MEAN) / _STD
            if arm.endswith("bank"):
                image, label = bank(image, label)
            x.append(image)
            y.append(label)
        model.train()
        logits = interpolate(model(torch.stack(x)), size=(height, width), mode="bilinear", align_corners=False)
        optimizer.zero_grad()
        loss(logits, torch.stack(y)).backward()
        optimizer.step()
        schedule.step()
    return {
        "seconds": time.perf_counter() - started,
        "val": judge(model, *data["val"], void, groups),  # type: ignore[misc,arg-type]
        "test": judge(model, *data["test"], void, groups),  # type: ignore[misc,arg-type]
        "bank_bytes": bank.nbytes,
    }


def table(folder: Path) -> str:
    """Of every arm the setting with the highest mean validation mIoU, and its test part."""
    lines = ["| arm | setting | seeds | mIoU | head | middle | tail |", "|---|---:|---:|---:|---:|---:|---:|"]
    for arm, settings in ARMS.items():
        held = {}
        for setting in settings:
            files = sorted(folder.glob(f"{arm}-{setting:g}-*.json"))
            held[setting] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        done = {setting: runs for setting, runs in held.items() if runs}
        if done:
            best = max(done, key=lambda setting: fmean(each["val"]["miou"] for each in done[setting]))
            names = ("miou", "miou/head", "miou/middle", "miou/tail")
            # A group may be empty on a part of the scenes.
            means = (fmean(each["test"].get(name, math.nan) for each in done[best]) for name in names)
            lines.append(f"| {arm} | {best:g} | {len(done[best])} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder of a JSON file for each run")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--scale", type=int, default=2, help="how many times smaller the pictures are made")
    parser.add_argument("--most", type=int, help="use so many pictures of each part only")
    parser.add_argument("--network", help="package:function of the number of classes")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    data: dict[str, object] = {
        part: load(options.path, part, options.scale, options.most) for part in ("train", "val", "test")
    }
    with np.load(options.path, allow_pickle=False) as archive:
        void = int(archive["void"])
        pixels = archive["train_class_pixels"][:void]
    network: Callable[[int], nn.Module] = Network
    if options.network == "encoder":
        network = OnEncoder
    elif options.network:
        module, _, name = options.network.partition(":")
        network = getattr(importlib.import_module(module), name)
    data |= {"void": void, "pixels": torch.from_numpy(pixels), "network": network}
    data["groups"] = tail_classes_by_pixels(pixels.tolist(), max_share=0.02)
    for seed in range(options.seeds):
        for arm in options.arms:
            for setting in ARMS[arm]:
                file = options.output / f"{arm}-{setting:g}-{seed}.json"
                if file.exists():
                    continue
                found = run(arm, setting, seed, options, data)
                part = file.with_suffix(".part")
                part.write_text(json.dumps({**found, "steps": options.steps}), encoding="utf-8")
                part.replace(file)
                print(f"{file.stem}: {found['val']['miou']:.3f} on val, {found['seconds']:.0f} s", flush=True)  # type: ignore[index]
    print(table(options.output))


if __name__ == "__main__":
    main()
