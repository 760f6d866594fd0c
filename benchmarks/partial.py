"""What a partial AUC loss costs beside the loss of all pairs: `python benchmarks/partial.py [--quick]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, medians, table

from equipoise.ranking import (
    ExactPartialSquareLoss,
    InstancewisePartialAUCLoss,
    PairwiseAUCLoss,
    PartialAUCLoss,
    UnbiasedInstancewisePartialAUCLoss,
)

_REGION = {"max_fpr": 0.3, "min_tpr": 0.5}


def _step(loss: nn.Module, scores: Tensor, target: Tensor) -> Callable[[], None]:
    def work() -> None:
        scores.grad = None
        loss.zero_grad()
        loss(scores, target).backward()

    return work


def rows(quick: bool) -> list[Row]:
    """Every figure of this file."""
    n = 100_000
    losses = {
        "PartialAUCLoss": PartialAUCLoss(**_REGION),
        "PartialAUCLoss, square": PartialAUCLoss(**_REGION, surrogate="square"),
        "ExactPartialSquareLoss": ExactPartialSquareLoss(**_REGION),
        "InstancewisePartialAUCLoss": InstancewisePartialAUCLoss(**_REGION),
        "UnbiasedInstancewisePartialAUCLoss": UnbiasedInstancewisePartialAUCLoss(**_REGION),
    }
    found = []
    for rate in (0.05, 0.5):
        generator = torch.Generator().manual_seed(0)
        target = (torch.rand(n, generator=generator) < rate).long()
        scores = (torch.randn(n, generator=generator) + target).requires_grad_()
        works = [_step(loss, scores, target) for loss in (PairwiseAUCLoss(), *losses.values())]
        plain, *times = medians(*works, repeats=9 if quick else 51)
        work = f"two-way, n = {n:,}, {rate:.0%} positive, value + gradient"
        found += [
            Row(f"{name}, {work}", "PairwiseAUCLoss", t / plain, 3.0, larger_is_better=False)
            for name, t in zip(losses, times, strict=True)
        ]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows(parser.parse_args().quick)))
