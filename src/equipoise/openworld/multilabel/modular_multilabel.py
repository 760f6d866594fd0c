"""The measures of a ranking of labels as `torchmetrics.Metric`: sums over batches and processes, no scores kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from equipoise.core.curves.ranks import TIES
from equipoise.core.validate import check_choice
from equipoise.openworld.multilabel.labels import NORMALIZERS, check_k
from equipoise.openworld.multilabel.metrics import (
    _AT_K,
    _FULL,
    ORDERS,
    ranking_per_sample,
    tkpr_per_sample,
    weighted_sums,
)


class TKPR(Metric):
    """TKPR@K over all samples seen; see `equipoise.openworld.tkpr`.

    Attributes:
        num_skipped: how many samples had no relevant label.

    Args:
        k: K.
        normalizer: "one", "num_relevant" or "ideal".
        ties: as in `tkpr`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = TKPR(k=2)
    >>> metric.update(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1, 0, 0]]))
    >>> metric.update(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0, 1, 0]]))
    >>> metric.compute()
    tensor(0.7500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0

    total: Tensor
    weight: Tensor
    num_skipped: Tensor

    def __init__(self, k: int = 5, normalizer: str = "num_relevant", *, ties: str = "strict", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_k(k)
        check_choice("normalizer", normalizer, NORMALIZERS)
        check_choice("ties", ties, TIES)
        self.k, self.normalizer, self.ties = k, normalizer, ties
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_skipped", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, scores: Tensor, target: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> None:
        """Take a batch of scores (n, C) and targets (n, C); `mask` and `sample_weight` as in `tkpr`.

        Raises:
            ValueError: as `tkpr`.
        """
        values = tkpr_per_sample(scores, target, self.k, normalizer=self.normalizer, ties=self.ties, mask=mask)
        total, weight = weighted_sums(values, sample_weight)
        self.total += total
        self.weight += weight
        self.num_skipped += values.isnan().sum()

    def compute(self) -> Tensor:
        """The mean over samples with a relevant label.

        Raises:
            RuntimeError: if there was none.
        """
        _check_seen(self.weight)
        return self.total / self.weight


class MultilabelRankingMetrics(Metric):
    """Precision, recall, AP and NDCG at several K, ranking loss, coverage and one-error over all samples seen.

    See `equipoise.openworld.multilabel_ranking_metrics`. One metric that returns a dict, since all come from one pass.

    Attributes:
        num_skipped: how many samples had no relevant label.

    Args:
        k: the values of K, or one of them.
        full: whether the measures of the whole ranking are wanted too.
        ties: "pessimistic", "strict" or "optimistic".
        kwargs: of `torchmetrics.Metric`.

    >>> metric = MultilabelRankingMetrics(k=(1, 2), full=False)
    >>> metric.update(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1, 0, 0]]))
    >>> metric.compute()["precision@2"]
    tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    total: Tensor
    weight: Tensor
    num_skipped: Tensor

    def __init__(
        self, k: int | Sequence[int] = (3, 5), full: bool = True, *, ties: str = "pessimistic", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        several = [k] if isinstance(k, int) else list(k)
        if not several:
            raise ValueError("k holds no value; give at least one K")
        for one in several:
            check_k(one)
        check_choice("ties", ties, ORDERS)
        self.k, self.full, self.ties = k if isinstance(k, int) else tuple(several), full, ties
        at_k = [name if isinstance(k, int) else f"{name}@{one}" for one in several for name in _AT_K]
        self.names = tuple(at_k) + (_FULL if full else ())
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("total", default=zeros, dist_reduce_fx="sum")
        self.add_state("weight", default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("num_skipped", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, scores: Tensor, target: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> None:
        """Take a batch of scores (n, C) and targets (n, C); `mask` and `sample_weight` as in `tkpr`.

        Raises:
            ValueError: as `multilabel_ranking_metrics`.
        """
        values = ranking_per_sample(scores, target, self.k, ties=self.ties, full=self.full, mask=mask)
        sums = [weighted_sums(values[name], sample_weight) for name in self.names]
        self.total += torch.stack([total for total, _ in sums])
        self.weight += torch.stack([weight for _, weight in sums])
        self.num_skipped += values[self.names[0]].isnan().sum()

    def compute(self) -> dict[str, Tensor]:
        """The means by name; a ranking loss is NaN where no sample had both kinds of label.

        Raises:
            RuntimeError: if no sample had a relevant label.
        """
        _check_seen(self.weight[0])
        return dict(zip(self.names, self.total / self.weight, strict=True))


def _check_seen(weight: Tensor) -> None:
    if not bool(weight > 0):
        raise RuntimeError("no sample has a relevant label; call update(scores, target) with some first")
