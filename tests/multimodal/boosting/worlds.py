"""Samples of three modalities, learners with dropout and batch statistics, and a run that a test kills."""

import time

import torch
from torch import Generator, nn

from equipoise.multimodal import ReconBoostTrainer

SECONDS = [0.0]
"""How long the reading of a batch takes."""


def data(n=96, seed=0, dtype=torch.float32):
    """Inputs of an easy, a harder and a hard modality, and three classes."""
    generator = Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    means = torch.eye(3)[y]
    return {
        "easy": (3 * means + torch.randn(n, 3, generator=generator)).to(dtype),
        "hard": (2 * means + torch.randn(n, 3, generator=generator)).to(dtype),
        "odd": (means.flip(1) + torch.randn(n, 3, generator=generator)).to(dtype),
    }, y


class Counted(nn.Module):
    """Counts the samples that pass through it, with a gradient and without."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.with_gradient, self.without, self.modes = 0, 0, set()

    def forward(self, x):
        if torch.is_grad_enabled():
            self.with_gradient += len(x)
        else:
            self.without += len(x)
            self.modes.add(self.training)
        return self.module(x)


def learners(names=("easy", "hard", "odd"), outputs=3, dropout=0.3, dtype=torch.float32):
    """Small networks that begin the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = {}
        for name in names:
            layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, outputs)]
            made[name] = Counted(nn.Sequential(*layers)).to(dtype)
        return made


def head(dtype=torch.float32):
    """A shared head from five features, with dropout and batch statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3)).to(dtype)


def trainer(dtype=torch.float32, **changes):
    """A trainer of all three, with the settings of short runs."""
    given = {"epochs_per_stage": 2, "rectify_epochs": 1, "lr": 0.05, "batch_size": 20, "seed": 3, **changes}
    outputs = 5 if given.get("shared_head") is not None else 3
    return ReconBoostTrainer(given.pop("learners", learners(outputs=outputs, dtype=dtype)), 3, **given)


def weights(module):
    """All weights and statistics as one vector."""
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def slow_data():
    """The samples, one modality of which is read by a function that takes its time."""
    inputs, y = data()
    rows_of = inputs["hard"]

    def read(rows):
        time.sleep(SECONDS[0])
        return rows_of[rows]

    return {**inputs, "hard": read}, y


def run_slowly(path):
    """To be killed."""
    SECONDS[0] = 0.02
    trainer(schedule="random").fit(slow_data(), data(40, 1), max_stages=6, checkpoint=path)
