"""Average precision from small batches, whatever share of positives they were drawn with.

Precision at a threshold follows from the rates of both classes and the prior π of the positives, so that

    1 − AP = mean over positives of  r / (1 + r)        r = (1 − π)/π · FPR(s) / TPR(s)

FPR and TPR may be estimated on any draw of negatives and of positives: the estimate does not move with the sampling
rate, whereas the AP of a batch that over-samples positives is far above that of the data. The estimates are

    FPR(s) ≈ mean over the batch's negatives n of ℓ₁(s − n)
    TPR(s) ≈ (1 + Σ_m ℓ₂(s − v_m)) / (M + 1)            v: M values that follow the positives' scores by a moving mean

    ℓ₁(x) = 0 for x ≥ τ₁, (x/τ₁ − 1)² for 0 ≤ x < τ₁, 1 − 2x/τ₁ below     (convex, smooth, above the step)
    ℓ₂(x) = 0 for x ≥ 0, 2/(1 + exp(x/τ₂)) − 1 below

The loss is a bound that trains, not an estimate to report: ℓ₁ grows without limit on misordered pairs.

Wen et al., "Exploring the Algorithm-Dependent Generalization of AUPRC Optimization with List Stability", NeurIPS 2022
(SOPRC). The formulas follow the authors' code; the identity of the first line is standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.autograd import FirstOrder
from equipoise.core.pairs.sides import binary_sides
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import (
    BinaryTarget,
    MayBeEmpty,
    NonNegative,
    OpenFraction,
    Positive,
    Probability,
    Range,
    Scalar,
    Scores,
)

SpreadCount: TypeAlias = Annotated[int, Range(2)]

# Positives whose distances to the vector v are held at once.
_CHUNK = 1 << 14


@checked
def soprc_query_loss(
    sim_pos: Float[Tensor, " n_pos"],
    sim_neg: Float[Tensor, " n_neg"],
    v: Float[Tensor, " m"],
    prior: OpenFraction,
    *,
    tau1: Positive = 0.1,
    tau2: Positive = 1e-3,
    tpr_grad: bool = False,
) -> Scalar:
    """The surrogate of 1 − AP for one query (or one binary problem), exact in O(n log n).

    Args:
        sim_pos: (n_pos,) scores of the relevant items, on a scale of about [−1, 1].
        sim_neg: (n_neg,) scores of the others.
        v: (M,) the moving picture of the positives' scores; no gradient flows to it.
        prior: share π of relevant items in the data, in (0, 1).
        tau1: width of the smooth step of the false-positive rate, in units of the scores.
        tau2: that of the true-positive rate.
        tpr_grad: let gradients flow through the true-positive rate; the authors hold it constant.

    Returns:
        The mean over positives.

    >>> soprc_query_loss(torch.tensor([0.5]), torch.tensor([0.45]), torch.zeros(1), 0.5, tau1=0.1)
    tensor(0.3333)
    """
    false_positives = _HuberMeans.apply(sim_pos, sim_neg, tau1)
    return _loss_of_rates(false_positives, true_positive_rate(sim_pos, v, tau2, grad=tpr_grad), prior)


def true_positive_rate(
    scores: Float[Tensor, " n"], v: Float[Tensor, " m"] | Float[Tensor, "n m"], tau2: float, *, grad: bool
) -> Float[Tensor, " n"]:
    """(1 + Σ_m ℓ₂(s − v_m)) / (M + 1) of each score, by one vector for all or one row per score."""
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        wide = scores if grad else scores.detach()
        parts = []
        for k in range(0, max(1, scores.shape[0]), _CHUNK):
            rows = slice(k, k + _CHUNK)
            above = (v[rows] if v.ndim == 2 else v) - wide[rows, None]
            # 2 sigmoid(x) − 1 is tanh(x / 2), which neither overflows nor cancels.
            parts.append((above.clamp_min(0) / (2 * tau2)).tanh().sum(1))
        return (1 + torch.cat(parts)) / (v.shape[-1] + 1)


@checked
def soprc_interpolate(sim_pos: Float[Tensor, "*batch k"], num_v: SpreadCount) -> Float[Tensor, "*batch m"]:
    """Spread k scores over `num_v` values that follow their distribution: the authors' interpolation φ.

    Each sorted score is given ⌈M/k⌉ values on the line between the middles to its neighbours; the first M are kept. The
    ends are extrapolated, to −1 and 1 at most. A single score is repeated (the authors' code fails on it).

    Args:
        sim_pos: (..., k) scores in [−1, 1], in any order.
        num_v: M ≥ 2.

    >>> soprc_interpolate(torch.tensor([0.0, 0.4]), 4)
    tensor([-0.2000,  0.0000,  0.2000,  0.4000])
    """
    k = sim_pos.shape[-1]
    s = sim_pos.sort(-1).values
    if k == 1:
        return s.expand(*s.shape[:-1], num_v).clone()
    below = (2 * s[..., :1] - s[..., 1:2]).clamp_min(-1)
    above = (2 * s[..., -1:] - s[..., -2:-1]).clamp_max(1)
    around = torch.cat([below, s, above], -1)
    pieces = -(-num_v // k)
    alpha = torch.arange(pieces, dtype=s.dtype, device=s.device) / pieces
    steps = around.diff(dim=-1)
    start = (around[..., :-2] + around[..., 1:-1]) / 2
    values = start[..., None] + alpha * ((steps[..., :-1] + steps[..., 1:]) / 2)[..., None]
    return values.flatten(-2)[..., :num_v]


@checked
def semi_variance(
    sim_pos: Annotated[Float[Tensor, " n_pos"], MayBeEmpty()],
    sim_neg: Annotated[Float[Tensor, " n_neg"], MayBeEmpty()],
    lambda_pos: NonNegative = 1.0,
    lambda_neg: NonNegative = 5.0,
) -> Scalar:
    """Spread on the wrong side of the mean: of positives below theirs, and of negatives above theirs.

    It keeps the batch's rates close to those of the data. The gradient flows through the means too.

    Args:
        sim_pos: (n_pos,) scores of all relevant pairs of the batch.
        sim_neg: (n_neg,) scores of the others.
        lambda_pos: weight of the positives' part (XCurve's code exchanges the two weights).
        lambda_neg: weight of the negatives' part.

    Returns:
        The weighted sum of the two means; an empty side counts 0.

    >>> semi_variance(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.2]), 1.0, 5.0)
    tensor(0.3000)
    """
    total = attached_zero(sim_pos, sim_neg)
    for scores, sign, weight in ((sim_pos, 1.0, lambda_pos), (sim_neg, -1.0, lambda_neg)):
        if not scores.shape[0]:
            continue
        lack = sign * (scores.mean() - scores)
        count = (lack > 0).sum()
        total = total + weight * lack.clamp_min(0).square().sum() / count.clamp_min(1)
    return total


class AUPRCLoss(nn.Module):
    """The surrogate of 1 − AP for binary logits: one query, with one vector v.

    Logits are squeezed by tanh(z/2) to [−1, 1], the range that the temperatures and v are made for. v moves in training
    mode only, and is a buffer: it is saved, and moved by `.to()`.

    Args:
        prior: share of positives in the data that AP is wanted on, whatever the batches' share.
        tau1: as in `soprc_query_loss`.
        tau2: as in `soprc_query_loss`.
        beta: rate of the moving mean, in [0, 1].
        num_v: M, how many values follow the positives.
        tpr_grad: as in `soprc_query_loss`.
        semi_variance: weights of the positives' and negatives' spread, see `semi_variance`.
        semi_variance_weight: weight of both; 0 leaves them out.
        gather: take the positives and negatives of all processes of torch.distributed; see `core.distributed`.

    >>> from equipoise.ranking import average_precision
    >>> x, y = torch.randn(600, 2, generator=torch.Generator().manual_seed(0)), torch.arange(600) < 30
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), AUPRCLoss(prior=0.05)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> bool(average_precision(model(x).squeeze(1), y) > 0.2)
    True
    """

    v: Tensor

    @checked
    def __init__(
        self,
        prior: OpenFraction,
        tau1: Positive = 0.1,
        tau2: Positive = 1e-3,
        beta: Probability = 0.1,
        num_v: SpreadCount = 100,
        tpr_grad: bool = False,
        semi_variance: Sequence[NonNegative] = (1.0, 5.0),
        semi_variance_weight: NonNegative = 1.0,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.prior, self.tau1, self.tau2, self.beta, self.tpr_grad = prior, tau1, tau2, beta, tpr_grad
        self.semi_variance, self.semi_variance_weight, self.gather = semi_variance, semi_variance_weight, gather
        self.register_buffer("v", starting_values(num_v))

    def forward(self, scores: Scores, target: BinaryTarget) -> Scalar:
        """The loss of logits (n,) by targets (n,).

        Returns:
            The loss; zero, still attached to the graph, on a batch of one class (warned once).
        """
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
        return self._loss(scores, target)

    @checked
    def _loss(self, scores: Scores, target: BinaryTarget) -> Scalar:
        sides = binary_sides(torch.tanh(scores / 2), target, objective="the average precision loss")
        if not sides.rankable:
            return attached_zero(scores)
        pos, neg = sides.pos, sides.neg
        if self.training:
            with torch.no_grad():
                self.v.lerp_(soprc_interpolate(_thinned(pos.detach(), len(self.v)), len(self.v)).to(self.v), self.beta)
        loss = soprc_query_loss(
            pos, neg, self.v.to(pos.dtype), self.prior, tau1=self.tau1, tau2=self.tau2, tpr_grad=self.tpr_grad
        )
        if self.semi_variance_weight:
            loss = loss + self.semi_variance_weight * semi_variance(pos, neg, *self.semi_variance)
        return loss

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"prior={self.prior}, tau1={self.tau1}, tau2={self.tau2}, beta={self.beta}, num_v={len(self.v)}"


@checked
def smooth_ap_loss(scores: Scores, target: BinaryTarget, *, temperature: Positive = 0.01) -> Scalar:
    """1 − AP of the batch with sigmoids for steps: the plain surrogate, which moves with its share of positives.

        AP ≈ mean over positives i of  (1 + Σ_{p ≠ i} σ((s_p − s_i)/T)) / (1 + Σ_{k ≠ i} σ((s_k − s_i)/T))

    Args:
        scores: (n,) scores; the temperature is in their units.
        target: (n,) in {0, 1}.
        temperature: T > 0.

    Returns:
        The loss, in O(n_pos · n) time and memory; zero, attached, on a batch of one class (warned once).

    Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV 2020.

    >>> smooth_ap_loss(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1, 0, 0]))
    tensor(0.)
    """
    sides = binary_sides(scores, target, objective="the smooth AP loss")
    if not sides.rankable:
        return attached_zero(scores)
    pos, neg = sides.pos, sides.neg
    ahead = ((pos[None, :] - pos[:, None]) / temperature).sigmoid()
    # A positive is ahead of itself by half, where it should count once.
    relevant = 0.5 + ahead.sum(1)
    others = ((neg[None, :] - pos[:, None]) / temperature).sigmoid().sum(1)
    return 1 - (relevant / (relevant + others)).mean()


def starting_values(num_v: int) -> Tensor:
    """Where v begins: (0, 1/M, ..., (M − 1)/M), as in the authors' code."""
    return torch.arange(num_v, dtype=torch.float64) / num_v


