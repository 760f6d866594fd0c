"""How bad are the mistakes? Measures of a prediction by distances in a label tree.

    mistake severity          mean distance of the first prediction over the samples that are wrong
    hierarchical distance@k   mean distance of the first k predictions, over all samples
    hierarchical precision@k  Σ_{top k} (1 − d / d_max), over the most that is possible for the sample

Distance is the height of the lowest common ancestor. Of equal scores the class with the smaller index comes first.

Bertinetto et al., "Making Better Mistakes", CVPR 2020, as used in "Bidirectional Logits Tree", AAAI 2025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Count
from equipoise.core.validate import warn_once
from equipoise.longtail.hierarchy.label_tree import LabelTree


def hierarchical_metrics(
    scores: ClassScores, target: ClassTarget, tree: LabelTree, ks: Sequence[Count] | None = None
) -> dict[str, Float[Tensor, ""]]:
    """All measures of one set; see `HierarchicalMetrics`.

    >>> tree = LabelTree.from_nested({"animal": ["cat", "dog"], "thing": ["cup"]})
    >>> found = hierarchical_metrics(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([0]), tree, ks=(1,))
    >>> float(found["mistake_severity"]), float(found["level_1_accuracy"])
    (1.0, 1.0)
    """
    metric = HierarchicalMetrics(tree, ks, sync_on_compute=False)
    metric.update(scores, target)
    return metric.compute()


class HierarchicalMetrics(WholeMetric):
    """Top-k accuracy, hierarchical distance and precision @k, mistake severity, and the accuracy per level.

    Args:
        tree: the labels' tree.
        ks: the values of k, each from 1 to the number of finest classes; by default those of 1 and 5 that fit.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a k is out of range.
    """

    is_differentiable = False
    higher_is_better = None

    sums: Tensor
    severity: Tensor
    mistakes: Tensor
    samples: Tensor
    _cost: Tensor
    _best: Tensor

    @checked
    def __init__(self, tree: LabelTree, ks: Sequence[Count] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        finest = tree.num_classes[0]
        if ks is None:
            ks = (1, 5) if finest >= 5 else (1,)
        if not ks or max(ks) > finest:
            raise ValueError(f"ks={tuple(ks)} must be from 1 to {finest}, the number of finest classes")
        self.tree, self.ks = tree, tuple(ks)
        self.names = [f"{name}{k}" for k in ks for name in ("top", "hier_dist@", "hier_precision@")]
        self.names += [f"level_{h}_accuracy" for h in range(tree.num_levels)]
        self.register_buffer("_cost", tree.cost(0), persistent=False)
        ordered = 1 - tree.cost(0).sort(1).values.double() / tree.num_levels
        self.register_buffer("_best", ordered.cumsum(1), persistent=False)
        self.add_state("sums", default=torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("severity", "mistakes", "samples"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name((*self.names, "mistake_severity"), self.device)

    @checked
    def update(self, scores: ClassScores, target: ClassTarget) -> None:
        """Take a batch of scores (n, K₀) of the finest classes and classes (n,).

        Raises:
            ValueError: on wrong shapes or classes out of range.
        """
        finest = self.tree.num_classes[0]
        if scores.shape[1] != finest:
            raise ValueError(f"scores must have {finest} columns, one per finest class, got {tuple(scores.shape)}")
        paths = self.tree.targets(target)
        # A stable sort keeps equal scores in the order of their indices.
        first = scores.sort(dim=1, descending=True, stable=True).indices[:, : max(self.ks)]
        distance = self._cost.to(scores.device)[target[:, None], first].double()
        gain = 1 - distance / self.tree.num_levels
        values = []
        for k in self.ks:
            best = self._best.to(scores.device)[target, k - 1]
            values += [
                (distance[:, :k] == 0).any(1).double(),
                distance[:, :k].mean(1),
                gain[:, :k].sum(1) / best,
            ]
        reached = self.tree.paths.to(scores.device)[first[:, 0]]
        values += list((reached == paths).double().T)
        self.sums += torch.stack([value.sum() for value in values])
        self.severity += distance[:, 0].sum()
        self.mistakes += (distance[:, 0] > 0).sum()
        self.samples += len(target)

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars: for every k "topK", "hier_dist@K" and "hier_precision@K"; "level_H_accuracy" of the first
        prediction's ancestors; and "mistake_severity", NaN (warned once) without a mistake.
        """
        found = dict(zip(self.names, self.sums / self.samples, strict=True))
        if not self.mistakes:
            warn_once("without a mistake its severity is NaN")
            return {**found, "mistake_severity": torch.tensor(math.nan, dtype=torch.float64)}
        return {**found, "mistake_severity": self.severity / self.mistakes}
