"""The smoothly weighted partial AUC one sample at a time: a minimax form whose every term is linear in means.

The square loss of `weighted_partial_auc` is a polynomial of six means, over the positives and over the negatives,

    c₊ = mean ψ₊,  f₊ = mean ψ₊ s,  q₊ = mean ψ₊ s²          and c₋, f₋, q₋ likewise

    L = m² c₊ c₋ + c₋ q₊ + c₊ q₋ − 2 m c₋ f₊ + 2 m c₊ f₋ − 2 f₊ f₋

The product of two means is no mean, so that a batch of one class, or of few samples, has no unbiased gradient of it.
With 2 x y = (x + y)² − x² − y² and x² = max_u 2 u x − u² every product becomes terms that are:

    L = min over a   max over b    Σ_k v_k (2 b_k t_k − b_k²) − Σ_k u_k (2 a_k r_k − a_k²)

    a, minimised   r = c₊, c₋, c₋ + f₊, c₊, f₋, c₋, q₊, c₊, q₋, f₊ + f₋     u = m²/2, m²/2, m, m, m, ½, ½, ½, ½, 1
    b, maximised   t = c₊ + c₋, c₋, f₊, c₊ + f₋, c₋ + q₊, c₊ + q₋, f₊, f₋   v = m²/2, m, m, m, ½, ½, 1, 1

Given the scores, the saddle point is a = r and b = t. On a batch of both classes `weighted_partial_auc_loss` is the
exact value with nothing to tune; use this form where batches are of one class, with the prior p of the positives, by
which the means become sums over all samples of the batch, over n p and n (1 − p).

Yang et al., "Optimizing Two-way Partial AUC with an End-to-end Framework", TPAMI 2022, arXiv 2206.11655, with m = 1.
The formula follows the authors' code (XCurve); the prior form, the margin and the start are reconstructed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.sides import as_probabilities, binary_sides
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.solvers.saddle import SaddleLoss
from equipoise.core.types import BinaryTarget, NonNegative, OpenFraction, Positive, Scalar, Scores
from equipoise.ranking.partial.weighted_partial_auc import Region, Scheme, calibrated_weight


class Moments(NamedTuple):
    """The weighted means of a batch.

    Attributes:
        c_pos: mean weight of the positives.
        f_pos: mean of weight times score.
        q_pos: mean of weight times squared score.
        c_neg: mean weight of the negatives.
        f_neg: mean of weight times score.
        q_neg: mean of weight times squared score.
    """

    c_pos: Tensor
    f_pos: Tensor
    q_pos: Tensor
    c_neg: Tensor
    f_neg: Tensor
    q_neg: Tensor


@checked
def instancewise_weighted_objective(
    scores: Scores,
    target: BinaryTarget,
    a: Float[Tensor, " 10"],
    b: Float[Tensor, " 8"],
    *,
    scheme: Scheme = "poly",
    gamma: Positive = 0.1,
    region: Region = "two_way",
    margin: NonNegative = 1.0,
    prior: OpenFraction | None = None,
    reg_a: NonNegative = 0.0,
    reg_b: NonNegative = 0.0,
    detach_weights: bool = True,
    from_logits: bool = True,
    eps: NonNegative = 1e-6,
) -> Scalar:
    """The minimax form of `weighted_partial_auc_loss` with the square loss, at given variables.

    Args:
        scores: (n,) logits, or probabilities with `from_logits=False`.
        target: (n,) in {0, 1}.
        a: (10,) minimised, in the order of the module.
        b: (8,) maximised.
        scheme: as in `weighted_partial_auc_loss`.
        gamma: as in `weighted_partial_auc_loss`.
        region: as in `weighted_partial_auc_loss`.
        margin: m, between probabilities; the paper has 1.
        prior: p of the positives where batches are drawn from, for a mean over samples instead of class means.
        reg_a: r ≥ 0, adds r ‖a‖², which moves the saddle point of a towards 0.
        reg_b: r ≥ 0, takes off r ‖b‖², which does so to b.
        detach_weights: as in `weighted_partial_auc_loss`.
        from_logits: as in `weighted_partial_auc_loss`.
        eps: as in `weighted_partial_auc_loss`.

    Returns:
        The value. Without a prior it is zero, still attached to the graph, when a class is absent (warned once).

    >>> a, b = torch.zeros(10), torch.zeros(8)
    >>> b[5] = 1.0
    >>> scores, target = torch.tensor([0.8, 0.5]), torch.tensor([1, 0])
    >>> instancewise_weighted_objective(scores, target, a, b, region="one_way", gamma=1.0, from_logits=False)
    tensor(0.6250)
    """
    probability = as_probabilities(scores, from_logits)
    if prior is None and not binary_sides(scores, target, objective="the weighted partial AUC loss").rankable:
        return attached_zero(scores)
    means = _moments(probability, target, scheme, gamma, region, prior, detach_weights, eps)
    partners_a, partners_b = _partners(means)
    scale_a, scale_b = _scales(margin, probability)
    value = (scale_b * (2 * b * partners_b - b.square())).sum() - (scale_a * (2 * a * partners_a - a.square())).sum()
    return (value + reg_a * a.square().sum() - reg_b * b.square().sum()).to(scores.dtype)


class InstancewiseWeightedPartialAUCLoss(SaddleLoss):
    """`instancewise_weighted_objective` as a module that owns a and b.

    Use `core.solvers.saddle.descent_ascent`, which reads from the loss what ascends. The authors clip gradients to
    [−5, 5]. The variables start at the saddle point for scores that are all 1/2, those of an untrained model;
    `initialize` puts them at that of a batch.

    Args:
        scheme: as in `instancewise_weighted_objective`.
        gamma: as in `instancewise_weighted_objective`.
        region: as in `instancewise_weighted_objective`.
        margin: as in `instancewise_weighted_objective`.
        prior: as in `instancewise_weighted_objective`.
        reg_a: as in `instancewise_weighted_objective`.
        reg_b: as in `instancewise_weighted_objective`.
        detach_weights: as in `instancewise_weighted_objective`.
        from_logits: as in `instancewise_weighted_objective`.
        eps: as in `instancewise_weighted_objective`.
        gather: one batch of all processes of torch.distributed; see `core.distributed`.

    >>> from equipoise.core.solvers.saddle import descent_ascent
    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) < 40
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), InstancewiseWeightedPartialAUCLoss("exp", gamma=8.0, prior=0.1)
    >>> optimizer = descent_ascent(torch.optim.SGD, model, loss, lr=0.3)
    >>> for step in range(300):
    ...     rows = torch.arange(step % 20, 400, 20)
    ...     optimizer.zero_grad()
    ...     loss(model(x[rows]).squeeze(1), y[rows]).backward()
    ...     optimizer.step()
    >>> from equipoise.ranking import opauc
    >>> bool(opauc(model(x).squeeze(1), y, 0.3) > 0.5)
    True
    """

    @checked
    def __init__(
        self,
        scheme: Scheme = "poly",
        gamma: Positive = 0.1,
        region: Region = "two_way",
        margin: NonNegative = 1.0,
        prior: OpenFraction | None = None,
        reg_a: NonNegative = 0.0,
        reg_b: NonNegative = 0.0,
        detach_weights: bool = True,
        from_logits: bool = True,
        eps: NonNegative = 1e-6,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.scheme, self.gamma, self.region, self.margin, self.prior = scheme, gamma, region, margin, prior
        self.reg_a, self.reg_b, self.detach_weights = reg_a, reg_b, detach_weights
        self.from_logits, self.eps, self.gather = from_logits, eps, gather
        self.a, self.b = nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(8))
        self._solve(torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([1, 0]))

    def min_parameters(self) -> tuple[nn.Parameter, ...]:
        """a."""
        return (self.a,)

    def max_parameters(self) -> tuple[nn.Parameter, ...]:
        """b."""
        return (self.b,)

    @torch.no_grad()
    @checked
    def initialize(self, scores: Scores, target: BinaryTarget) -> None:
        """Set a and b to the saddle point for these scores, from the means of both classes.

        Raises:
            ValueError: if a class is absent.
        """
        n_pos = int((target == 1).sum())
        if not 0 < n_pos < len(target):
            raise ValueError(
                f"there are {n_pos} positives and {len(target) - n_pos} negatives; the saddle point needs both"
            )
        self._solve(as_probabilities(scores, self.from_logits), target)

    @torch.no_grad()
    def _solve(self, probability: Tensor, target: Tensor) -> None:
        means = _moments(probability, target, self.scheme, self.gamma, self.region, None, True, self.eps)
        for parameter, partners, scale, reg in zip(
            (self.a, self.b), _partners(means), _scales(self.margin, probability), (self.reg_a, self.reg_b), strict=True
        ):
            # A term without weight, as some are at margin 0, leaves its variable where it likes.
            parameter.copy_(torch.where(scale + reg > 0, scale / (scale + reg), 1.0) * partners)

    def forward(self, scores: Scores, target: BinaryTarget) -> Scalar:
        """The objective of scores (n,) by targets (n,)."""
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
        value: Tensor = instancewise_weighted_objective(
            scores,
            target,
            self.a,
            self.b,
            scheme=self.scheme,
            gamma=self.gamma,
            region=self.region,
            margin=self.margin,
            prior=self.prior,
            reg_a=self.reg_a,
            reg_b=self.reg_b,
            detach_weights=self.detach_weights,
            from_logits=self.from_logits,
            eps=self.eps,
        )
        return value

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return (
            f"scheme={self.scheme}, gamma={self.gamma}, region={self.region}, margin={self.margin}, "
            f"prior={self.prior}, reg_a={self.reg_a}, reg_b={self.reg_b}"
        )


def _moments(
    probability: Tensor,
    target: Tensor,
    scheme: Scheme,
    gamma: float,
    region: Region,
    prior: float | None,
    detach_weights: bool,
    eps: float,
) -> Moments:
    found = []
    for label, share in ((1, prior), (0, None if prior is None else 1 - prior)):
        mask = target == label
        s = probability[mask].double()
        hard = s.detach() if detach_weights else s
        if label == 0:
            weight = calibrated_weight(hard, scheme, gamma, eps=eps)
        elif region == "two_way":
            weight = calibrated_weight(1 - hard, scheme, gamma, eps=eps)
        else:
            weight = torch.ones_like(s)
        count = len(s) if share is None else len(target) * share
        found += [(weight * power).sum() / count for power in (torch.ones_like(s), s, s.square())]
    return Moments(*found)


def _partners(m: Moments) -> tuple[Tensor, Tensor]:
    """r and t, what a and b equal at the saddle point."""
    both = m.c_pos + m.c_neg
    return (
        torch.stack(
            [
                m.c_pos,
                m.c_neg,
                m.c_neg + m.f_pos,
                m.c_pos,
                m.f_neg,
                m.c_neg,
                m.q_pos,
                m.c_pos,
                m.q_neg,
                m.f_pos + m.f_neg,
            ]
        ),
        torch.stack(
            [both, m.c_neg, m.f_pos, m.c_pos + m.f_neg, m.c_neg + m.q_pos, m.c_pos + m.q_neg, m.f_pos, m.f_neg]
        ),
    )


def _scales(margin: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """u and v, the weights of their terms."""
    m, square = margin, margin**2 / 2
    return (
        torch.tensor([square, square, m, m, m, 0.5, 0.5, 0.5, 0.5, 1.0], dtype=torch.float64, device=like.device),
        torch.tensor([square, m, m, m, 0.5, 0.5, 1.0, 1.0], dtype=torch.float64, device=like.device),
    )
