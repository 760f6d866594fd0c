"""Losses, optimizers and experts on long-tailed CIFAR-10 under one budget: `python benchmarks/cifar_long_tail.py PATH`.

PATH is an npz file with JPEG streams: `train_bytes`, `train_offsets`, `train_labels`, and the same of `test`. The
largest class keeps `--largest` images and the smallest a hundredth of that; a small residual network, shifts and flips,
the same first weights and batches for every arm of a seed. Nothing is tuned for any arm beyond the settings its authors
name for CIFAR-10 with a ratio of 100. `--output docs` writes the table to docs/claims/cifar-10-lt.md, which the page of
claims takes in.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from equipoise.core.models.experts import MultiExpertHead
from equipoise.core.phases import set_epoch
from equipoise.data import long_tail_counts, long_tail_subset
from equipoise.longtail import (
    SAM,
    SSESAM,
    DirichletMixture,
    DirMixELoss,
    FocalSAM,
    LogitAdjustedLoss,
    ShotAccuracy,
    VSLoss,
    localization_loss,
)

_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
ARMS = (
    "CE",
    "logit adjustment",
    "VS + TLA + ADRW",
    "logit adjustment + SAM",
    "logit adjustment + Focal-SAM",
    "logit adjustment + SSE-SAM",
    "DirMixE",
)


def load(path: Path, split: str, limit: int) -> tuple[Tensor, Tensor]:
    """The first `limit` images of every class, normalised, and their classes."""
    held = np.load(path, allow_pickle=False)
    stream, offsets, labels = (held[f"{split}_{name}"] for name in ("bytes", "offsets", "labels"))
    chosen = np.concatenate([np.flatnonzero(labels == c)[:limit] for c in range(10)])
    images = [np.asarray(Image.open(io.BytesIO(stream[offsets[k] : offsets[k + 1]].tobytes()))) for k in chosen]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (x - mean) / std, torch.from_numpy(labels[chosen].astype(np.int64))


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(narrow, wide, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.around = nn.Conv2d(narrow, wide, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of half the size, or the same."""
        return (self.path(x) + self.around(x)).relu()


def network(experts: int) -> nn.Sequential:
    """Three blocks of 16, 32 and 64 channels; one linear head, or several."""
    head = nn.Linear(64, 10) if experts == 1 else MultiExpertHead(64, 10, experts, hidden=64)
    return nn.Sequential(
        Block(3, 16, 1), Block(16, 32, 2), Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head
    )


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to four pixels and flipped at random."""
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    left, top = (torch.randint(9, (len(x),), generator=generator) for _ in range(2))
    rows = top[:, None] + torch.arange(32)
    columns = left[:, None] + torch.arange(32)
    flip = torch.rand(len(x), generator=generator) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(len(x))[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def arm(name: str, counts: list[int], epochs: int, seed: int) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Model, loss and optimizer; the optimizers of SAM's kind take losses by sample."""
    torch.manual_seed(seed)
    model = network(3 if name == "DirMixE" else 1)
    base = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    sharp = {"model": model, **base}
    each = LogitAdjustedLoss(counts, reduction="none")
    parameters = model.parameters()
    if name == "DirMixE":
        return model, DirMixELoss(DirichletMixture(counts), 1.3, 15.0, seed=seed), torch.optim.SGD(parameters, **base)
    if name.endswith("+ SAM"):
        return model, each, SAM(parameters, torch.optim.SGD, 0.2, **sharp)
    if name.endswith("Focal-SAM"):
        return model, each, FocalSAM(parameters, torch.optim.SGD, counts, 0.2, gamma=3.0, lam=0.5, **sharp)
    if name.endswith("SSE-SAM"):
        eta = float(np.median(counts))
        made = SSESAM(parameters, torch.optim.SGD, counts, total_epochs=epochs, rho_tail=0.2, eta=eta, **sharp)
        return model, each, made
    losses = {
        "CE": lambda: VSLoss(counts, 0, 0),
        "logit adjustment": lambda: LogitAdjustedLoss(counts),
        "VS + TLA + ADRW": lambda: localization_loss(counts, 0.05, 1.0, 0.25),
    }
    return model, losses[name](), torch.optim.SGD(parameters, **base)


def run(name: str, data: dict[str, Tensor], counts: list[int], epochs: int, seed: int) -> dict[str, float]:
    """Accuracy in points by groups, and seconds."""
    model, loss, optimizer = arm(name, counts, epochs, seed)
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        set_epoch(loss, epoch, epochs)
        if isinstance(optimizer, SSESAM):
            optimizer.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * epoch / epochs))
        for rows in torch.randperm(len(data["y"]), generator=generator).split(64):
            x, y = augmented(data["x"][rows], generator), data["y"][rows]
            if isinstance(optimizer, torch.optim.SGD):
                optimizer.zero_grad()
                loss(model(x), y).backward()
                if name == "DirMixE":
                    # Its variance term diverges without.
                    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
            else:
                optimizer.step(lambda x=x, y=y: (loss(model(x), y), y))
    seconds = time.perf_counter() - started
    model.eval()
    # The field's thresholds for CIFAR-10 with this ratio, 1000 and 200 of 5000, scaled to the largest class.
    metric = ShotAccuracy(counts, many=counts[0] // 5, few=max(2, counts[0] // 25))
    with torch.no_grad():
        for x, y in zip(data["x_test"].split(500), data["y_test"].split(500), strict=True):
            logits = model(x)
            metric.update(logits.mean(0) if logits.ndim == 3 else logits, y)
    found = {key: 100 * float(value) for key, value in metric.compute().items()}
    return {**found, "seconds": seconds}


def main() -> None:
    """Run every arm on every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--largest", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    counts = long_tail_counts(10, options.largest, 100)
    x, y = load(options.path, "train", options.largest)
    kept = long_tail_subset(y, counts)
    x_test, y_test = load(options.path, "test", 200)
    data = {"x": x[kept], "y": y[kept], "x_test": x_test, "y_test": y_test}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for seed in range(options.seeds):
        for name in ARMS:
            rows[name].append(run(name, data, counts, options.epochs, seed))
            print(seed, name, {key: round(value, 1) for key, value in rows[name][-1].items()}, flush=True)
    columns = ("balanced", "many", "medium", "few")
    plain = np.median([found["seconds"] for found in rows["CE"]])
    lines = ["| arm | " + " | ".join(columns) + " | time |", "|---|" + "---:|" * (len(columns) + 1)]
    for name, found in rows.items():
        cells = [np.array([one[column] for one in found]) for column in columns]
        shown = [f"{values.mean():.1f} ± {values.std():.1f}" for values in cells]
        shown.append(f"{np.median([one['seconds'] for one in found]) / plain:.2f}×")
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    setting = (
        f"Accuracy on a balanced test set in points, mean ± standard deviation over {options.seeds} seeds: CIFAR-10 "
        f"with a ratio of 100, {options.largest} images of the largest class and {counts[-1]} of the smallest, 200 "
        f"test images a class, {options.epochs} epochs, a residual network of three blocks. Groups by images: many > "
        f"{counts[0] // 5}, few < {max(2, counts[0] // 25)}. Time beside CE."
    )
    head = "*One budget for losses, optimizers and experts on real images; `benchmarks/cifar_long_tail.py` repeats it.*"
    text = "\n\n".join(["## cifar-10-lt", head, setting, "\n".join(lines)]) + "\n"
    print(text)
    if options.output is not None:
        place = options.output / "claims" / "cifar-10-lt.md"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
