"""AUROC of a multiclass model, over pairs of classes or of one class against the rest.

    MAUC        mean over ordered class pairs (i, j) of P(s_i(x) > s_i(x')), x of class i, x' of class j, a tie ½

Everything is counted in whole numbers and float64. With sample weights a pair counts as often as the product of its
weights says.

Hand and Till, "A simple generalisation of the area under the ROC curve for multiple class problems", 2001. Yang et al.,
"Learning with Multiclass AUC", TPAMI 2021.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.class_wins import pair_wins
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, NumClasses, SampleWeight, Scalar
from equipoise.core.validate import warn_once
from equipoise.ranking.metrics.common import OnUndefined, WeightedMetric, undefined_value, value_of
from equipoise.ranking.metrics.curves import new_axes

Pairing: TypeAlias = Literal["ovo", "ovr"]


@checked
def pairwise_auroc(
    scores: ClassScores, target: ClassTarget, *, sample_weight: SampleWeight | None = None
) -> Float[Tensor, "classes classes"]:
    """AUROC of every ordered pair of classes: entry (i, j) is P(s_i(x) > s_i(x')) for x of class i and x' of class j.

    The worst entry tells which two classes are confused, and the rows which class's scorer does it.

    Args:
        scores: (n, C), column i the scorer of class i; rows need not sum to 1.
        target: (n,) class indices.
        sample_weight: (n,) non-negative, how often each sample counts: a weight of two is a sample given twice.

    Returns:
        (C, C) float64; NaN on the diagonal and for classes without samples, or without weight.

    >>> pairwise_auroc(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    tensor([[nan, 1.],
            [1., nan]], dtype=torch.float64)
    """
    wins, counts = pair_wins(scores.T, target, sample_weight), _counts(scores, target, sample_weight)
    pairs = torch.outer(counts, counts).fill_diagonal_(0)
    return torch.where(pairs > 0, wins / pairs, torch.nan)


@checked
def multiclass_auroc(
    scores: ClassScores,
    target: ClassTarget,
    *,
    average: Pairing = "ovo",
    sample_weight: SampleWeight | None = None,
    on_undefined: OnUndefined = "nan",
) -> Scalar:
    """AUROC of a multiclass model.

    Args:
        scores: (n, C), column i the scorer of class i; unlike scikit-learn's, rows need not sum to 1.
        target: (n,) class indices.
        average: "ovo" for the mean over ordered pairs of classes (Hand and Till's M, MAUC), in which a rare pair counts
            as much as a frequent one; "ovr" for the mean over classes of one class against the rest ("ova" in the
            paper).
        sample_weight: as in `pairwise_auroc`; each pair of classes, or class, counts the same all the same.
        on_undefined: with fewer than two classes present, "nan" (warned once) or "raise". With "nan", classes that have
            no samples are left out of the mean, warned once; with "raise" they are an error.

    Raises:
        ValueError: where it is undefined or a class has no samples, with `on_undefined="raise"`.

    >>> multiclass_auroc(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    tensor(1.)
    """
    counts = _counts(scores, target, sample_weight)
    present = counts > 0
    absent = (~present).nonzero().squeeze(1).tolist()
    if int(present.sum()) < 2:
        return undefined_value(scores, "multiclass AUROC", on_undefined)
    if absent:
        message = f"classes {absent} have no samples: multiclass AUROC is the mean over the others"
        if on_undefined == "raise":
            raise ValueError(f"{message}; pass on_undefined='nan' to accept that")
        warn_once(message)
    wins = pair_wins(scores.T, target, sample_weight)
    if average == "ovo":
        pairs = torch.outer(counts, counts).fill_diagonal_(0)
        value = (wins[pairs > 0] / pairs[pairs > 0]).mean()
    else:
        value = (wins.sum(1)[present] / (counts * (counts.sum() - counts))[present]).mean()
    return value_of(value, scores)


def _counts(scores: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """(C,) float64: how many samples each class has, or their weight."""
    weight = None if weight is None else weight.double()
    return torch.bincount(target, weight, minlength=scores.shape[1]).double()


class MulticlassAUROC(WeightedMetric):
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

    @checked
    def __init__(
        self,
        num_classes: NumClasses | None = None,
        *,
        average: Pairing = "ovo",
        on_undefined: OnUndefined = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(on_undefined=on_undefined, **kwargs)
        self.num_classes, self.average = num_classes, average

    @checked
    def update(self, scores: ClassScores, target: ClassTarget, sample_weight: SampleWeight | None = None) -> None:
        """Take a batch of scores (n, C), class indices (n,) and, where samples count unequally, weights (n,)."""
        if self.num_classes is not None and scores.shape[1] != self.num_classes:
            raise ValueError(f"scores have {scores.shape[1]} columns, wanted num_classes={self.num_classes}")
        self.keep_weighted(scores, target, sample_weight)

    def compute(self) -> Tensor:
        """The mean AUROC over pairs of classes, or over classes."""
        scores, target, weight = self.samples()
        return multiclass_auroc(
            scores, target, average=self.average, sample_weight=weight, on_undefined=self.on_undefined
        )

    def pair_matrix(self) -> Tensor:
        """(C, C) AUROC of every ordered pair of classes; see `equipoise.ranking.pairwise_auroc`."""
        scores, target, weight = self.samples()
        return pairwise_auroc(scores, target, sample_weight=weight)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the matrix of pairwise AUROCs; returns (figure, axes)."""
        return self._plot(val, ax) if val is not None else plot_pair_matrix(self.pair_matrix(), ax=ax)


def plot_pair_matrix(matrix: Tensor, *, ax: Any = None) -> Any:
    """Draw a matrix of pairwise AUROCs; returns (figure, axes).

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure, ax = new_axes(ax)
    image = ax.imshow(matrix.cpu().numpy(), vmin=0.5, vmax=1.0, cmap="viridis")
    figure.colorbar(image, ax=ax, label="AUROC")
    ax.set(xlabel="against class", ylabel="class")
    return figure, ax
