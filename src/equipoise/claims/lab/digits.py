"""What the two claims on robust ranking share: rare digits, and a small network trained on balanced batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

STEPS, POSITIVES, NEGATIVES = 400, 16, 112


class Digits(NamedTuple):
    """Digits from 5 upwards against the others; 45 positives to train on."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def rare_digits(seed: int) -> Digits:
    """Pixels in [0, 1], shuffled by the seed; the first 900 to train on, of whose positives 45 are kept."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(seed))
    x = torch.as_tensor(digits.data / 16, dtype=torch.float32)[order]
    y = (torch.as_tensor(digits.target)[order] >= 5).long()
    kept = (y[:900] == 0) | ((y[:900] == 1) & (y[:900].cumsum(0) <= 45))
    return Digits(x[:900][kept], y[:900][kept], x[900:], y[900:])


def network(seed: int) -> nn.Sequential:
    """An MLP 64-64-1 with logits, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    for layer in (model[0], model[2]):
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -1 / 8, 1 / 8, generator=generator)
    return model


def batches(y: Tensor, seed: int, *, balanced: bool = True) -> list[Tensor]:
    """Rows of every step: 16 positives and 112 negatives, or 128 rows at random."""
    generator = torch.Generator().manual_seed(seed)
    positives, negatives = (y == 1).nonzero().squeeze(1), (y == 0).nonzero().squeeze(1)

    def draw(rows: Tensor, count: int) -> Tensor:
        return rows[torch.randint(len(rows), (count,), generator=generator)]

    everything = torch.arange(len(y))
    return [
        torch.cat([draw(positives, POSITIVES), draw(negatives, NEGATIVES)])
        if balanced
        else draw(everything, POSITIVES + NEGATIVES)
        for _ in range(STEPS)
    ]


def train(step: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, rows: list[Tensor]) -> None:
    """Minimise what `step` gives for the rows of each batch."""
    for batch in rows:
        loss = step(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
