"""The square AUC loss one sample at a time, as a saddle problem.

    R = E (1 − f(x⁺) + f(x⁻))²  =  1 + min_{a, b} max_α  mean₊ (f − a)² + mean₋ (f − b)²
                                                        + 2 (1 + α)(mean₋ f − mean₊ f) − α²

with f in [0, 1]. The solution inside is a = mean₊ f, b = mean₋ f, α = b − a. No term holds two samples, so that a
gradient with respect to one input is that of its own term: what attacks and robust training need. With the prior p of
the positives the same reads, over all samples and p (1 − p) times as large,

    g = (1 − p)(f − a)² 1[y=1] + p (f − b)² 1[y=0] + 2 (1 + α)(p f 1[y=0] − (1 − p) f 1[y=1]) − p (1 − p) α²

Ying et al., "Stochastic Online AUC Maximization", NeurIPS 2016, for the form. (The code of AdAUC has p α² for its last
term, which moves the saddle point.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.sides import as_probabilities, binary_sides
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.solvers.saddle import Box, SaddleLoss
from equipoise.core.types import BinaryTarget, OpenFraction, Range, Scalar, Scores

Number: TypeAlias = float | Float[Tensor, ""]
UnitScores: TypeAlias = Annotated[Scores, Range(0, 1)]


class MinMaxSolution(NamedTuple):
    """The saddle point inside, for fixed scores.

    Attributes:
        a: mean score of the positives.
        b: mean score of the negatives.
        alpha: b − a.
        saddle_value: p (1 − p)(risk − 1) with p the share of positives: the value of the prior form.
        pairwise_square_risk: R.
    """

    a: Tensor
    b: Tensor
    alpha: Tensor
    saddle_value: Tensor
    pairwise_square_risk: Tensor


@checked
def minmax_auc_terms(
    scores: UnitScores,
    target: BinaryTarget,
    a: Number,
    b: Number,
    alpha: Number,
    *,
    prior: OpenFraction | None = None,
) -> Scores:
    """One term per sample, whose mean is the loss; the objective of an attack.

    Args:
        scores: (n,) in [0, 1].
        target: (n,) in {0, 1}.
        a: where the positives should be.
        b: where the negatives should be.
        alpha: the dual variable.
        prior: p of the prior form; absent for the class-mean form, whose terms weigh n/n₊ and n/n₋.

    Returns:
        (n,).

    >>> minmax_auc_terms(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]), 0.75, 0.25, -0.5)
    tensor([-1.7500,  0.2500])
    """
    positive = target == 1
    square = torch.where(positive, scores - a, scores - b).square()
    pull = 2 * (1 + alpha) * torch.where(positive, -scores, scores)
    if prior is None:
        return class_weights(scores, positive) * (square + pull) - _square(alpha)
    weight = torch.where(positive, scores.new_tensor(1 - prior), scores.new_tensor(prior))
    return weight * (square + pull) - prior * (1 - prior) * _square(alpha)


def class_weights(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """n/n₊ and n/n₋, which make a mean over samples a sum of class means.

    >>> class_weights(torch.zeros(4), torch.tensor([True, False, False, False]))
    tensor([4.0000, 1.3333, 1.3333, 1.3333])
    """
    n, n_pos = scores.shape[0], positive.sum()
    of_pos, of_neg = (n / count.clamp_min(1).to(scores.dtype) for count in (n_pos, n - n_pos))
    return torch.where(positive, of_pos, of_neg)


@checked
def minmax_auc_loss(
    scores: UnitScores,
    target: BinaryTarget,
    a: Number,
    b: Number,
    alpha: Number,
    *,
    prior: OpenFraction | None = None,
) -> Scalar:
    """The saddle objective: minimised over scores, a and b, maximised over α.

    Args:
        scores: as in `minmax_auc_terms`.
        target: as in `minmax_auc_terms`.
        a: as in `minmax_auc_terms`.
        b: as in `minmax_auc_terms`.
        alpha: as in `minmax_auc_terms`.
        prior: as in `minmax_auc_terms`.

    Returns:
        The mean of the terms; zero, still attached to the graph, when one class is absent (warned once). R − 1 at the
        saddle point of the class-mean form.

    >>> minmax_auc_loss(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]), 0.75, 0.25, -0.5)
    tensor(-0.7500)
    """
    if not binary_sides(scores, target, objective="the min-max AUC loss").rankable:
        return attached_zero(scores)
    return minmax_auc_terms(scores, target, a, b, alpha, prior=prior).mean()


@checked
def minmax_inner_solution(scores: UnitScores, target: BinaryTarget) -> MinMaxSolution:
    """The saddle point inside, in closed form and float64.

    Raises:
        ValueError: if one class is absent.

    >>> minmax_inner_solution(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1, 1, 0])).alpha
    tensor(-0.7500, dtype=torch.float64)
    """
    pos, neg = (scores[target == k].double() for k in (1, 0))
    if not (len(pos) and len(neg)):
        raise ValueError(f"there are {len(pos)} positives and {len(neg)} negatives; the saddle point needs both")
    a, b = pos.mean(), neg.mean()
    risk = (1 - a + b).square() + pos.var(correction=0) + neg.var(correction=0)
    prior = len(pos) / len(scores)
    return MinMaxSolution(a, b, b - a, prior * (1 - prior) * (risk - 1), risk)


def project_alpha(a: Number, b: Number, alpha: Number) -> Tensor:
    """α put into [max(−a, b − 1), 1], where the terms fall with a positive's score and rise with a negative's.

    >>> project_alpha(0.3, 0.9, -0.6)
    tensor(-0.1000)
    """
    a, b, alpha = (torch.as_tensor(x) for x in (a, b, alpha))
    return torch.minimum(torch.maximum(alpha, torch.maximum(-a, b - 1)), torch.ones_like(alpha))


class MinMaxAUCLoss(SaddleLoss):
    """`minmax_auc_loss` as a module that owns a, b and α.

    Use `core.solvers.saddle.descent_ascent` or a solver of `core.solvers.saddle_solvers`, which read from the loss what
    ascends; a plain optimizer would descend in α too.

    Args:
        form: "class_mean", which does not depend on the share of positives in a batch, or "prior".
        prior: p of the prior form: the share of positives of the distribution that batches are drawn from.
        init: a, b and α at the start.
        inner: "learned" by gradient steps, or "closed_form" for the batch's own saddle point within the bounds, which
            needs no solver; of the class-mean form it is the square AUC loss of the batch.
        from_logits: apply the sigmoid.
        gather: take the samples of all processes of torch.distributed, so that a, b and α move alike on all; see
            `core.distributed`.

    Raises:
        ValueError: if the prior is missing or not used by the form.

    >>> from equipoise.core.solvers.saddle import descent_ascent
    >>> x, y = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)), torch.arange(300) < 30
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), MinMaxAUCLoss()
    >>> optimizer = descent_ascent(torch.optim.SGD, model, loss, lr=0.5, dual_lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> bool(loss.a > loss.b)
    True
    """

    @checked
    def __init__(
        self,
        form: Literal["class_mean", "prior"] = "class_mean",
        prior: OpenFraction | None = None,
        init: Sequence[float] = (0.2, 0.2, 0.2),
        inner: Literal["learned", "closed_form"] = "learned",
        from_logits: bool = True,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        if (prior is None) == (form == "prior"):
            raise ValueError(f"form={form!r} {'needs' if form == 'prior' else 'does not use'} a prior")
        if len(init) != 3:
            raise ValueError(f"init={init} must hold a, b and alpha")
        self.form, self.prior, self.inner, self.from_logits, self.gather = form, prior, inner, from_logits, gather
        learned = inner == "learned"
        self.a, self.b, self.alpha = (nn.Parameter(torch.tensor(float(v)), requires_grad=learned) for v in init)
        self.project_()

    def min_parameters(self) -> tuple[nn.Parameter, ...]:
        """a and b."""
        return (self.a, self.b)

    def max_parameters(self) -> tuple[nn.Parameter, ...]:
        """α."""
        return (self.alpha,)

    def bounds(self) -> Mapping[nn.Parameter, Box]:
        """a and b in [0, 1], α in [max(−a, b − 1), 1]."""
        lowest = torch.maximum(-self.a.detach(), self.b.detach() - 1)
        return {self.a: (0.0, 1.0), self.b: (0.0, 1.0), self.alpha: (lowest, 1.0)}

    @torch.no_grad()
    @checked
    def initialize(self, scores: Scores, target: BinaryTarget) -> None:
        """Set a, b and α to the saddle point for these scores, within the bounds.

        Raises:
            ValueError: if one class is absent.
        """
        found = minmax_inner_solution(as_probabilities(scores, self.from_logits), target)
        alpha, prior = found.alpha, self.prior
        if prior is not None:
            # The maximum of 2 (1 + α) u − p (1 − p) α², whatever the share of positives in the batch.
            share = (target == 1).double().mean()
            alpha = (prior * (1 - share) * found.b - (1 - prior) * share * found.a) / (prior * (1 - prior))
        for parameter, value in ((self.a, found.a), (self.b, found.b), (self.alpha, alpha)):
            parameter.copy_(value)
        self.project_()

    @checked
    def terms(self, scores: Scores, target: BinaryTarget) -> Scores:
        """One term per sample, for an attack, at the present a, b and α."""
        probability = as_probabilities(scores, self.from_logits)
        return minmax_auc_terms(probability, target, self.a, self.b, self.alpha, prior=self.prior)

    def forward(self, scores: Scores, target: BinaryTarget) -> Scalar:
        """The loss of scores (n,) by targets (n,)."""
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
        return self._loss(scores, target)

    @checked
    def _loss(self, scores: Scores, target: BinaryTarget) -> Scalar:
        probability = as_probabilities(scores, self.from_logits)
        if self.inner == "closed_form" and 0 < int((target == 1).sum()) < len(target):
            self.initialize(scores.detach(), target)
        return minmax_auc_loss(probability, target, self.a, self.b, self.alpha, prior=self.prior)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"form={self.form}, prior={self.prior}, inner={self.inner}"


def _square(x: Number) -> Number:
    return x * x
