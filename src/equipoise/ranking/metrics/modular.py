"""The ranking metrics as `torchmetrics.Metric`: they gather scores over batches and processes and judge the whole.

A ranking metric of a whole is no mean over batches, so the scores are kept: 4 bytes a score, and the target in 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.curves.ranks import TIES
from equipoise.core.curves.roc import NORMALIZATIONS, RocCurve
from equipoise.core.metrics import SampleMetric
from equipoise.core.validate import (
    check_binary,
    check_choice,
    check_finite,
    check_fraction,
    check_multiclass,
    check_multilabel,
)
from equipoise.ranking.metrics import functional
from equipoise.ranking.metrics.plots import plot_pair_matrix, plot_precision_recall, plot_roc
from equipoise.ranking.precision.retrieval_metrics import NO_POSITIVE, SIMILARITIES, retrieval_metrics


class _RankingMetric(SampleMetric):
    """Keeps scores and targets; a subclass says how to check a batch and how to judge them all."""

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    kept = ("scores", "target")

    def __init__(self, *, on_undefined: str = "nan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("on_undefined", on_undefined, ("nan", "raise"))
        self.on_undefined = on_undefined

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Take a batch.

        Raises:
            ValueError: on NaN or infinite scores, wrong shapes or labels.
        """
        self._check(scores, target)
        self.keep(scores, target)

    def _check(self, scores: Tensor, target: Tensor) -> None:
        check_binary(scores, target)

    def _curve(self) -> RocCurve:
        scores, target = self.samples()
        if scores.ndim != 1:
            raise ValueError("a curve is drawn of binary scores (n,); plot the labels one by one")
        return functional._curve(scores, target, "a curve")


class _LabelMetric(_RankingMetric):
    """Of scores (n,), or of scores (n, labels) averaged over labels."""

    def __init__(self, *, average: str = "macro", on_undefined: str = "nan", **kwargs: Any) -> None:
        super().__init__(on_undefined=on_undefined, **kwargs)
        check_choice("average", average, ("macro", "none"))
        self.average = average

    def _check(self, scores: Tensor, target: Tensor) -> None:
        if scores.ndim == 2:
            check_multilabel(scores, target)
        else:
            check_binary(scores, target)


class AUROC(_LabelMetric):
    """Area under the ROC curve over all samples seen; see `equipoise.ranking.auroc`.

    Args:
        average: for multi-label input, "macro" or "none".
        on_undefined: where only one class was seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.

    >>> metric = AUROC()
    >>> metric.update(torch.tensor([0.9, 0.5]), torch.tensor([1, 1]))
    >>> metric.update(torch.tensor([0.5, 0.1]), torch.tensor([0, 0]))
    >>> metric.compute()
    tensor(0.8750)
    """

    def compute(self) -> Tensor:
        """The area over all samples seen."""
        return functional.auroc(*self.samples(), average=self.average, on_undefined=self.on_undefined)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the ROC curve of what was seen; returns (figure, axes). Values given as `val` are plotted instead."""
        return self._plot(val, ax) if val is not None else plot_roc(self._curve(), ax=ax)


class OPAUC(_LabelMetric):
    """One-way partial AUC over all samples seen; see `equipoise.ranking.opauc`.

    Args:
        max_fpr: the false-positive budget in (0, 1].
        normalization: "normalized", "raw" or "mcclish".
        average: as in `AUROC`.
        on_undefined: as in `AUROC`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = OPAUC(max_fpr=0.5)
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    >>> metric.compute()
    tensor(0.5000)
    """

    def __init__(
        self,
        max_fpr: float,
        *,
        normalization: str = "normalized",
        average: str = "macro",
        on_undefined: str = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(average=average, on_undefined=on_undefined, **kwargs)
        check_fraction("max_fpr", max_fpr)
        check_choice("normalization", normalization, NORMALIZATIONS)
        self.max_fpr = max_fpr
        self.min_tpr = 0.0
        self.normalization = normalization

    def compute(self) -> Tensor:
        """The normalised area over all samples seen."""
        return functional.tpauc(
            *self.samples(),
            self.max_fpr,
            self.min_tpr,
            normalization=self.normalization,
            average=self.average,
            on_undefined=self.on_undefined,
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the ROC curve with the region shaded; returns (figure, axes)."""
        if val is not None:
            return self._plot(val, ax)
        return plot_roc(self._curve(), max_fpr=self.max_fpr, min_tpr=self.min_tpr, ax=ax)