def _thinned(scores: Tensor, most: int) -> Tensor:
    """At most `most` of the sorted scores, evenly, so that the interpolation sees the whole of a large batch.

    With more scores than values the authors' rule would keep the lowest ones only.
    """
    if scores.shape[0] <= most:
        return scores
    places = torch.linspace(0, scores.shape[0] - 1, most, device=scores.device).round().long()
    return scores.sort().values[places]


def _loss_of_rates(false_positives: Tensor, true_positives: Tensor, prior: float | Tensor) -> Tensor:
    # r / (1 + r) as one fraction, so that nothing overflows.
    false_part = (1 - prior) * false_positives
    return (false_part / (false_part + prior * true_positives)).mean()


class _HuberMeans(torch.autograd.Function):
    """mean_n ℓ₁(p − n) of each positive p, by one sort of the negatives and running sums.

    With c = p − τ, the negatives in (c, p] give (n − c)²/τ² and those above p give 1 + 2 (n − p)/τ.
    """

    @staticmethod
    def forward(ctx: Any, pos: Tensor, neg: Tensor, tau: float) -> Tensor:
        p, n = pos.detach().double(), neg.detach().double().sort().values
        ctx.save_for_backward(pos, neg)
        ctx.tau = tau
        near, above = _reaches(n, p, tau)
        one, first, second = (_running_sums(n**k) for k in range(3))
        c = p - tau
        inside = [sums[above] - sums[near] for sums in (one, first, second)]
        beyond = [sums[-1] - sums[above] for sums in (one, first)]
        quadratic = (inside[2] - 2 * c * inside[1] + c.square() * inside[0]) / tau**2
        linear = beyond[0] + 2 * (beyond[1] - p * beyond[0]) / tau
        return ((quadratic.clamp_min(0) + linear) / n.shape[0]).to(pos.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        pos, neg = ctx.saved_tensors
        needed = ctx.needs_input_grad

        def gradients(g: Tensor) -> tuple[Tensor | None, Tensor | None]:
            return _huber_gradients(pos, neg, g, ctx.tau, *needed[:2])

        return (*FirstOrder.apply(gradients, upstream[0], pos, neg), None)


def _huber_gradients(
    pos: Tensor, neg: Tensor, upstream: Tensor, tau: float, of_pos: bool, of_neg: bool
) -> tuple[Tensor | None, Tensor | None]:
    p, n, g = pos.detach().double(), neg.detach().double(), upstream.detach().double() / neg.shape[0]
    pos_gradient = neg_gradient = None
    if of_pos:
        ordered = n.sort().values
        near, above = _reaches(ordered, p, tau)
        one, first = _running_sums(torch.ones_like(ordered)), _running_sums(ordered)
        inside = (first[above] - first[near]) - (p - tau) * (one[above] - one[near])
        pos_gradient = (g * (-2 * inside / tau**2 - 2 * (one[-1] - one[above]) / tau)).to(pos.dtype)
    if of_neg:
        ordered, order = p.sort()
        share = g[order]
        weight, first = _running_sums(share), _running_sums(share * ordered)
        # A negative is beyond the positives below it, and near those in [n, n + τ).
        below, reach = torch.searchsorted(ordered, n), torch.searchsorted(ordered, n + tau)
        inside = (n + tau) * (weight[reach] - weight[below]) - (first[reach] - first[below])
        neg_gradient = (2 * inside / tau**2 + 2 * weight[below] / tau).to(neg.dtype)
    return pos_gradient, neg_gradient


def _reaches(negatives: Tensor, p: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """How many ascending negatives are at most p − τ, and at most p."""
    return torch.searchsorted(negatives, p - tau, right=True), torch.searchsorted(negatives, p, right=True)


def _running_sums(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(1), x.cumsum(0)])
