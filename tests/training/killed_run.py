"""A run that a test kills: trains slowly, with dropout, and writes a checkpoint every epoch."""

import time

import torch

from equipoise.core.phases import Phased
from equipoise.ranking import PairwiseAUCLoss, auroc
from equipoise.training import HeldOut, Plan, fit_module
from equipoise.training.networks import mlp

SECONDS = [0.0]
"""How long a step takes."""


class Slow(Phased):
    """The AUC loss, on another margin from the third epoch, taking its time."""

    def forward(self, logits, target):
        time.sleep(SECONDS[0])
        return PairwiseAUCLoss(margin=1.0 if self.epoch < 3 else 0.5)(logits, target)


def train(folder):
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(200, generator=generator) < 0.3).long()
    features = torch.randn(200, 4, generator=generator) + target[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = mlp(4, 1, (8,), dropout=0.3)
    return fit_module(
        network,
        Slow(),
        features,
        target,
        Plan(epochs=8, batch_size=50, seed=3),
        held_out=HeldOut(features[:60], target[:60], auroc),
        folder=folder,
    )


def run_slowly(folder):
    SECONDS[0] = 0.1
    train(folder)
