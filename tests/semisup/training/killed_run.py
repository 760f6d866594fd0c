"""A run that a test kills: trains slowly, with dropout and batch statistics, and writes a checkpoint every epoch."""

import time

import torch
from torch import nn

from equipoise.semisup import SemiSupervisedSettings, SemiSupervisedTrainer, TableAugmentation

SECONDS = [0.0]
"""How long a weak view takes."""


def slowly(batch, generator):
    time.sleep(SECONDS[0])
    return TableAugmentation.weak()(batch, generator)


def trainer(method="maxmatch_eman", **changes):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=generator)
    y = torch.where(torch.arange(90) < 23, (x[:, 0] > 0).long(), -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    settings = {"epochs": 6, "batch_size": 5, "ratio": 4, "threshold": 0.5, "average": 0.9, "seed": 3, **changes}
    return SemiSupervisedTrainer(
        network,
        x,
        y,
        weak=slowly,
        strong=TableAugmentation.strong(),
        settings=SemiSupervisedSettings.usual(method, **settings),
    )


def run_slowly(path):
    SECONDS[0] = 0.05
    trainer().fit(checkpoint=path)
