"""Partial AUC from small batches: what a batch cannot tell of a positive is remembered from one visit to the next.

Which negatives are the hardest for a positive is a question about all negatives, and a batch has few. Two objectives
over the losses ℓ_ij of pairs have one unknown per positive i, or few beside it, which may be carried along instead:

    CVaR, one-way     1/n₊ Σ_i  min_t { t + 1/(β n₋) Σ_j [ℓ_ij − t]₊ }                      SOPA
    KL, one-way       1/n₊ Σ_i  λ log 1/n₋ Σ_j exp(ℓ_ij / λ)                                SOPA-s
    KL, two-way       τ log 1/n₊ Σ_i  ( 1/n₋ Σ_j exp(ℓ_ij / λ) )^(λ/τ)                      SOTA-s

The first is exact: with a surrogate that falls in s⁺ − s⁻ it is the mean over pairs with the highest β n₋ negatives,
which `partial_auc_loss` finds on a whole set by one selection. Its threshold t_i descends a little at every visit,

    t_i ← t_i − η (1 − share of the batch's negatives with ℓ_ij > t_i, over β)

The other two are smooth, and choose the negatives by a temperature in place of a share: λ → 0 keeps the hardest
negative, λ → ∞ all alike, τ does the same for the positives, and τ → ∞ is the one-way form. u_i, a moving mean of what
the logarithm is of, makes the gradient of a batch that of the objective up to what u_i lags behind,

    ∇ = 1/n₊ Σ_i  u_i^(λ/τ) / w  ·  1/n₋ Σ_j exp(ℓ_ij / λ) / u_i  ∇ℓ_ij                     one-way: u_i^(λ/τ) / w = 1

over the samples of the batch, with w the moving mean of u_i^(λ/τ). Means of exponentials are kept as logarithms.

Zhu et al., "When AUC meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence Guarantee", ICML
2022, arXiv 2203.00176; the formulas follow the documentation and code of LibAUC. Three things differ from that code. A
first visit sets u_i and w (they begin at 0 there, which makes first weights 1/γ too large). A positive that is in a
batch several times moves its memory once, by the mean (there the last one wins). The value is the estimate of the
objective (there a sum whose gradient is the same).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch, gather_rows
from equipoise.core.pairs.rows import excess_per_positive, soft_maximum_per_positive
from equipoise.core.pairs.sides import Sides, binary_sides
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import (
    BinaryTarget,
    Count,
    Fraction,
    NonNegative,
    Positive,
    SampleIndex,
    Scalar,
    Scores,
)
from equipoise.core.validate import check_sample_index
from equipoise.ranking.partial.partial_auc import partial_auc_loss

_KL = "the soft partial AUC loss"


@checked
def kl_partial_auc_loss(
    scores: Scores,
    target: BinaryTarget,
    *,
    temperature_neg: Positive = 1.0,
    temperature_pos: Positive | None = None,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
) -> Scalar:
    """The soft partial AUC loss of a whole set: the objective of SOPA-s and, with `temperature_pos`, of SOTA-s.

    Args:
        scores: (n,) raw scores.
        target: (n,) in {0, 1}.
        temperature_neg: λ > 0, in units of the loss of a pair: the lower, the more the hardest negatives count.
        temperature_pos: τ > 0, the same for positives; None counts them alike, the one-way form.
        surrogate: as in `pairwise_auc_loss`.
        margin: as in `pairwise_auc_loss`.

    Returns:
        The loss, between the mean over all pairs and the largest; zero, still attached to the graph, when a class is
        absent (warned once). O(n₊ n₋) time.

    >>> scores, target = torch.tensor([2.0, 0.0, 1.5, -3.0]), torch.tensor([1, 1, 0, 0])
    >>> kl_partial_auc_loss(scores, target, temperature_neg=100.0)
    tensor(1.6494)
    >>> kl_partial_auc_loss(scores, target, temperature_neg=0.01, temperature_pos=0.01)
    tensor(6.2361)
    """
    sides = binary_sides(scores, target, objective=_KL)
    if not sides.rankable:
        return attached_zero(scores)
    rows = soft_maximum_per_positive(sides.pos, sides.neg, temperature_neg, surrogate, margin)
    if temperature_pos is None:
        return rows.mean().to(scores.dtype)
    return (temperature_pos * log_mean_exp(rows / temperature_pos)).to(scores.dtype)


class _Remembering(nn.Module, ABC):
    """A loss of scores and targets that needs to know, in training, which samples these are."""

    objective: ClassVar[str]

    def __init__(self, num_samples: int, surrogate: SurrogateLike, margin: float, gather: bool) -> None:
        super().__init__()
        resolve_surrogate(surrogate, margin)
        self.num_samples, self.surrogate, self.margin, self.gather = num_samples, surrogate, margin, gather

    def forward(self, scores: Scores, target: BinaryTarget, index: SampleIndex | None = None) -> Scalar:
        """The loss of a batch; in evaluation mode that of its own, with no memory read or written.

        Args:
            scores: (n,) raw scores.
            target: (n,) in {0, 1}.
            index: (n,) which training samples these are; not looked at in evaluation mode.

        Raises:
            ValueError: in training mode, if the index is missing, or not one of a sample.
        """
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
            index = None if index is None else gather_rows(index)
        return self._loss(scores, target, index)

    @checked
    def _loss(self, scores: Scores, target: BinaryTarget, index: SampleIndex | None) -> Scalar:
        if not self.training:
            return self._of_batch(scores, target)
        if index is None:
            raise ValueError(
                "index is missing: in training the loss remembers every positive by its place in the training set; "
                "`eval()` gives the loss of a batch by itself"
            )
        check_sample_index(index, self.num_samples)
        sides = binary_sides(scores, target, objective=self.objective)
        if not sides.rankable:
            return attached_zero(scores)
        return self._remembered(sides, index[target == 1]).to(scores.dtype)

    @abstractmethod
    def _of_batch(self, scores: Tensor, target: Tensor) -> Tensor:
        """The loss without memory."""

    @abstractmethod
    def _remembered(self, sides: Sides, own: Tensor) -> Tensor:
        """The loss with that of the positives, whose places in the training set these are; moves it."""


class CVaRPartialAUCLoss(_Remembering):
    """One-way partial AUC with a threshold for every positive, which follows its hardest share of negatives (SOPA).

    Use it where batches have too few negatives for the selection of `PartialAUCLoss`, which is the same objective.

    Args:
        num_samples: of the training set; `index` counts from 0 to one less.
        max_fpr: share β of the negatives that counts, in (0, 1].
        threshold_lr: η > 0, step size of the thresholds, in units of the loss of a pair. The authors try 0.01 to 10.
        surrogate: as in `pairwise_auc_loss`.
        margin: as in `pairwise_auc_loss`.
        gather: take the positives and negatives of all processes of torch.distributed; see `core.distributed`.

    Attributes:
        thresholds: (num_samples,) t of every positive, from 0; a buffer, moved in training mode only.

    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 10 == 0
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), CVaRPartialAUCLoss(num_samples=400, max_fpr=0.3)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> for step in range(100):
    ...     batch = torch.arange(step % 3, 400, 3)
    ...     optimizer.zero_grad()
    ...     loss(model(x[batch]).squeeze(1), y[batch], batch).backward()
    ...     optimizer.step()
    >>> from equipoise.ranking import opauc
    >>> bool(opauc(model(x).squeeze(1), y, 0.3) > 0.5)
    True
    """

    thresholds: Tensor
    objective = "the partial AUC loss with thresholds"

    @checked
    def __init__(
        self,
        num_samples: Count,
        max_fpr: Fraction,
        threshold_lr: Positive = 0.1,
        surrogate: SurrogateLike = "squared_hinge",
        margin: NonNegative = 1.0,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__(num_samples, surrogate, margin, gather)
        self.max_fpr, self.threshold_lr = max_fpr, threshold_lr
        self.register_buffer("thresholds", torch.zeros(num_samples, dtype=torch.float64))

    def _of_batch(self, scores: Tensor, target: Tensor) -> Tensor:
        return partial_auc_loss(scores, target, max_fpr=self.max_fpr, surrogate=self.surrogate, margin=self.margin)

    def _remembered(self, sides: Sides, own: Tensor) -> Tensor:
        threshold = self.thresholds[own]
        excess, share = excess_per_positive(sides.pos, sides.neg, threshold, self.surrogate, self.margin)
        loss = (threshold + excess / self.max_fpr).mean()
        known, place = own.unique(return_inverse=True)
        visits = place.bincount(minlength=len(known))
        above = torch.zeros_like(share[: len(known)]).index_add_(0, place, share) / visits
        self.thresholds[known] -= (self.threshold_lr * (1 - above / self.max_fpr)).to(self.thresholds)
        return loss

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        name = getattr(self.surrogate, "name", self.surrogate)
        return (
            f"num_samples={self.num_samples}, max_fpr={self.max_fpr}, threshold_lr={self.threshold_lr}, "
            f"surrogate={name}, margin={self.margin}"
        )


class KLPartialAUCLoss(_Remembering):
    """`kl_partial_auc_loss` from small batches: SOPA-s and, with `temperature_pos`, SOTA-s.

    Args:
        num_samples: of the training set; `index` counts from 0 to one less.
        temperature_neg: as in `kl_partial_auc_loss`. The authors try 0.1 to 10.
        temperature_pos: as in `kl_partial_auc_loss`.
        rate_neg: γ in (0, 1], weight of the batch in the moving mean of a positive; 1 has no memory.
        rate_pos: that of the mean over positives, which the one-way form does not have.
        surrogate: as in `pairwise_auc_loss`.
        margin: as in `pairwise_auc_loss`.
        gather: as in `CVaRPartialAUCLoss`.

    Attributes:
        log_means: (num_samples,) log u of every positive, −∞ before its first visit; a buffer, moved in training mode
            only.
        log_mean: log w, −∞ before the first batch; likewise.

    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 10 == 0
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), KLPartialAUCLoss(num_samples=400, temperature_pos=1.0)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> for step in range(100):
    ...     batch = torch.arange(step % 3, 400, 3)
    ...     optimizer.zero_grad()
    ...     loss(model(x[batch]).squeeze(1), y[batch], batch).backward()
    ...     optimizer.step()
    >>> from equipoise.ranking import tpauc
    >>> bool(tpauc(model(x).squeeze(1), y, max_fpr=0.5, min_tpr=0.5) > 0.4)
    True
    """

    log_means: Tensor
    log_mean: Tensor
    objective = _KL

    @checked
    def __init__(
        self,
        num_samples: Count,
        temperature_neg: Positive = 1.0,
        temperature_pos: Positive | None = None,
        rate_neg: Fraction = 0.9,
        rate_pos: Fraction = 0.9,
        surrogate: SurrogateLike = "squared_hinge",
        margin: NonNegative = 1.0,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__(num_samples, surrogate, margin, gather)
        self.temperature_neg, self.temperature_pos = temperature_neg, temperature_pos
        self.rate_neg, self.rate_pos = rate_neg, rate_pos
        self.register_buffer("log_means", torch.full((num_samples,), -torch.inf, dtype=torch.float64))
        self.register_buffer("log_mean", torch.tensor(-torch.inf, dtype=torch.float64))

    def _of_batch(self, scores: Tensor, target: Tensor) -> Tensor:
        return kl_partial_auc_loss(
            scores,
            target,
            temperature_neg=self.temperature_neg,
            temperature_pos=self.temperature_pos,
            surrogate=self.surrogate,
            margin=self.margin,
        )

    def _remembered(self, sides: Sides, own: Tensor) -> Tensor:
        rows = soft_maximum_per_positive(sides.pos, sides.neg, self.temperature_neg, self.surrogate, self.margin)
        with torch.no_grad():
            fresh = rows.detach() / self.temperature_neg
            known, place = own.unique(return_inverse=True)
            self.log_means[known] = _moved(
                self.log_means[known], _grouped_log_mean_exp(fresh, place, len(known)).to(self.log_means), self.rate_neg
            )
            log_u = self.log_means[own].to(fresh)
            log_weight = fresh - log_u
            if self.temperature_pos is None:
                estimate = self.temperature_neg * log_u.mean()
            else:
                log_v = log_u * (self.temperature_neg / self.temperature_pos)
                self.log_mean.copy_(_moved(self.log_mean, log_mean_exp(log_v).to(self.log_mean), self.rate_pos))
                log_weight = log_weight + log_v - self.log_mean.to(fresh)
                estimate = self.temperature_pos * self.log_mean.to(fresh)
        weighted = (log_weight.exp() * rows).mean()
        return estimate + (weighted - weighted.detach())

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        name = getattr(self.surrogate, "name", self.surrogate)
        return (
            f"num_samples={self.num_samples}, temperature_neg={self.temperature_neg}, "
            f"temperature_pos={self.temperature_pos}, rate_neg={self.rate_neg}, rate_pos={self.rate_pos}, "
            f"surrogate={name}, margin={self.margin}"
        )


def log_mean_exp(x: Tensor) -> Tensor:
    """log mean exp(x) of a vector.

    >>> log_mean_exp(torch.tensor([0.0, 0.0]))
    tensor(0.)
    """
    return x.logsumexp(0) - math.log(x.shape[0])


def _grouped_log_mean_exp(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """`log_mean_exp` of the members of each group, of which none is empty."""
    peak = x.new_full((groups,), -torch.inf).scatter_reduce(0, group, x, "amax")
    total = torch.zeros_like(peak).index_add_(0, group, (x - peak[group]).exp())
    return peak + (total / group.bincount(minlength=groups)).log()


def _moved(log_mean: Tensor, fresh: Tensor, rate: float) -> Tensor:
    """The logarithm of (1 − γ) u + γ times what is fresh; that alone where there is no u yet."""
    if rate == 1:
        return fresh
    mixed = torch.logaddexp(log_mean + math.log1p(-rate), fresh + math.log(rate))
    return torch.where(log_mean == -torch.inf, fresh, mixed)
