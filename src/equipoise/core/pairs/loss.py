"""The exact weighted mean of a surrogate over all (positive, negative) pairs, with its gradient.

    L = Σ_i Σ_j w_i v_j ℓ(s⁺_i − s⁻_j) / (Σ_i w_i · Σ_j v_j)

No list of pairs is built and no pair is left out: see `core.pairs.kernels` for what each surrogate costs. Gradients
come with the value, in the forward pass, because they share its sorted scores and running sums.

    split_classes               scores and a mask to positives and negatives
    pairwise_loss               one set of positives, one of negatives: a scalar that autograd can differentiate once
    columnwise_pairwise_loss    a matrix of scores, one problem per column (multiclass, multi-label, per user)
    pairwise_derivatives        value, gradient and Hessian diagonal without autograd, for gradient boosting

Yang et al., "Learning with Multiclass AUC: Theory and Algorithms", TPAMI 2021 (its section on fast evaluation).
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.pairs.autograd import PairwiseLoss, SplitClasses, SquareLoss
from equipoise.core.pairs.kernels import pair_means
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate, square
from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty, NonNegative, Range

Positives: TypeAlias = Annotated[Float[Tensor, " n_pos"], MayBeEmpty()]
Negatives: TypeAlias = Annotated[Float[Tensor, " n_neg"], MayBeEmpty()]
PositiveWeight: TypeAlias = Annotated[Float[Tensor, " n_pos"], Range(0), MayBeEmpty()]
NegativeWeight: TypeAlias = Annotated[Float[Tensor, " n_neg"], Range(0), MayBeEmpty()]
Columns: TypeAlias = Annotated[Float[Tensor, "n columns"], MayBeEmpty()]
ColumnWeight: TypeAlias = Annotated[Float[Tensor, "n columns"], Range(0), MayBeEmpty()]


class PairwiseDerivatives(NamedTuple):
    """Value, gradient and Hessian diagonal of the weighted mean over all pairs.

    Attributes:
        value: the mean, a scalar.
        pos_gradient: derivative in each positive score, shape (n_pos,).
        neg_gradient: derivative in each negative score, shape (n_neg,).
        pos_curvature: second derivative in each positive score.
        neg_curvature: second derivative in each negative score.
    """

    value: Tensor
    pos_gradient: Tensor
    neg_gradient: Tensor
    pos_curvature: Tensor
    neg_curvature: Tensor


@checked
def pairwise_loss(
    pos: Positives,
    neg: Negatives,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
    pos_weight: PositiveWeight | None = None,
    neg_weight: NegativeWeight | None = None,
) -> Float[Tensor, ""]:
    """Exact weighted mean of a surrogate loss over all pairs of a positive and a negative.

    Args:
        pos: (n_pos,) scores of the positives.
        neg: (n_neg,) scores of the negatives.
        surrogate: a name in `SURROGATES`, a `Surrogate`, or an elementwise differentiable function of the difference
            (which then carries its own margin; `margin` is not passed to it).
        margin: margin of the surrogate, at least 0, or its rate γ, greater than 0.
        pos_weight: (n_pos,) non-negative weight of each positive; equal weights if absent.
        neg_weight: (n_neg,) non-negative weight of each negative.

    Returns:
        The mean, in the promoted dtype of the scores; 0, attached to the graph, if one side is empty or has no weight.
        Gradients flow to the scores, and to weights that require them. At a kink (hinge at t = margin) the slope is 0.

    Raises:
        ValueError: if the surrogate is unknown, or its rate 0.
        RuntimeError: on a second backward through the gradient.

    >>> pairwise_loss(torch.tensor([2.0, 0.5]), torch.tensor([0.0]))
    tensor(0.1250)
    """
    chosen = resolve_surrogate(surrogate, margin)
    if chosen == square and pos_weight is None and neg_weight is None and pos.numel() and neg.numel():
        return SquareLoss.apply(pos, neg, margin)
    return PairwiseLoss.apply(pos, neg, pos_weight, neg_weight, chosen, margin)


def split_classes(
    scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"] | Integer[Tensor, " n"]
) -> tuple[Float[Tensor, " n_pos"], Float[Tensor, " n_neg"]]:
    """The scores of the positives, True or 1, and of the negatives, each in its order; gradients flow back.

    >>> split_classes(torch.tensor([0.9, 0.1, 0.5]), torch.tensor([True, False, True]))
    (tensor([0.9000, 0.5000]), tensor([0.1000]))
    """
    pos, neg = SplitClasses.apply(scores, positive == 1)
    return pos, neg


@checked
def columnwise_pairwise_loss(
    scores: Columns,
    pos_weight: ColumnWeight,
    neg_weight: ColumnWeight,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
) -> Float[Tensor, " columns"]:
    """`pairwise_loss` of every column of a matrix of scores, each with its own positives and negatives.

    Args:
        scores: (n, columns), one problem per column.
        pos_weight: weight of each sample as a positive of that column; 0 means that it is none.
        neg_weight: weight of each sample as a negative of that column; 0 means that it is none.
        surrogate: as in `pairwise_loss`.
        margin: as in `pairwise_loss`.

    Returns:
        The weighted mean of each column; 0 where a column lacks positives or negatives. Gradients flow to the scores,
        and to weights that require them.

    Raises:
        ValueError: as `pairwise_loss`.

    >>> scores = torch.tensor([[2.0, 0.0], [0.5, 3.0], [0.0, 1.0]])
    >>> first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> columnwise_pairwise_loss(scores, first, 1 - first)
    tensor([0.1250, 4.5000])
    """
    chosen = resolve_surrogate(surrogate, margin)
    rows = scores.T.contiguous()
    return PairwiseLoss.apply(rows, rows, pos_weight.T.contiguous(), neg_weight.T.contiguous(), chosen, margin)


@checked
def pairwise_derivatives(
    pos: Positives,
    neg: Negatives,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
    pos_weight: PositiveWeight | None = None,
    neg_weight: NegativeWeight | None = None,
) -> PairwiseDerivatives:
    """Value, exact gradient and exact Hessian diagonal of `pairwise_loss`, without autograd.

    The Hessian of a pairwise loss is a weighted graph Laplacian (its rows sum to zero), so twice its diagonal bounds it
    from above: this is what a booster, which knows diagonal Hessians only, should be given.

    Args:
        pos: as in `pairwise_loss`.
        neg: as in `pairwise_loss`.
        surrogate: as in `pairwise_loss`.
        margin: as in `pairwise_loss`.
        pos_weight: as in `pairwise_loss`.
        neg_weight: as in `pairwise_loss`.

    Returns:
        The five tensors, in the promoted dtype of the scores; all zero if one side is empty or has no weight.

    Raises:
        ValueError: as `pairwise_loss`.

    >>> pairwise_derivatives(torch.tensor([0.5]), torch.tensor([0.0, -0.25])).neg_gradient
    tensor([0.5000, 0.2500])
    """
    chosen = resolve_surrogate(surrogate, margin)
    with torch.no_grad():
        means = pair_means(pos, neg, pos_weight, neg_weight, chosen, margin, ["slope", "curvature"])
        dtype = torch.promote_types(pos.dtype, neg.dtype)
        return PairwiseDerivatives(
            means.value.to(dtype),
            means.u.scaled("slope").to(dtype),
            -means.a.scaled("slope").to(dtype),
            means.u.scaled("curvature").to(dtype),
            means.a.scaled("curvature").to(dtype),
        )
