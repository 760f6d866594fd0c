r"""Pair losses with an outlier term for every answer, given or minimised out.

    given_gamma    w [ ½ (y − s − γ)² + λ₁|γ| ]    or    w [ log(1 + exp(−y (s + γ))) + λ₁|γ| ]
    profile        the same at the best γ, whose slope in s never exceeds λ₁ w: what makes training robust

Xu et al., CVPR 2019, section 3.2, with the authors' division by the number of edges ("mean_edges"); the profile is
derived in `outliers`. Without outliers (λ₁ = ∞) "logistic" is RankNet.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from equipoise.core.signature import checked
from equipoise.core.types import Positive, Range
from equipoise.crowd.robust_pairs.outliers import Answers, OutlierModel, as_signs, profiled, warn_of_no_outliers

PairReduction: TypeAlias = Literal["mean_edges", "mean_strength", "sum", "none"]
LossMode: TypeAlias = Literal["profile", "given_gamma"]
Strength: TypeAlias = Annotated[Float[Tensor, " n"], Range(0, low_open=True)]


@checked
def pair_outlier_loss(
    score_i: Float[Tensor, " n"],
    score_j: Float[Tensor, " n"],
    y: Answers,
    strength: Strength | None = None,
    gamma: Float[Tensor, " n"] | None = None,
    *,
    lambda1: Positive = 0.5,
    model: OutlierModel = "logistic",
    mode: LossMode = "profile",
    reduction: PairReduction = "mean_edges",
    binary: bool = False,
) -> Tensor:
    """The loss of pairwise answers of which some are wrong.

    Args:
        score_i: (n,) scores of the left items.
        score_j: (n,) scores of the right items.
        y: (n,) 1 where left was preferred, −1 where right was.
        strength: (n,) how often each answer was given, above 0; 1 by default.
        gamma: (n,) outlier terms, in mode "given_gamma" only.
        lambda1: price of an outlier term of 1, above 0: the steepest slope of a profiled answer.
        model: "squared" or "logistic".
        mode: "profile" minimises the outlier terms out, "given_gamma" takes them.
        reduction: "mean_edges" divides the sum by the number of answers n, "mean_strength" by that of all their
            repetitions, "sum" by nothing; "none" leaves the (n,) losses.
        binary: whether y holds 0 for right instead of −1.

    Raises:
        ValueError: on a bad argument, by name; if gamma is missing, or given where it is not used.

    >>> pair_outlier_loss(torch.tensor([0.5, -3.0]), torch.zeros(2), torch.tensor([1, 1]), model="squared")
    tensor(1.)
    """
    sign = as_signs(y, binary, score_i)
    warn_of_no_outliers(lambda1, model)
    difference = score_i - score_j
    if mode == "given_gamma":
        if gamma is None:
            raise ValueError("gamma is missing: mode='given_gamma' needs the outlier term of each answer")
        moved = difference + gamma
        fit = (sign - moved).square() / 2 if model == "squared" else -logsigmoid(sign * moved)
        losses = fit + lambda1 * gamma.abs()
    elif gamma is not None:
        raise ValueError("gamma is given, but mode='profile' minimises it out; leave it out or say mode='given_gamma'")
    else:
        losses = profiled(difference, sign, lambda1, model)
    if strength is not None:
        losses = losses * strength
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    if reduction == "mean_strength" and strength is not None:
        return total / strength.sum()
    return total / len(losses)


class PairOutlierLoss(nn.Module):
    """`pair_outlier_loss` that remembers its settings.

    Args:
        lambda1: price of an outlier term of 1, above 0.
        model: "squared" or "logistic".
        mode: "profile" or "given_gamma".
        reduction: "mean_edges", "mean_strength", "sum" or "none".
        binary: whether y holds 0 for right instead of −1.

    Raises:
        ValueError: on a setting that is not known or out of range.

    >>> loss = PairOutlierLoss(lambda1=0.3)
    >>> loss(torch.tensor([4.0]), torch.tensor([0.0]), torch.tensor([-1]))
    tensor(1.8109)
    """

    @checked
    def __init__(
        self,
        lambda1: Positive = 0.5,
        model: OutlierModel = "logistic",
        mode: LossMode = "profile",
        reduction: PairReduction = "mean_edges",
        *,
        binary: bool = False,
    ) -> None:
        super().__init__()
        self.lambda1, self.model, self.mode, self.reduction, self.binary = lambda1, model, mode, reduction, binary

    @checked
    def forward(
        self,
        score_i: Float[Tensor, " n"],
        score_j: Float[Tensor, " n"],
        y: Answers,
        strength: Strength | None = None,
        gamma: Float[Tensor, " n"] | None = None,
    ) -> Tensor:
        """The loss of answers; arguments as of `pair_outlier_loss`."""
        return pair_outlier_loss(
            score_i,
            score_j,
            y,
            strength,
            gamma,
            lambda1=self.lambda1,
            model=self.model,
            mode=self.mode,
            reduction=self.reduction,
            binary=self.binary,
        )

    def extra_repr(self) -> str:
        """The settings."""
        return f"lambda1={self.lambda1:g}, model={self.model!r}, mode={self.mode!r}, reduction={self.reduction!r}"
