"""Two small long-tailed worlds and one training loop, shared by the claims about losses and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from equipoise.core.phases import set_epoch
from equipoise.longtail import ShotAccuracy


@dataclass(frozen=True)
class World:
    """Training and test samples; `head` and `tail` are the classes that sharpness is averaged over."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    counts: list[int]
    head: tuple[int, ...] = (0, 1, 2, 3)
    tail: tuple[int, ...] = (7, 8, 9)


def digits(seed: int) -> World:
    """scikit-learn's digits: classes permuted, ⌊120 · 0.03^(c/9)⌋ of class c for training, 50 a class for test."""
    features, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(10, generator=generator)
    x, y = torch.from_numpy(features).float() / 16, order[torch.from_numpy(labels).long()]
    counts = [int(120 * 0.03 ** (c / 9) + 1e-9) for c in range(10)]
    train, test = [], []
    for c, count in enumerate(counts):
        rows = (y == c).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        test.append(rows[:50])
        train.append(rows[50 : 50 + count])
    chosen, held = torch.cat(train), torch.cat(test)
    return World(x[chosen], y[chosen], x[held], y[held], counts)


def gaussians(seed: int) -> World:
    """Ten classes in 16 dimensions, centres at distance 3.5, unit noise, ⌊200 · 0.02^(c/9)⌋ for training."""
    generator = torch.Generator().manual_seed(seed)
    centres = nn.functional.normalize(torch.randn(10, 16, generator=generator), dim=1) * 3.5
    counts = [int(200 * 0.02 ** (c / 9) + 1e-9) for c in range(10)]
    y = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
    y_test = torch.repeat_interleave(torch.arange(10), 200)
    x, x_test = (centres[t] + torch.randn(len(t), 16, generator=generator) for t in (y, y_test))
    return World(x, y, x_test, y_test, counts)


def network(world: World, seed: int) -> nn.Module:
    """Two hidden layers of 64; the same first weights for every arm of a seed."""
    generator = torch.Generator().manual_seed(seed)
    width = world.x.shape[1]
    model = nn.Sequential(
        nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(world.counts))
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return model


def train(
    world: World,
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    epochs: int,
    seed: int,
    per_sample: bool,
) -> nn.Module:
    """Batches of 64 in an order that is the same for every arm of a seed.

    Args:
        world: to train on.
        model: to train.
        loss: of logits and classes; one value a sample where `per_sample`.
        optimizer: PyTorch's, or a `GroupSAM`, whose `set_epoch` is called if it has one.
        rate: epoch → learning rate.
        epochs: how many.
        seed: of the batches.
        per_sample: whether the optimizer takes losses by sample.
    """
    generator = torch.Generator().manual_seed(seed + 1000)
    for epoch in range(epochs):
        set_epoch(loss, epoch, epochs)
        if hasattr(optimizer, "set_epoch"):
            optimizer.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate(epoch)
        for rows in torch.randperm(len(world.y), generator=generator).split(64):
            x, y = world.x[rows], world.y[rows]
            if per_sample:
                optimizer.step(lambda x=x, y=y: (loss(model(x), y), y))  # type: ignore[arg-type,misc]
            else:
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()
    return model.eval()


def accuracies(world: World, model: nn.Module) -> dict[str, float]:
    """Balanced accuracy in points, and that of head and tail classes."""
    metric = ShotAccuracy(world.counts)
    with torch.no_grad():
        metric.update(model(world.x_test), world.y_test)
    by_class = 100 * metric.per_class()
    return {
        "balanced accuracy": float(by_class.mean()),
        "head accuracy": float(by_class[list(world.head)].mean()),
        "tail accuracy": float(by_class[list(world.tail)].mean()),
    }
