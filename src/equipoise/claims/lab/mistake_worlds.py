"""What the two claims on mistakes share: rare positives whose evidence is in one of two views, and measures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.data import StratifiedBatchSampler
from equipoise.longtail.mistakes.metrics import mistake_detection_metrics
from equipoise.ranking import auroc


class TwoViews(NamedTuple):
    """Two vectors a sample, and for positives which of them holds the evidence."""

    coarse: Tensor
    fine: Tensor
    target: Tensor
    in_coarse: Tensor


def two_views(n: int, dim: int, rate: float, shift: float, places: tuple[int, int], seed: int) -> TwoViews:
    """Standard normal views; a fair coin adds `shift` to fine[places[0]] or coarse[places[1]] of a positive."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = torch.randn(2, n, dim, generator=generator)
    target = (torch.rand(n, generator=generator) < rate).long()
    in_coarse = torch.rand(n, generator=generator) < 0.5
    fine[:, places[0]] += shift * (target == 1) * ~in_coarse
    coarse[:, places[1]] += shift * (target == 1) * in_coarse
    return TwoViews(coarse, fine, target, in_coarse)


def batches(target: Tensor, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Every sample once an epoch, at least two of each class in a batch."""
    sampler = StratifiedBatchSampler(target, size, min_per_class=2, seed=seed)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            yield torch.as_tensor(batch)


def measured(prob: Tensor, target: Tensor) -> dict[str, float]:
    """Macro-F1 and mistake recall at 0.5, and AUC."""
    found = mistake_detection_metrics(prob, target)
    return {
        "macro-F1": float(found["macro_f1"]),
        "mistake recall": float(found["recall_mistake"]),
        "AUC": float(auroc(prob, target)),
    }
