"""A linear model on shuffled batches, which are the same for every arm of a seed, whatever its loss and setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from equipoise.claims.lab.tuning import Setting
from equipoise.core.phases import set_epoch


def shuffled_batches(samples: int, size: int, epochs: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """(epoch, rows) of every batch; the order has a generator of its own, which no model takes numbers from."""
    generator = torch.Generator().manual_seed(seed + 1000)
    for epoch in range(epochs):
        for rows in torch.randperm(samples, generator=generator).split(size):
            yield epoch, rows


def train_linear(
    x: Tensor,
    y: Tensor,
    outputs: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    setting: Setting,
    *,
    epochs: int,
    batch: int,
    seed: int,
) -> nn.Module:
    """SGD with momentum .9 and a cosine from `lr` to 0, with `decay` as weight decay, from the seed's first weights.

    Args:
        x: (n, features).
        y: (n, ...) targets.
        outputs: how many logits.
        loss: of logits and targets; told the epoch if it wants to know.
        setting: `lr` and `decay`.
        epochs: how many.
        batch: its size.
        seed: of weights and batches.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(x.shape[1], outputs).to(x.dtype)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -(x.shape[1] ** -0.5), x.shape[1] ** -0.5, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting["lr"], momentum=0.9, weight_decay=setting["decay"])
    for epoch, rows in shuffled_batches(len(x), batch, epochs, seed):
        if isinstance(loss, nn.Module):
            set_epoch(loss, epoch, epochs)
        optimizer.param_groups[0]["lr"] = setting["lr"] * (1 + math.cos(math.pi * epoch / epochs)) / 2
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model
