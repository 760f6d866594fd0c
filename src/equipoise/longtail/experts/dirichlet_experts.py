"""Experts for test sets whose class mix is not known: head-heavy, even, tail-heavy, and what lies around each.

    q ~ Dir(α_k), α_k = a₀ π, a₀/C 1, a₀ inv(π)              a label distribution near the centre of expert k
    l_t = mean_i CE(z_{k_t} − τ (log q_t − log π), y_i)       the expert's loss if the test set had the mix q_t
    L = m + λ V₊,   m = mean_t l_t,   V₊ = 1/D Σ_{l_t > m} (l_t − m)²       λ only in the last part of training

inv(π) gives the largest share to the rarest class. A trial's log-sum-exp over classes of z − a is a product of two
exponentials, so all trials of an expert cost one matrix product.

"Harnessing Hierarchical Label Distribution Variations in Test Agnostic Long-tail Recognition", ICML 2024 (DirMixE); the
baseline `DiverseExpertLoss` is SADE (Zhang et al., 2022), as the authors' code has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from equipoise.core.class_stats import ClassStats
from equipoise.core.phases import Phased
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Count, NonNegative, Positive, Probability, Whole

Centre: TypeAlias = Literal["forward", "uniform", "backward"]
SemivarianceNorm: TypeAlias = Literal["above", "total", "total-1"]
ExpertLogits: TypeAlias = Float[Tensor, "experts n classes"]
Prior: TypeAlias = Float[Tensor, " classes"]

# Shares below this are lifted to it: log 0 has no gradient.
_FLOOR = 1e-8
# The matrix product holds exp of this range of adjustments with all its digits.
_RANGE = 40.0


class Trials(NamedTuple):
    """Label distributions that a test set might have, and the expert of each.

    Attributes:
        distributions: (M, C) positive rows that sum to 1.
        component: (M,) index of the expert.
    """

    distributions: Float[Tensor, "m c"]
    component: Int[Tensor, " m"]


class DirMixE(NamedTuple):
    """What a batch gave.

    Attributes:
        loss: m + λ V₊.
        mean: m.
        semivariance: V₊.
        trial_losses: (M,) l_t.
    """

    loss: Float[Tensor, ""]
    mean: Float[Tensor, ""]
    semivariance: Float[Tensor, ""]
    trial_losses: Float[Tensor, " m"]


def inverse_prior(prior: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """The shares dealt out again, the largest to the rarest class, the smallest to the most frequent.

    Of equal shares the class with the smaller index counts as rarer.

    >>> inverse_prior(torch.tensor([0.7, 0.2, 0.1]))
    tensor([0.1000, 0.2000, 0.7000])
    """
    order = prior.argsort(stable=True)
    return torch.empty_like(prior).scatter(0, order, prior[order].flip(0))


class DirichletMixture:
    """Where trials are drawn from: one Dirichlet distribution around each centre.

    Args:
        class_counts: training samples per class.
        concentration: a₀, above 0; the larger, the closer trials are to their centre.
        centres: of "forward" (the training mix), "uniform" and "backward" (inverted), or label distributions (C,).
        weights: how likely each centre is; alike if absent.

    >>> mixture = DirichletMixture([90, 9, 1], concentration=1000.0)
    >>> trials = mixture.sample(5, torch.Generator().manual_seed(0))
    >>> trials.distributions.shape, mixture.alpha[2]
    (torch.Size([5, 3]), tensor([ 10.,  90., 900.], dtype=torch.float64))
    """

    @checked
    def __init__(
        self,
        class_counts: Any,
        concentration: Positive = 1e4,
        centres: Sequence[Centre | Float[Tensor, " classes"]] = get_args(Centre),
        weights: Sequence[NonNegative] | None = None,
    ) -> None:
        stats = ClassStats.of(class_counts)
        rows = [_centre(centre, stats) for centre in centres]
        if not rows:
            raise ValueError("centres is empty; a mixture needs at least one")
        self.prior, self.alpha = stats.prior, concentration * torch.stack(rows)
        shares = torch.ones(len(rows)) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        if shares.shape != (len(rows),) or not float(shares.sum()) > 0:
            raise ValueError(f"weights must hold {len(rows)} numbers that are not negative, with a positive sum")
        self.weights = shares / shares.sum()

    @property
    def num_experts(self) -> int:
        """K, one per centre."""
        return len(self.alpha)

    @checked
    def sample(self, trials: Count, generator: torch.Generator | None = None) -> Trials:
        """Draw trials; shares below 1e-8 are lifted to that, and the row divided by its sum again."""
        component = torch.multinomial(self.weights, trials, replacement=True, generator=generator)
        gamma = torch._standard_gamma(self.alpha[component], generator=generator)
        drawn = gamma / gamma.sum(1, keepdim=True).clamp_min(1e-300)
        lifted = drawn.clamp_min(_FLOOR)
        return Trials(lifted / lifted.sum(1, keepdim=True), component)


@checked
def dirmixe_loss(
    expert_logits: ExpertLogits,
    target: ClassTarget,
    prior: Prior,
    trials: Trials,
    *,
    power: NonNegative = 1.3,
    lambda_var: NonNegative = 5.0,
    semivariance_norm: SemivarianceNorm = "above",
    eps: NonNegative = 1e-9,
) -> DirMixE:
    """The mean over trials of the logit-adjusted loss, and the semi-variance of those above it.

    Args:
        expert_logits: (K, n, C).
        target: (n,) classes.
        prior: (C,) training shares, positive, sum 1.
        trials: label distributions and their experts.
        power: τ, at least 0.
        lambda_var: λ, at least 0.
        semivariance_norm: D: "above" (the number of trials above the mean, less one, at least 1: the authors' code),
            "total" (M) or "total-1".
        eps: added inside the logarithm, log(q^τ / π^τ + eps), as the authors do.

    Returns:
        Gradients flow through the mean inside V₊, too.

    Raises:
        ValueError: on distributions that are not positive or do not sum to 1, or experts out of range.

    >>> mixture = DirichletMixture([90, 10])
    >>> logits = torch.zeros(3, 4, 2)
    >>> found = dirmixe_loss(logits, torch.tensor([0, 0, 1, 1]), mixture.prior, mixture.sample(6))
    >>> found.trial_losses.shape
    torch.Size([6])
    """
    _check(expert_logits, prior, trials)
    q, p = (shares.to(expert_logits.device).double() for shares in (trials.distributions, prior))
    adjust = (q.pow(power) / p.pow(power) + eps).log().to(expert_logits.dtype)
    losses = _trial_losses(expert_logits, target, adjust, trials.component.to(expert_logits.device))
    mean = losses.mean()
    above = losses > mean
    number = int(above.sum())
    divisor = {"above": max(number - 1, 1), "total": len(losses), "total-1": max(len(losses) - 1, 1)}
    excess = torch.where(above, losses - mean, 0.0)
    semivariance = excess.square().sum() / divisor[semivariance_norm]
    return DirMixE(mean + lambda_var * semivariance, mean, semivariance, losses)


def _trial_losses(logits: Tensor, target: Tensor, adjust: Tensor, component: Tensor) -> Tensor:
    found = logits.new_empty(len(adjust))
    for k in range(len(logits)):
        mine = (component == k).nonzero().squeeze(1)
        if not len(mine):
            continue
        z, a = logits[k] - logits[k].detach().amax(1, keepdim=True), adjust[mine]
        own = a[:, target] - z.gather(1, target[:, None]).T
        low = a.amin(1, keepdim=True)
        if float((a.amax(1, keepdim=True) - low).max()) < _RANGE:
            # log Σ_c exp(z_c − a_c) of every pair of sample and trial, from one product.
            with torch.autocast(z.device.type, enabled=False):
                sums = z.exp() @ (low - a).exp().T
            # A sample whose top classes are all far down in a trial underflows; it is done one by one.
            if float(sums.detach().min()) > torch.finfo(sums.dtype).tiny * 1e6:
                found = found.index_put((mine,), (own + (sums.log() - low.T).T).mean(1))
                continue
        for trial, row in zip(mine.tolist(), a, strict=True):
            found = found.index_put((torch.tensor([trial], device=z.device),), cross_entropy(z - row, target)[None])
    return found


class DirMixELoss(Phased):
    """`dirmixe_loss` with trials drawn anew for every batch; the semi-variance counts in the last epochs only.

    Args:
        mixture: where trials come from; as many experts as it has centres.
        power: as in `dirmixe_loss`.
        lambda_var: as in `dirmixe_loss`; a large one early diverges, so keep the late start and clip gradients.
        start: share of the epochs without the semi-variance, in [0, 1].
        trials: M, drawn for every batch.
        semivariance_norm: as in `dirmixe_loss`.
        seed: of the trials.

    >>> x, y = torch.randn(60, 3), torch.arange(60) % 6 // 5
    >>> model = torch.nn.Linear(3, 6)
    >>> loss = DirMixELoss(DirichletMixture([50, 10]), trials=12)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for epoch in range(5):
    ...     loss.set_epoch(epoch, 5)
    ...     optimizer.zero_grad()
    ...     loss(model(x).view(60, 3, 2).transpose(0, 1), y).backward()
    ...     optimizer.step()
    >>> loss.current_lambda
    5.0
    """

    @checked
    def __init__(
        self,
        mixture: DirichletMixture,
        power: NonNegative = 1.3,
        lambda_var: NonNegative = 5.0,
        start: Probability = 0.8,
        trials: Count = 60,
        semivariance_norm: SemivarianceNorm = "above",
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        self.mixture, self.power, self.lambda_var, self.start = mixture, power, lambda_var, start
        self.trials, self.semivariance_norm = trials, semivariance_norm
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def current_lambda(self) -> float:
        """λ in the epoch in progress: 0 before the last part."""
        if not self.total_epochs:
            return 0.0
        return self.lambda_var if self.epoch >= math.floor(self.start * self.total_epochs + 1e-9) else 0.0

    @checked
    def forward(
        self, expert_logits: ExpertLogits, target: ClassTarget, trials: Trials | None = None
    ) -> Float[Tensor, ""]:
        """The loss of logits (K, n, C) by classes (n,), on the trials given or on new ones."""
        drawn = self.mixture.sample(self.trials, self._generator) if trials is None else trials
        if len(expert_logits) != self.mixture.num_experts:
            raise ValueError(
                f"expert_logits must have shape (K, n, C) with K = {self.mixture.num_experts}, one expert per centre; "
                f"got {tuple(expert_logits.shape)}"
            )
        return dirmixe_loss(
            expert_logits,
            target,
            self.mixture.prior,
            drawn,
            power=self.power,
            lambda_var=self.current_lambda,
            semivariance_norm=self.semivariance_norm,
        ).loss

    def get_extra_state(self) -> Tensor:
        """The state of the random numbers, so that a resumed run draws the same trials."""
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Set what `get_extra_state` gave."""
        self._generator.set_state(state)


@checked
def diverse_expert_loss(
    expert_logits: Float[Tensor, "3 n classes"],
    target: ClassTarget,
    prior: Prior,
    *,
    tau: NonNegative = 2.0,
    eps: NonNegative = 1e-9,
) -> Float[Tensor, ""]:
    """SADE: three experts for the training mix, an even one and an inverted one; the sum of their losses.

    CE(z₀) + CE(z₁ + log π) + CE(z₂ + log π − τ log inv(π)), eps added inside the logarithms.

    Raises:
        ValueError: on a prior that is not positive with sum 1.

    >>> diverse_expert_loss(torch.zeros(3, 1, 2), torch.tensor([0]), torch.tensor([0.5, 0.5]), tau=1.0)
    tensor(2.0794)
    """
    _check_distributions("prior", prior[None], expert_logits.shape[2])
    p = prior.to(expert_logits)
    train, inverse = (p + eps).log(), (inverse_prior(p) + eps).log()
    shifts = (torch.zeros_like(train), train, train - tau * inverse)
    losses = [cross_entropy(z + shift, target) for z, shift in zip(expert_logits, shifts, strict=True)]
    return torch.stack(losses).sum()


def _centre(centre: str | Tensor, stats: ClassStats) -> Tensor:
    if isinstance(centre, str):
        prior = stats.prior
        if centre == "uniform":
            return torch.full_like(prior, 1 / len(prior))
        return prior if centre == "forward" else inverse_prior(prior)
    held = centre.detach().double().cpu()
    _check_distributions("centres", held[None], stats.num_classes)
    return held


def _check_distributions(name: str, rows: Tensor, num_classes: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != num_classes:
        raise ValueError(f"{name} must have {num_classes} shares, one per class, got {tuple(rows.shape)}")
    if not (bool((rows > 0).all()) and bool(((rows.sum(1) - 1).abs() <= 1e-4).all())):
        raise ValueError(f"{name} must hold positive shares that sum to 1; lift zeros to a small number")


def _check(expert_logits: Tensor, prior: Tensor, trials: Trials) -> None:
    experts, _, classes = expert_logits.shape
    _check_distributions("prior", prior[None], classes)
    _check_distributions("trials.distributions", trials.distributions, classes)
    component = trials.component
    fits = component.shape == trials.distributions.shape[:1]
    if not fits or not 0 <= int(component.min()) <= int(component.max()) < experts:
        raise ValueError(f"trials.component must hold an expert from 0 to {experts - 1} for every distribution")
