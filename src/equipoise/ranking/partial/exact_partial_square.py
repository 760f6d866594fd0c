"""The square loss of partial AUC, exactly and in closed form: select by score, then four moments.

    R = Σ_i Σ_j w_i v_j (m − s_i + r_j)² / Σ_i w_i Σ_j v_j  =  (m − a* + b*)² + var_w s + var_v r

s_i are the lowest positives and r_j the highest negatives with their boundary weights, a* and b* their means. R is what
the minimax forms of `instancewise_partial_auc` equal at their saddle point, where γ* = b* − a*. On large batches it is
the strongest simple baseline for them: O(n), nothing to tune, gradient on the kept samples only.

Shao et al., "Asymptotically Unbiased Instance-wise Regularized Partial AUC Optimization", NeurIPS 2022, Theorem 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equipoise.core.curves.selection import BOUNDARIES
from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.loss import pairwise_loss, split_classes
from equipoise.core.validate import (
    check_binary,
    check_choice,
    check_fraction,
    check_positive,
    check_probabilities,
    warn_once,
)
from equipoise.ranking.pairwise_auc import warn_of_one_class
from equipoise.ranking.partial.partial_auc import select_partial

BinaryTarget = Int[Tensor, " n"] | Bool[Tensor, " n"]


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


def exact_partial_square_risk(
    scores: Float[Tensor, " n"],
    target: BinaryTarget,
    *,
    max_fpr: float,
    min_tpr: float = 0.0,
    margin: float = 1.0,
    boundary: str = "fractional",
    from_logits: bool = True,
) -> PartialSquareRisk:
    """Mean square loss over the pairs of the hardest positives and negatives, with the inner solution.

    Args:
        scores: (n,) logits, or probabilities with `from_logits=False`.
        target: (n,) in {0, 1}.
        max_fpr: share of the negatives that counts, the highest-scored, in (0, 1]; the papers' β.
        min_tpr: 1 − the share of the positives that counts, the lowest-scored, in [0, 1); the papers' 1 − α.
        margin: m, between probabilities.
        boundary: "fractional" or "floor", see `core.curves.selection`.
        from_logits: apply the sigmoid.

    Returns:
        The risk and a*, b*, γ*. Its loss is zero, still attached to the graph, when a class is absent or nothing is
        selected (warned once).

    Raises:
        ValueError: on scores and targets as `pairwise_auc_loss`; if a setting is out of range.

    >>> scores, target = torch.tensor([0.9, 0.5, 0.7, 0.1]), torch.tensor([1, 1, 0, 0])
    >>> exact_partial_square_risk(scores, target, max_fpr=0.5, from_logits=False).loss
    tensor(1.0400)
    """
    check_binary(scores, target)
    check_region(max_fpr, min_tpr)
    probability = as_probability(scores, from_logits)
    pos, neg = split_classes(probability, target == 1)
    warn_of_one_class(pos, neg, "the partial square risk")
    chosen = select_partial(pos, neg, max_fpr, min_tpr, boundary)
    if not (len(chosen.pos) and len(chosen.neg)):
        if pos.shape[0] and neg.shape[0]:
            warn_once(
                f"the partial square risk is zero: max_fpr={max_fpr:g} of {neg.shape[0]} negatives or {1 - min_tpr:g} "
                f"of {pos.shape[0]} positives is less than one sample; use larger batches or boundary='fractional'"
            )
        nothing = scores.new_tensor(float("nan"))
        return PartialSquareRisk(scores.sum() * 0, nothing, nothing, nothing)
    pos, neg = pos[chosen.pos], neg[chosen.neg]
    loss = pairwise_loss(pos, neg, "square", margin, chosen.pos_weight, chosen.neg_weight)
    a, b = _mean(pos, chosen.pos_weight), _mean(neg, chosen.neg_weight)
    return PartialSquareRisk(loss, a, b, b - a)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    weight = weight.double()
    return ((x.detach().double() * weight).sum() / weight.sum()).to(x.dtype)


class ExactPartialSquareLoss(nn.Module):
    """`exact_partial_square_risk` as a module.

    Args:
        max_fpr: as in `exact_partial_square_risk`.
        min_tpr: as in `exact_partial_square_risk`.
        margin: as in `exact_partial_square_risk`.
        boundary: as in `exact_partial_square_risk`.
        from_logits: as in `exact_partial_square_risk`.
        gather: select over all processes of torch.distributed; see `core.distributed`.

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

    def __init__(
        self,
        max_fpr: float,
        min_tpr: float = 0.0,
        margin: float = 1.0,
        boundary: str = "fractional",
        *,
        from_logits: bool = True,
        gather: bool = False,
    ) -> None:
        super().__init__()
        check_region(max_fpr, min_tpr)
        check_positive("margin", margin)
        check_choice("boundary", boundary, BOUNDARIES)
        self.max_fpr, self.min_tpr = max_fpr, min_tpr
        self.margin, self.boundary, self.from_logits, self.gather = margin, boundary, from_logits, gather

    def forward(self, scores: Float[Tensor, " n"], target: BinaryTarget) -> Float[Tensor, ""]:
        """The loss of scores (n,) by targets (n,)."""
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
        return exact_partial_square_risk(
            scores,
            target,
            max_fpr=self.max_fpr,
            min_tpr=self.min_tpr,
            margin=self.margin,
            boundary=self.boundary,
            from_logits=self.from_logits,
        ).loss

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"max_fpr={self.max_fpr}, min_tpr={self.min_tpr}, margin={self.margin}, boundary={self.boundary}"


def check_region(max_fpr: float, min_tpr: float) -> None:
    """Raise `ValueError` unless the bounds leave something of both classes."""
    check_fraction("max_fpr", max_fpr)
    check_fraction("min_tpr", min_tpr, zero=True, one=False)


def as_probability(scores: Tensor, from_logits: bool) -> Tensor:
    """Scores in [0, 1], at least in float32: half precision cannot tell apart the scores of confident models.

    Raises:
        ValueError: if they are said to be probabilities and lie elsewhere.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if from_logits:
        return scores.sigmoid()
    check_probabilities("scores", scores)
    return scores
