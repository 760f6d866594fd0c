"""AUTKC and top-k accuracy as a `torchmetrics.Metric`: one count for every length of the list, no scores kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from equipoise.core.validate import check_choice
from equipoise.openworld.multilabel.labels import check_k
from equipoise.openworld.topk.metrics import TIES, top_k_accuracies


class AUTKC(Metric):
    """AUTKC@K and top-K accuracy over all samples seen, for several K at once; see `equipoise.openworld.autkc`.

    Args:
        k: the values of K, or one of them.
        ties: "strict" or "half", as in `autkc`.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a K is below 1 or the tie rule unknown.

    >>> metric = AUTKC(k=(1, 2))
    >>> metric.update(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]]), torch.tensor([2, 0]))
    >>> {name: float(value) for name, value in metric.compute().items()}
    {'autkc@1': 0.5, 'top_1_accuracy': 0.5, 'autkc@2': 0.75, 'top_2_accuracy': 1.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    hits: Tensor
    samples: Tensor

    def __init__(self, k: int | Sequence[int] = 5, *, ties: str = "strict", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        several = (k,) if isinstance(k, int) else tuple(k)
        if not several:
            raise ValueError("k holds no value; give at least one K")
        for one in several:
            check_k(one)
        check_choice("ties", ties, TIES)
        self.k, self.ties = several, ties
        self.add_state("hits", default=torch.zeros(max(several), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Take a batch of scores (n, C) and class indices (n,).

        Raises:
            TypeError: if the target is not of an integer type.
            ValueError: as `autkc`; also if a K is larger than C.
        """
        self.hits += top_k_accuracies(scores, target, max(self.k), ties=self.ties) * len(target)
        self.samples += len(target)

    def curve(self) -> Tensor:
        """Top-k accuracy for k = 1 to the largest K, float64.

        Raises:
            RuntimeError: before the first `update`.
        """
        if not self.samples:
            raise RuntimeError("AUTKC has seen no samples; call update(scores, target) first")
        return self.hits / self.samples

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars "autkc@K" and "top_K_accuracy" for every K.

        Raises:
            RuntimeError: before the first `update`.
        """
        curve = self.curve()
        found = {}
        for one in self.k:
            found[f"autkc@{one}"], found[f"top_{one}_accuracy"] = curve[:one].mean(), curve[one - 1]
        return found