class TPAUC(OPAUC):
    """Two-way partial AUC over all samples seen; see `equipoise.ranking.tpauc`.

    Args:
        max_fpr: the false-positive budget in (0, 1].
        min_tpr: the least true-positive rate in [0, 1).
        normalization: "normalized", "raw" or "mcclish".
        average: as in `AUROC`.
        on_undefined: as in `AUROC`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = TPAUC(max_fpr=0.5, min_tpr=0.5)
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 1, 0, 0]))
    >>> metric.compute()
    tensor(1.)
    """

    def __init__(
        self,
        max_fpr: float,
        min_tpr: float,
        *,
        normalization: str = "normalized",
        average: str = "macro",
        on_undefined: str = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(max_fpr, normalization=normalization, average=average, on_undefined=on_undefined, **kwargs)
        check_fraction("min_tpr", min_tpr, zero=True, one=False)
        self.min_tpr = min_tpr


class PartialAUROC(_RankingMetric):
    """Partial AUC by selection over all samples seen; see `equipoise.ranking.partial_auroc`.

    Args:
        pos_frac: fraction of positives kept, the lowest-scored.
        neg_frac: fraction of negatives kept, the highest-scored.
        ties: "half", "optimistic" or "pessimistic".
        on_undefined: as in `AUROC`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = PartialAUROC(neg_frac=0.5)
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    >>> metric.compute()
    tensor(0.5000)
    """

    def __init__(
        self,
        pos_frac: float = 1.0,
        neg_frac: float = 1.0,
        *,
        ties: str = "half",
        on_undefined: str = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(on_undefined=on_undefined, **kwargs)
        check_fraction("pos_frac", pos_frac)
        check_fraction("neg_frac", neg_frac)
        check_choice("ties", ties, TIES)
        self.pos_frac, self.neg_frac, self.ties = pos_frac, neg_frac, ties

    def compute(self) -> Tensor:
        """The partial AUC of the selected samples."""
        return functional.partial_auroc(
            *self.samples(), self.pos_frac, self.neg_frac, ties=self.ties, on_undefined=self.on_undefined
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the ROC curve with the region that the fractions stand for; returns (figure, axes)."""
        if val is not None:
            return self._plot(val, ax)
        return plot_roc(self._curve(), max_fpr=self.neg_frac, min_tpr=1 - self.pos_frac, ax=ax)


class AveragePrecision(_LabelMetric):
    """Average precision over all samples seen; see `equipoise.ranking.average_precision`.

    Args:
        average: as in `AUROC`.
        on_undefined: as in `AUROC`, for input without positives.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = AveragePrecision()
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    >>> metric.compute()
    tensor(0.8333)
    """

    def compute(self) -> Tensor:
        """Average precision over all samples seen."""
        return functional.average_precision(*self.samples(), average=self.average, on_undefined=self.on_undefined)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the precision-recall curve of what was seen; returns (figure, axes)."""
        return self._plot(val, ax) if val is not None else plot_precision_recall(self._curve(), ax=ax)


class MulticlassAUROC(_RankingMetric):
    """AUROC of a multiclass model over all samples seen; see `equipoise.ranking.multiclass_auroc`.

    Args:
        num_classes: how many columns the scores have; checked where given.
        average: "ovo" or "ovr".
        on_undefined: as in `multiclass_auroc`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = MulticlassAUROC()
    >>> metric.update(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    >>> metric.compute()
    tensor(1.)
    """

    def __init__(
        self, num_classes: int | None = None, *, average: str = "ovo", on_undefined: str = "nan", **kwargs: Any
    ) -> None:
        super().__init__(on_undefined=on_undefined, **kwargs)
        check_choice("average", average, ("ovo", "ovr"))
        self.num_classes, self.average = num_classes, average

    def _check(self, scores: Tensor, target: Tensor) -> None:
        check_multiclass(scores, target)
        if self.num_classes is not None and scores.shape[1] != self.num_classes:
            raise ValueError(f"scores have {scores.shape[1]} columns, wanted num_classes={self.num_classes}")

    def compute(self) -> Tensor:
        """The mean AUROC over pairs of classes, or over classes."""
        return functional.multiclass_auroc(*self.samples(), average=self.average, on_undefined=self.on_undefined)

    def pair_matrix(self) -> Tensor:
        """(C, C) AUROC of every ordered pair of classes; see `equipoise.ranking.pairwise_auroc`."""
        return functional.pairwise_auroc(*self.samples())

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the matrix of pairwise AUROCs; returns (figure, axes)."""
        return self._plot(val, ax) if val is not None else plot_pair_matrix(self.pair_matrix(), ax=ax)


class RetrievalMetrics(Metric):
    """Mean average precision and recall@k over embeddings, each a query; see `equipoise.ranking.retrieval_metrics`.

    Args:
        recall_at: as in `retrieval_metrics`.
        similarity: as in `retrieval_metrics`.
        no_positive: as in `retrieval_metrics`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = RetrievalMetrics(recall_at=(1,))
    >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> metric.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]))
    >>> metric.compute()
    {'mAP': tensor(1., dtype=torch.float64), 'recall@1': tensor(1., dtype=torch.float64)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    embeddings: list[Tensor]
    target: list[Tensor]

    def __init__(
        self,
        recall_at: Sequence[int] = (1,),
        *,
        similarity: str = "cosine",
        no_positive: str = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("similarity", similarity, SIMILARITIES)
        check_choice("no_positive", no_positive, NO_POSITIVE)
        self.recall_at, self.similarity, self.no_positive = tuple(recall_at), similarity, no_positive
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, target: Tensor) -> None:
        """Take a batch of embeddings (n, d) and classes (n,).

        Raises:
            ValueError: on embeddings that are not finite, or shapes that do not fit.
        """
        check_finite("embeddings", embeddings)
        if embeddings.ndim != 2 or target.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings and target must have shapes (n, d) and (n,), got {tuple(embeddings.shape)} and "
                f"{tuple(target.shape)}"
            )
        self.embeddings.append(embeddings.detach())
        self.target.append(target.detach())

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all that was seen."""
        if not len(self.embeddings):
            raise ValueError("RetrievalMetrics has seen no embeddings; call update(embeddings, target) first")
        return retrieval_metrics(
            dim_zero_cat(self.embeddings),
            dim_zero_cat(self.target),
            recall_at=self.recall_at,
            similarity=self.similarity,
            no_positive=self.no_positive,
        )
