"""Partial AUC by hard selection: rank only the negatives that spend the budget, and the positives that are missed.

    L = Σ_{i ∈ lowest a n₊} Σ_{j ∈ highest b n₋}  w_i v_j ℓ(s_i − s_j) / Σ_i w_i Σ_j v_j       a = 1 − min_tpr, b =
    max_fpr

The selection is made by the scores of the batch, and the selected pairs all count. a n₊ and b n₋ are seldom whole: with
the fractional boundary the last selected sample counts by its fraction, so that a small batch still has the wanted
share (b n₋ = 0.6 gives the highest negative weight 0.6 rather than none).

The loss depends on the batch: the highest 5 % of a small batch's negatives are not those of the data, so use batches of
several times 1 / max_fpr negatives, or the smooth weights of `weighted_partial_auc`.

With the square of probabilities for ℓ, four moments of the selected scores are enough:

    R = Σ_i Σ_j w_i v_j (m − s_i + s_j)² / Σ_i w_i Σ_j v_j  =  (m − a* + b*)² + var_w s₊ + var_v s₋

a* and b* are their means. R is what the minimax forms of `instancewise_partial_auc` equal at their saddle point, where
γ* = b* − a*. On large batches it is the strongest simple baseline for them: O(n), nothing to tune, gradient on the kept
samples only.

Yang et al., "When All We Need is a Piece of the Pie", ICML 2021, for the objective. Shao et al., "Asymptotically
Unbiased Instance-wise Regularized Partial AUC Optimization", NeurIPS 2022, Theorem 1, for the square.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from equipoise.core.curves.selection import hardest
from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.pairs.sides import Sides, as_probabilities, binary_sides
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Fraction, NonNegative, ProperFraction, SampleWeight, Scalar, Scores
from equipoise.core.validate import warn_once

Boundary: TypeAlias = Literal["fractional", "floor"]


@checked
def partial_auc_loss(
    scores: Scores,
    target: BinaryTarget,
    *,
    max_fpr: Fraction,
    min_tpr: ProperFraction = 0.0,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
    boundary: Boundary = "fractional",
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """Mean surrogate loss over the pairs of the hardest positives and negatives.

    Args:
        scores: (n,) raw scores.
        target: (n,) in {0, 1}.
        max_fpr: share of the negatives that counts, the highest-scored, in (0, 1]; the papers' β.
        min_tpr: 1 − the share of the positives that counts, the lowest-scored, in [0, 1); the papers' 1 − α. 0 is the
            one-way partial AUC.
        surrogate: as in `pairwise_auc_loss`.
        margin: as in `pairwise_auc_loss`.
        boundary: "fractional" weighs the last selected sample by its fraction; "floor" drops it, as the papers'
            metric does.
        sample_weight: (n,) non-negative, how often each sample counts, in the shares and in the pairs.

    Returns:
        The loss; zero, still attached to the graph, when a class is absent or nothing is selected (warned once).

    >>> scores, target = torch.tensor([2.0, 0.0, 1.5, -3.0]), torch.tensor([1, 1, 0, 0])
    >>> partial_auc_loss(scores, target, max_fpr=0.5)
    tensor(3.2500)
    """
    kept = _hardest_sides(scores, target, sample_weight, max_fpr, min_tpr, boundary, "the partial AUC loss")
    return pairwise_loss(kept.pos, kept.neg, surrogate, margin, kept.pos_weight, kept.neg_weight)


class PartialAUCLoss(nn.Module):
    """`partial_auc_loss` as a module.

    Args:
        max_fpr: as in `partial_auc_loss`.
        min_tpr: as in `partial_auc_loss`.
        surrogate: as in `partial_auc_loss`.
        margin: as in `partial_auc_loss`.
        boundary: as in `partial_auc_loss`.
        gather: select and rank over all processes of torch.distributed; see `core.distributed`.

    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) < 40
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), PartialAUCLoss(max_fpr=0.1)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x).squeeze(1), y).item()
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> loss(model(x).squeeze(1), y).item() < start
    True
    """

    @checked
    def __init__(
        self,
        max_fpr: Fraction,
        min_tpr: ProperFraction = 0.0,
        surrogate: SurrogateLike = "squared_hinge",
        margin: NonNegative = 1.0,
        boundary: Boundary = "fractional",
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        resolve_surrogate(surrogate, margin)
        self.max_fpr, self.min_tpr = max_fpr, min_tpr
        self.surrogate, self.margin, self.boundary, self.gather = surrogate, margin, boundary, gather

    def forward(self, scores: Scores, target: BinaryTarget, sample_weight: SampleWeight | None = None) -> Scalar:
        """The loss of scores (n,) by targets (n,), weighted by (n,)."""
        if self.gather:
            scores, target, sample_weight = gather_batch(scores, target, sample_weight)
        return partial_auc_loss(
            scores,
            target,
            max_fpr=self.max_fpr,
            min_tpr=self.min_tpr,
            surrogate=self.surrogate,
            margin=self.margin,
            boundary=self.boundary,
            sample_weight=sample_weight,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        name = getattr(self.surrogate, "name", self.surrogate)
        return f"max_fpr={self.max_fpr}, min_tpr={self.min_tpr}, surrogate={name}, margin={self.margin}"


class PartialSquareRisk(NamedTuple):
    """The risk and where its inner minimax problem has its saddle point.

    Attributes:
        loss: R, differentiable once.
        a: mean score of the kept positives, without gradient; NaN where none are kept.
        b: mean score of the kept negatives.
        gamma: b − a.
    """

    loss: Tensor
    a: Tensor
    b: Tensor
    gamma: Tensor


@checked
def exact_partial_square_risk(
    scores: Scores,
    target: BinaryTarget,
    *,
    max_fpr: Fraction,
    min_tpr: ProperFraction = 0.0,
    margin: NonNegative = 1.0,
    boundary: Boundary = "fractional",
    from_logits: bool = True,
    sample_weight: SampleWeight | None = None,
) -> PartialSquareRisk:
    """Mean square loss over the pairs of the hardest positives and negatives, with the inner solution.

    Args:
        scores: (n,) logits, or probabilities with `from_logits=False`.
        target: (n,) in {0, 1}.
        max_fpr: as in `partial_auc_loss`.
        min_tpr: as in `partial_auc_loss`.
        margin: m, between probabilities.
        boundary: as in `partial_auc_loss`.
        from_logits: apply the sigmoid.
        sample_weight: as in `partial_auc_loss`.

    Returns:
        The risk and a*, b*, γ*. Its loss is zero, still attached to the graph, when a class is absent or nothing is
        selected (warned once).

    >>> scores, target = torch.tensor([0.9, 0.5, 0.7, 0.1]), torch.tensor([1, 1, 0, 0])
    >>> exact_partial_square_risk(scores, target, max_fpr=0.5, from_logits=False).loss
    tensor(1.0400)
    """
    probability = as_probabilities(scores, from_logits)
    kept = _hardest_sides(probability, target, sample_weight, max_fpr, min_tpr, boundary, "the partial square risk")
    loss = pairwise_loss(kept.pos, kept.neg, "square", margin, kept.pos_weight, kept.neg_weight)
    a, b = _mean(kept.pos, kept.pos_weight), _mean(kept.neg, kept.neg_weight)
    return PartialSquareRisk(loss, a, b, b - a)


class ExactPartialSquareLoss(nn.Module):
    """`exact_partial_square_risk` as a module.

    Args:
        max_fpr: as in `exact_partial_square_risk`.
        min_tpr: as in `exact_partial_square_risk`.
        margin: as in `exact_partial_square_risk`.
        boundary: as in `exact_partial_square_risk`.
        from_logits: as in `exact_partial_square_risk`.
        gather: as in `PartialAUCLoss`.

    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) < 40
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), ExactPartialSquareLoss(max_fpr=0.3)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x).squeeze(1), y).item()
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> loss(model(x).squeeze(1), y).item() < start
    True
    """

    @checked
    def __init__(
        self,
        max_fpr: Fraction,
        min_tpr: ProperFraction = 0.0,
        margin: NonNegative = 1.0,
        boundary: Boundary = "fractional",
        *,
        from_logits: bool = True,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.max_fpr, self.min_tpr = max_fpr, min_tpr
        self.margin, self.boundary, self.from_logits, self.gather = margin, boundary, from_logits, gather

    def forward(self, scores: Scores, target: BinaryTarget, sample_weight: SampleWeight | None = None) -> Scalar:
        """The loss of scores (n,) by targets (n,), weighted by (n,)."""
        if self.gather:
            scores, target, sample_weight = gather_batch(scores, target, sample_weight)
        return exact_partial_square_risk(
            scores,
            target,
            max_fpr=self.max_fpr,
            min_tpr=self.min_tpr,
            margin=self.margin,
            boundary=self.boundary,
            from_logits=self.from_logits,
            sample_weight=sample_weight,
        ).loss

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"max_fpr={self.max_fpr}, min_tpr={self.min_tpr}, margin={self.margin}, boundary={self.boundary}"


def _hardest_sides(
    scores: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    max_fpr: float,
    min_tpr: float,
    boundary: Boundary,
    objective: str,
) -> Sides:
    """The lowest 1 − min_tpr of the positives and the highest max_fpr of the negatives, weighted at the boundary."""
    sides = binary_sides(scores, target, sample_weight, objective=objective)
    pos, pos_weight = hardest(sides.pos, 1 - min_tpr, largest=False, boundary=boundary, weight=sides.pos_weight)
    neg, neg_weight = hardest(sides.neg, max_fpr, largest=True, boundary=boundary, weight=sides.neg_weight)
    kept = Sides(sides.pos[pos], sides.neg[neg], pos_weight, neg_weight)
    if sides.rankable and not kept.rankable:
        warn_once(
            f"{objective} is zero: max_fpr={max_fpr:g} of {len(sides.neg)} negatives or {1 - min_tpr:g} of "
            f"{len(sides.pos)} positives is less than one sample; use larger batches or boundary='fractional'"
        )
    return kept


def _mean(x: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted mean, without gradient; NaN of nothing."""
    wide = weight.double() if weight is not None else x.new_ones(len(x)).double()
    return ((x.detach().double() * wide).sum() / wide.sum()).to(x.dtype)
