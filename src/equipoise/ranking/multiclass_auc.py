"""Multiclass AUC: rank every pair of classes, however rare, and weigh each pair of classes the same.

    one-vs-one    R = Σ_i Σ_{j≠i}  1/(N_i N_j)  Σ_{p ∈ S_i} Σ_{q ∈ S_j}  ℓ( f_i(x_p) − f_i(x_q) )
    one-vs-rest   R = Σ_i  1/(N_i (n − N_i))  Σ_{p ∈ S_i} Σ_{q ∉ S_i}  ℓ( f_i(x_p) − f_i(x_q) )

N_i is the number of samples of class i, S_i their indices, f_i column i of the scores. Over samples, one-vs-rest lets
the frequent classes drown the rare ones; one-vs-one does not. Both are averages of one matrix of class pairs, which
costs O(C n) to O(C n log n) a batch and never lists a pair (`core.pairs.class_pairs`).

The surrogates carry no factor 1/2 (the authors' square does). Differentiable surrogates with ℓ'(0) < 0 are Fisher
consistent for the metric (the paper); that theorem does not cover the hinge (reconstructed).

Yang et al., "Learning with Multiclass AUC: Theory and Algorithms", TPAMI 2021, arXiv 2107.13171.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.class_pairs import Average, ClassPairs, Reduction, class_pair_loss
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, MayBeEmpty, NonNegative, Range, SampleWeight, Scalar, Scores
from equipoise.core.validate import warn_once
from equipoise.ranking.pairwise_auc import pairwise_auc_loss

OneColumn: TypeAlias = Float[Tensor, "n 1"]


@checked
def multiclass_auc_loss(
    scores: OneColumn | ClassScores | Scores,
    target: ClassTarget,
    *,
    surrogate: SurrogateLike = "square",
    margin: NonNegative = 1.0,
    average: Average = "ovo",
    reduction: Reduction = "mean",
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """Surrogate risk of the multiclass AUC.

    Args:
        scores: (n, C), column i the scorer of class i, any real numbers. The authors apply a softmax first; that is the
            caller's choice. Scores (n,) or (n, 1) are a binary problem with class 1 positive.
        target: (n,) class indices.
        surrogate: a name of `core.pairs.surrogates`, or a function of the difference.
        margin: margin or rate of the surrogate; the paper's γ.
        average: "ovo" for pairs of classes, "ovr" for one class against the rest (the paper's "ova").
        reduction: "mean" over the ordered pairs of classes (or the classes) that are present, or their "sum".
        sample_weight: (n,) non-negative; N_i becomes the total weight of a class.

    Returns:
        The risk. Classes without samples, or of no weight, are left out. With fewer than two classes it is zero, still
        attached to the graph, and warned of once (the authors' code divides by zero there).

    >>> scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    >>> multiclass_auc_loss(scores, torch.tensor([0, 1, 1]), surrogate="hinge")
    tensor(0.4000)
    """
    if scores.ndim == 1 or scores.shape[1] == 1:
        return pairwise_auc_loss(
            scores.flatten(), target, surrogate=surrogate, margin=margin, sample_weight=sample_weight
        )
    weight = None if sample_weight is None else sample_weight.detach()[None]
    pairs = ClassPairs(scores.T[None], target[None], scores.shape[1], weight)
    totals = pairs.totals()
    number = int((totals > 0).sum())
    if number < 2:
        warn_once(f"the multiclass AUC loss is zero on a batch of {number} class; it compares at least two")
    return class_pair_loss(pairs, totals, resolve_surrogate(surrogate, margin), margin, average, reduction)


class MulticlassAUCLoss(nn.Module):
    """`multiclass_auc_loss` as a module, optionally of the softmax or sigmoid of its input.

    Args:
        surrogate: as in `multiclass_auc_loss`.
        margin: as in `multiclass_auc_loss`.
        average: as in `multiclass_auc_loss`.
        reduction: as in `multiclass_auc_loss`.
        activation: None to rank raw scores, "softmax" as the authors do, or "sigmoid".
        gather: rank the pairs of all processes of torch.distributed; see `core.distributed`.

    >>> x, y = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 3
    >>> x[range(300), y] += 2
    >>> model, loss = torch.nn.Linear(4, 3), MulticlassAUCLoss("exponential", activation="softmax")
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x), y).item()
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()
    ...     optimizer.step()
    >>> loss(model(x), y).item() < start
    True
    """

    @checked
    def __init__(
        self,
        surrogate: SurrogateLike = "square",
        margin: NonNegative = 1.0,
        average: Average = "ovo",
        reduction: Reduction = "mean",
        activation: Literal["softmax", "sigmoid"] | None = None,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        resolve_surrogate(surrogate, margin)
        self.surrogate, self.margin = surrogate, margin
        self.average, self.reduction, self.activation, self.gather = average, reduction, activation, gather

    @checked
    def forward(
        self,
        scores: Annotated[OneColumn | ClassScores | Scores, MayBeEmpty()],
        target: Annotated[ClassTarget, MayBeEmpty()],
        sample_weight: Annotated[SampleWeight, MayBeEmpty()] | None = None,
    ) -> Scalar:
        """The risk of scores (n, C) by class indices (n,); a process of several may hold an empty batch."""
        if self.gather:
            scores, target, sample_weight = gather_batch(scores, target, sample_weight)
        if self.activation == "softmax" and scores.ndim == 2 and scores.shape[1] > 1:
            scores = scores.softmax(1)
        elif self.activation is not None:
            scores = scores.sigmoid()
        return multiclass_auc_loss(
            scores,
            target,
            surrogate=self.surrogate,
            margin=self.margin,
            average=self.average,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        name = getattr(self.surrogate, "name", self.surrogate)
        return f"surrogate={name}, margin={self.margin}, average={self.average}, activation={self.activation}"


@checked
def plugin_scores(
    probabilities: Annotated[ClassScores, Range(0, 1)],
    priors: Annotated[Float[Tensor, " classes"], Range(0, low_open=True)],
) -> ClassScores:
    """Scores that rank best for the one-vs-one AUC, given class probabilities: a correction without training.

        r_i(x) = η_i(x) / Σ_{j≠i} η_j(x) / π_j

    η are the class probabilities of x, π the class priors of the data they were estimated on. An optimal scorer is any
    increasing function of r_i (reconstructed from the pairwise definition). For two classes it orders as η_1 does.

    Args:
        probabilities: (n, C), rows that sum to 1.
        priors: (C,) share of every class, all positive.

    Returns:
        (n, C) float64 logarithms of r, infinite where a probability is 0 or 1.

    >>> plugin_scores(torch.tensor([[0.5, 0.5]]), torch.tensor([0.5, 0.5])).exp()
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    eta = probabilities.double()
    ratio = eta / priors.double()
    others = torch.stack(
        [ratio[:, [j for j in range(ratio.shape[1]) if j != i]].sum(1) for i in range(ratio.shape[1])], 1
    )
    return eta.log() - others.log()
