"""Margins in the terminal phase of training: whether they grow on, and test accuracy with them."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.longtail import TPTMonitor

_EPOCHS = 300


def _split(seed: int, train: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """So many training and 50 test samples of every digit."""
    features, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(features).float() / 16, torch.from_numpy(labels).long()
    generator = torch.Generator().manual_seed(seed)
    chosen, held = [], []
    for c in range(10):
        rows = (y == c).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        chosen.append(rows[:train])
        held.append(rows[train : train + 50])
    a, b = torch.cat(chosen), torch.cat(held)
    return x[a], y[a], x[b], y[b]


def initialised(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """The same first weights for a seed."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return model


def _run(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    x, y, x_test, y_test = _split(seed, 30)
    generator = torch.Generator().manual_seed(seed)
    model = initialised(
        nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)), generator
    )
    monitor = TPTMonitor(10, model[4])  # type: ignore[index]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(y), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        monitor.on_epoch_end(model, [(x, y)], [(x_test, y_test)])
    found = monitor.summary()
    return {
        "start of the terminal phase": {
            "test accuracy": 100 * found["test accuracy, first"],
            "p_min": found["p_min at t0"],
            "normalised p_min": found["normalized p_min at t0"],
            "epoch": found["t0"],
        },
        "end": {
            "test accuracy": 100 * found["test accuracy, last"],
            "p_min": found["p_min at the end"],
            "normalised p_min": found["normalized p_min at the end"],
            "trace ratio": monitor.history[-1]["nc1_trace_ratio"],
        },
        "growth": {
            "p_min": found["p_min at the end"] / found["p_min at t0"],
            "normalised p_min": found["normalized p_min at the end"] / found["normalized p_min at t0"],
        },
    }


CLAIM = Claim(
    slug="nc-generalization",
    statement=(
        "After 100 % training accuracy the smallest margin keeps growing, also relative to the norms of weights and "
        "features, and test accuracy rises with it."
    ),
    experiments=(
        Experiment(
            name="Digits, far beyond 100 % training accuracy",
            protocol=(
                "30 training and 50 test samples of every digit, MLP 64-128-128-10, cross-entropy, SGD (lr .1 "
                "constant, momentum .9, weight decay 5e-4), batch 64, 300 epochs; measured in evaluation mode after "
                "every epoch. Test accuracy is averaged over the first and the last 20 epochs after the smallest "
                "margin became positive."
            ),
            run=_run,
            parts=(
                Bound("the smallest margin grows threefold", "growth", "p_min", at_least=3.0),
                Bound("the normalised one, too", "growth", "normalised p_min", at_least=3.0),
                Gain("test accuracy rises", "end", "start of the terminal phase", "test accuracy", 0.1),
            ),
        ),
    ),
    caveats=(
        "Collapse itself is looked at with free features, under nc-grassmannian.",
        "The terms of the paper's bound are not looked at.",
    ),
)
