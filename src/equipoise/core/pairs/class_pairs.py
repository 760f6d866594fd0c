"""Mean of a surrogate over pairs of samples of two classes, for every ordered pair of classes, and averages of these.

    R_cj = 1/(N_c N_j)  Σ_{p ∈ S_c} Σ_{q ∈ S_j}  ℓ( f_c(p) − f_c(q) )

f_c is column c of the scores, S_c the samples of class c and N_c their number, or their total weight. One-vs-one is the
mean of R_cj over c ≠ j; one-vs-rest is the same with weights N_j / (N − N_c) on j, for the mean over pooled pairs is
that of the classes' means. Both are so a weighted sum of one matrix.

    square, linear   R from the means and variances of `class_tables`: O(N C) time
    exponential      R from logarithms of mean exponentials, likewise
    any other        a weighted binary problem for each column, O(C N log N) for hinges, that finds no single R_cj

Across processes tables are additive, so that these are gathered where they suffice, and scores where not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from equipoise.core.distributed import Group, gather_rows, sum_of_processes
from equipoise.core.pairs.autograd import FirstOrder
from equipoise.core.pairs.class_tables import ClassLogMeans, ClassMoments
from equipoise.core.pairs.kernels import pair_means
from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.pairs.means import wide
from equipoise.core.pairs.surrogates import Surrogate, exponential, linear, square
from equipoise.core.reduction import attached_zero

Average: TypeAlias = Literal["ovo", "ovr"]
Reduction: TypeAlias = Literal["mean", "sum"]
# Scores that the sorting kernels are given at once.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class ClassPairs:
    """Scores, classes, and which pairs of classes there are.

    Attributes:
        planes: (images, columns, pixels) floating scores; a matrix of samples (n, C) is `scores.T[None]`.
        labels: (images, pixels) class indices from 0 to `classes`, where that number marks what does not count.
        classes: how many classes the labels have.
        weight: (images, pixels) non-negative, without gradient; None where all count alike.
        squash: whether the scores are the sigmoid of the planes.
        chosen: (columns,) which classes' rankings are asked for, of all against all others; None for every one.
        gather: whether the pairs are those of all processes of `group`.
        group: a process group of torch.distributed; None is the default one.
    """

    planes: Tensor
    labels: Tensor
    classes: int
    weight: Tensor | None = None
    squash: bool = False
    chosen: Tensor | None = None
    gather: bool = False
    group: Group = None

    @property
    def own(self) -> Tensor:
        """(columns,) the class that a column scores; a single column is of class 1."""
        columns, device = self.planes.shape[1], self.planes.device
        return torch.ones(1, dtype=torch.long, device=device) if columns == 1 else torch.arange(columns, device=device)

    def local_totals(self) -> Tensor:
        """(classes,) number of samples, or total weight, of this process."""
        weight = torch.ones_like(self.labels, dtype=wide(self.planes)) if self.weight is None else self.weight
        totals = weight.new_zeros(self.classes + 1, dtype=wide(self.planes))
        return totals.index_add_(0, self.labels.reshape(-1), weight.reshape(-1).to(totals.dtype))[:-1]

    def totals(self) -> Tensor:
        """(classes,) the same of all processes, where their pairs are gathered."""
        found = self.local_totals()
        return sum_of_processes(found, self.group) if self.gather else found

    def exists(self, totals: Tensor) -> Tensor:
        """(columns, classes) whether there is such a pair of classes, and it is asked for."""
        own, present = self.own, totals > 0
        pairs = present[own][:, None] & present
        pairs[torch.arange(len(own), device=own.device), own] = False
        return pairs if self.chosen is None else pairs & self.chosen[:, None]


def class_pair_loss(
    pairs: ClassPairs, totals: Tensor, surrogate: Surrogate, margin: float, average: Average, reduction: Reduction
) -> Tensor:
    """The mean of R_cj over pairs of classes or of one class against the rest, or their sum, see the module.

    Args:
        pairs: scores and classes.
        totals: `pairs.totals()`.
        surrogate: ℓ.
        margin: its margin or rate.
        average: "ovo" or "ovr".
        reduction: of ordered pairs of classes ("ovo") or of classes ("ovr") that exist.

    Returns:
        A scalar in the dtype of the planes; zero, attached to the graph, where no pair exists.

    >>> scores, labels = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0, 1]])
    >>> pairs = ClassPairs(scores.T[None], labels, 2)
    >>> class_pair_loss(pairs, pairs.totals(), square, 1.0, "ovo", "mean")
    tensor(0.0900)
    """
    exists = pairs.exists(totals)
    if not bool(exists.any()):
        return attached_zero(pairs.planes)
    share = exists.to(totals.dtype)
    if average == "ovr":
        share *= totals
        share /= share.sum(1, keepdim=True).where(exists.any(1, keepdim=True), 1)
    if reduction == "mean":
        share /= share.sum()
    if surrogate in (square, linear, exponential):
        risks = _from_tables(pairs, totals, surrogate, margin)
        value = (risks.where(exists, 0) * share).sum()
    else:
        rows, labels, weight = _rows(pairs)
        value = _ColumnLosses.apply(rows, labels, weight, pairs.own, totals, share, surrogate, margin).sum()
    return value.to(pairs.planes.dtype)


def class_pair_losses(pairs: ClassPairs, totals: Tensor, surrogate: Surrogate, margin: float) -> Tensor:
    """The matrix R: (columns, classes) in the dtype of the planes, NaN where there is no such pair.

    Gradients flow back from every entry. Surrogates without a closed form are computed pair by pair of classes.

    >>> scores, labels = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0, 1]])
    >>> pairs = ClassPairs(scores.T[None], labels, 2)
    >>> class_pair_losses(pairs, pairs.totals(), square, 1.0)
    tensor([[   nan, 0.0900],
            [0.0900,    nan]])
    """
    exists = pairs.exists(totals)
    if surrogate in (square, linear, exponential):
        risks = _from_tables(pairs, totals, surrogate, margin).to(pairs.planes.dtype)
    else:
        rows, labels, weight = _rows(pairs)
        places = [(labels == k).nonzero().squeeze(1) for k in range(pairs.classes)]
        weights = [None if weight is None else weight[at] for at in places]
        none = rows.new_zeros(())
        entries = [
            pairwise_loss(row[places[c]], row[places[j]], surrogate, margin, weights[c], weights[j])
            if bool(exists[k, j])
            else none
            for k, (row, c) in enumerate(zip(rows, pairs.own.tolist(), strict=True))
            for j in range(pairs.classes)
        ]
        risks = torch.stack(entries).view(len(rows), -1)
    return risks.where(exists, torch.nan)


def _from_tables(pairs: ClassPairs, totals: Tensor, surrogate: Surrogate, margin: float) -> Tensor:
    local = pairs.local_totals() if pairs.gather else totals
    own = pairs.own
    given = pairs.planes, pairs.labels, local, pairs.weight
    if surrogate == exponential:
        rates = totals.new_full((len(own), len(totals)), margin)
        rates[torch.arange(len(own), device=own.device), own] = -margin
        table = ClassLogMeans.apply(*given, rates, pairs.squash)
        if pairs.gather:
            parts = gather_rows(_share(local, totals)[None], pairs.group).log().clamp_min(-1e30)
            table = torch.logsumexp(gather_rows(table[None], pairs.group) + parts[:, None], 0)
        return torch.exp(table.gather(1, own[:, None]) + table)
    mean, variance = ClassMoments.apply(*given, pairs.squash)
    if pairs.gather:
        part = gather_rows(_share(local, totals)[None], pairs.group)[:, None]
        means = gather_rows(mean[None], pairs.group)
        variances = gather_rows(variance[None], pairs.group)
        mean = (part * means).sum(0)
        variance = (part * (variances + (means - mean).square())).sum(0)
    lack = margin - mean.gather(1, own[:, None]) + mean
    if surrogate == linear:
        return lack
    return lack.square() + variance.gather(1, own[:, None]) + variance


def _share(local: Tensor, totals: Tensor) -> Tensor:
    """Of every class, the part that this process has."""
    return torch.where(totals > 0, local / totals, 0)


def _rows(pairs: ClassPairs) -> tuple[Tensor, Tensor, Tensor | None]:
    """Columns of scores as rows (columns, n), labels (n,) and weights (n,), of what counts."""
    labels = pairs.labels.reshape(-1)
    rows = pairs.planes.transpose(0, 1).flatten(1)
    weight = None if pairs.weight is None else pairs.weight.reshape(-1)
    kept = labels < pairs.classes
    if not bool(kept.all()):
        at = kept.nonzero().squeeze(1)
        rows, labels = rows.index_select(1, at), labels[at]
        weight = None if weight is None else weight[at]
    if pairs.squash:
        rows = rows.sigmoid()
    if pairs.gather:
        rows, labels = gather_rows(rows.T, pairs.group).T, gather_rows(labels, pairs.group)
        weight = None if weight is None else gather_rows(weight, pairs.group)
    return rows.contiguous(), labels, weight


class _ColumnLosses(torch.autograd.Function):
    """Of every column Σ_j share_cj R_cj, as a weighted problem of its class against the others."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        labels: Tensor,
        weight: Tensor | None,
        own: Tensor,
        totals: Tensor,
        share: Tensor,
        surrogate: Surrogate,
        margin: float,
    ) -> Tensor:
        """Values with gradients, some columns at a time; columns of absent classes are left out."""
        of_column = share.sum(1)
        counts = torch.ones_like(labels, dtype=share.dtype) if weight is None else weight.to(share.dtype)
        of_pair = share / totals.where(totals > 0, 1)
        values, gradient = torch.zeros_like(of_column), torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        active = (of_column > 0).nonzero().squeeze(1)
        want = () if gradient is None else ("slope",)
        for at in active.split(max(1, _CHUNK // max(1, rows.shape[1]))):
            x = rows if len(at) == len(rows) else rows[at]
            positive = (own[at, None] == labels) * counts
            negative = of_pair[at].index_select(1, labels) * counts
            means = pair_means(x, x, positive, negative, surrogate, margin, want)
            values[at] = means.value * of_column[at]
            if gradient is not None:
                slope = means.u.scaled("slope") - means.a.scaled("slope")
                gradient[at] = (slope * of_column[at, None]).to(gradient.dtype)
        ctx.save_for_backward(rows, gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """The stored gradient, times that of the value."""
        rows, gradient = ctx.saved_tensors

        def gradients(upstream: Tensor) -> tuple[Tensor, None]:
            return gradient * upstream[:, None].to(gradient.dtype), None

        return (FirstOrder.apply(gradients, upstream[0], rows)[0], *([None] * 7))
