"""The divergences between a teacher p and a student q, as sums over entries, with their gradients in closed form.

    D(p‖q) = Σ_k d_k      g_k = q_k ∂D/∂q_k      ∂D/∂z_j = (g_j − q_j Σ_k g_k) / τ

z are the student's logits and τ the temperature. So a family has to say two things: for whole rows, the value and Σ g
(`rows`), and, entry by entry, g (`entries`); what the second needs from the whole row is handed on as `state`. Both
take log p, log q and Δ = log p − log q, which the caller computes as a difference of logits, more exactly than from the
two logarithms.

The α-β-divergence has one formula for all real (α, β), s = α + β (reconstructed: a second divided difference of exp(xΔ)
at the nodes 0, α, s, which is why it is never negative):

    d_k = ( q_k^s (e^{sΔ} − 1)/s − q_k^s (e^{αΔ} − 1)/α ) / β      g_k = −q_k^s (e^{αΔ} − 1)/α

a quotient (e^{cΔ} − 1)/c being Δ at c = 0. With |α| > |β| the roles of p and q are exchanged, so that the division is
by the larger. Forward KL is (1, 0), reverse KL (0, 1), (½, ½) four times the squared Hellinger distance.

Sources: Cichocki et al. 2011 by way of Wang et al., "ABKD", ICML 2025; generalised Jensen–Shannon: Agarwal et al.,
"GKD"; skew KL: Ko et al., "DistiLLM"; adaptive KL: Wu et al., "AKL"; the gradients are derived here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import OpenFraction, Positive, Probability, Real
from equipoise.core.validate import warn_once

State: TypeAlias = tuple[Tensor, ...]
"""What `entries` needs of a whole row, each (rows, 1)."""


class Rows(NamedTuple):
    """What a family says of whole rows.

    Attributes:
        value: (rows,) the divergence.
        total: (rows,) Σ g.
        state: for `entries`.
    """

    value: Tensor
    total: Tensor
    state: State = ()


@runtime_checkable
class TokenDivergence(Protocol):
    """A divergence of the form above."""

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value and Σ g of rows (rows, V); `safe` asks for the slower form that cannot overflow."""
        ...

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """g (rows, V), or of any part of the columns."""
        ...


def _scaled_expm1(c: float, x: Tensor) -> Tensor:
    """(e^{cx} − 1)/c, x at c = 0."""
    return x if c == 0 else torch.expm1(c * x).div_(c)


def _safe_scaled_expm1(c: float, v: Tensor, x: Tensor) -> Tensor:
    """e^v (e^{cx} − 1)/c without infinity times zero."""
    if c == 0:
        return x * torch.exp(v)
    x = c * x
    return torch.exp(v + x.clamp_min(0)) * -torch.expm1(-x.abs()) * torch.sign(x) / c


_TERMS = 12


def _divided_difference(a: Tensor, b: Tensor) -> Tensor:
    """exp[0, a, b] for |a|, |b| < ½, by its series Σ h_n(a, b)/(n + 2)! with h_n = a h_{n−1} + b^n."""
    total = torch.full_like(a, 0.5)
    h, power = torch.ones_like(a), torch.ones_like(a)
    for n in range(1, _TERMS):
        power = power * b
        h = a * h + power
        total = total + h / math.factorial(n + 2)
    return total


@checked
@dataclass(frozen=True)
class AlphaBeta:
    """The α-β-divergence.

    Attributes:
        alpha: how strongly large differences count (the paper's hardness concentration).
        beta: how strongly tokens count that the student likes already (confidence concentration).
    """

    alpha: Real = 1.0
    beta: Real = 0.0

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) < 0:
            warn_once(f"{self} has a negative exponent, so that it can be astronomically large")

    @property
    def _sum(self) -> float:
        """α + β, exactly 0 where the two cancel but for rounding."""
        s = self.alpha + self.beta
        return 0.0 if abs(s) <= 4 * torch.finfo(torch.float64).eps * max(abs(self.alpha), abs(self.beta)) else s

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value and Σ g, see the module."""
        alpha, beta, s = self.alpha, self.beta, self._sum
        if alpha == beta == 0:
            return Rows(delta.square().sum(1).mul_(0.5), -delta.sum(1))
        largest = max(abs(alpha), abs(beta), abs(s))
        if safe or min(alpha, beta) < 0:
            return self._safe_rows(log_p, log_q, delta)
        if beta >= alpha:
            weight, of_alpha = torch.exp(s * log_q), _scaled_expm1(alpha, delta)
            value = _scaled_expm1(s, delta).sub_(of_alpha).div_(beta).mul_(weight)
            total = -of_alpha.mul(weight).sum(1)
        else:
            weight = torch.exp(s * log_p)
            of_s, of_beta = _scaled_expm1(s, -delta), _scaled_expm1(beta, -delta)
            total = torch.add(s * of_s, of_beta, alpha=-beta).mul_(weight).sum(1) / alpha
            value = (of_s - of_beta).div_(alpha).mul_(weight)
        if largest < _SMALL:
            value = self._near(log_q, delta, value, largest)
        return Rows(value.sum(1).clamp_min_(0), total)

    def _safe_rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor) -> Rows:
        alpha, beta, s = self.alpha, self.beta, self._sum
        of_alpha = _safe_scaled_expm1(alpha, s * log_q, delta)
        if abs(beta) >= abs(alpha):
            value = (_safe_scaled_expm1(s, s * log_q, delta) - of_alpha) / beta
        else:
            value = (_safe_scaled_expm1(s, s * log_p, -delta) - _safe_scaled_expm1(beta, s * log_p, -delta)) / alpha
        value = self._near(log_q, delta, value, max(abs(alpha), abs(beta), abs(s)))
        return Rows(value.sum(1).clamp_min_(0), -of_alpha.sum(1))

    def _near(self, log_q: Tensor, delta: Tensor, value: Tensor, largest: float) -> Tensor:
        """The series in place of the difference of two quotients, where that would leave few digits."""
        near = delta.abs() * largest < _NEAR
        close = delta.where(near, 0)
        series = _divided_difference(self.alpha * close, self._sum * close)
        return torch.where(near, torch.exp(self._sum * log_q) * close.square() * series, value)

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """g, see the module."""
        if safe or min(self.alpha, self.beta) < 0:
            return -_safe_scaled_expm1(self.alpha, self._sum * log_q, delta)
        if self._sum == 0:
            return -_scaled_expm1(self.alpha, delta)
        return torch.exp(self._sum * log_q).neg_().mul_(_scaled_expm1(self.alpha, delta))


_SMALL = 0.1
"""Where the exponents are below it, dividing by the larger one costs digits, and the series is worth its price."""
_NEAR = 0.5

FORWARD_KL = AlphaBeta(1, 0)
REVERSE_KL = AlphaBeta(0, 1)


def _to_mixture(delta: Tensor, of_p: float) -> tuple[Tensor, Tensor]:
    """log p − log m and log q − log m for m = of_p·p + (1 − of_p)·q, neither of which can overflow."""
    share = torch.where(delta > 0, 1 - of_p, of_p)
    rest = torch.log1p(torch.expm1(-delta.abs()).mul_(share)).neg_()
    return rest + delta.clamp_max(0), rest - delta.clamp_min(0)


def _gap(log_p: Tensor, log_q: Tensor, delta: Tensor) -> Tensor:
    """q − p, to full precision where the two are close."""
    return torch.exp(torch.maximum(log_p, log_q)).mul_(torch.expm1(-delta.abs())).mul_(torch.sign(delta))


@checked
@dataclass(frozen=True)
class JensenShannon:
    """β KL(p‖m) + (1 − β) KL(q‖m) with m = βp + (1 − β)q.

    At β = 0 it is the forward KL and at β = 1 the reverse KL, as users of generalised knowledge distillation expect.
    Those are *not* its limits: it tends to 0 there, only its quotient with β tends to the forward KL.

    Attributes:
        beta: weight of the teacher in the mixture.
    """

    beta: Probability = 0.5

    def __post_init__(self) -> None:
        if 0 < min(self.beta, 1 - self.beta) < 1e-3:
            warn_once(f"{self} nearly vanishes; at 0 and 1 exactly it is the KL")

    @property
    def _end(self) -> AlphaBeta | None:
        return {0.0: FORWARD_KL, 1.0: REVERSE_KL}.get(self.beta)

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value and Σ g = Σ (1 − β) q log(q/m)."""
        if self._end is not None:
            return self._end.rows(log_p, log_q, delta, safe=safe)
        to_p, to_q = _to_mixture(delta, self.beta)
        of_q = torch.exp(log_q).mul_(to_q).sum(1).mul_(1 - self.beta)
        return Rows((torch.exp(log_p).mul_(to_p).sum(1) * self.beta + of_q).clamp_min_(0), of_q)

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """(1 − β) q log(q/m)."""
        if self._end is not None:
            return self._end.entries(log_p, log_q, delta, state, safe=safe)
        return torch.exp(log_q).mul_(_to_mixture(delta, self.beta)[1]).mul_(1 - self.beta)


@checked
@dataclass(frozen=True)
class SkewForwardKL:
    """KL(p ‖ λp + (1 − λ)q).

    Attributes:
        lam: λ, the teacher's share in the mixture; DistiLLM takes 0.1.
    """

    lam: Probability = 0.1

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value and Σ g = −(1 − λ) Σ p q/m."""
        if self.lam == 0:
            return FORWARD_KL.rows(log_p, log_q, delta, safe=safe)
        to_p, to_q = _to_mixture(delta, self.lam)
        # Σ (m − p) is 0; with it every summand is of second order in Δ, as the divergence is.
        value = torch.exp(log_p).mul_(to_p).add_(_gap(log_p, log_q, delta), alpha=1 - self.lam).sum(1)
        return Rows(value.clamp_min_(0), torch.exp(log_p + to_q).sum(1).mul_(self.lam - 1))

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """−(1 − λ) p q/m."""
        if self.lam == 0:
            return FORWARD_KL.entries(log_p, log_q, delta, state, safe=safe)
        return torch.exp(log_p + _to_mixture(delta, self.lam)[1]).mul_(self.lam - 1)


@checked
@dataclass(frozen=True)
class SkewReverseKL:
    """KL(q ‖ (1 − λ)p + λq).

    Attributes:
        lam: λ, the student's share in the mixture; DistiLLM takes 0.1.
    """

    lam: Probability = 0.1

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value and Σ g = Σ q (log(q/m) + 1 − λ q/m)."""
        if self.lam == 0:
            return REVERSE_KL.rows(log_p, log_q, delta, safe=safe)
        q, to_q = torch.exp(log_q), _to_mixture(delta, 1 - self.lam)[1]
        value = (q * to_q).sub_(_gap(log_p, log_q, delta), alpha=1 - self.lam).sum(1)
        return Rows(value.clamp_min_(0), q.mul_(self._slope(to_q)).sum(1))

    def _slope(self, to_q: Tensor) -> Tensor:
        return torch.exp(to_q).mul_(-self.lam).add_(to_q).add_(1)

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """q (log(q/m) + 1 − λ q/m)."""
        if self.lam == 0:
            return REVERSE_KL.entries(log_p, log_q, delta, state, safe=safe)
        return torch.exp(log_q).mul_(self._slope(_to_mixture(delta, 1 - self.lam)[1]))


@dataclass(frozen=True)
class TotalVariation:
    """½ Σ |p − q|; its subgradient is 0 where p = q."""

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value and Σ g."""
        value = _gap(log_p, log_q, delta).abs_().sum(1).mul_(0.5)
        return Rows(value, torch.exp(log_q).mul_(torch.sign(delta)).sum(1).mul_(-0.5))

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """½ q sign(q − p)."""
        return torch.exp(log_q).mul_(torch.sign(delta)).mul_(-0.5)


class _BothKLs(ABC):
    """w_f KL(p‖q) + w_r KL(q‖p) with weights of every row, which carry no gradient."""

    @abstractmethod
    def _weights(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """(rows,) w_f and w_r."""

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value, Σ g, and the two weights."""
        forward, reverse = self._weights(log_p, log_q)
        first = FORWARD_KL.rows(log_p, log_q, delta, safe=safe)
        second = REVERSE_KL.rows(log_p, log_q, delta, safe=safe)
        value = forward * first.value + reverse * second.value
        return Rows(value, forward * first.total + reverse * second.total, (forward[:, None], reverse[:, None]))

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """The weighted sum of both gradients."""
        forward, reverse = state
        first = FORWARD_KL.entries(log_p, log_q, delta, (), safe=safe)
        second = REVERSE_KL.entries(log_p, log_q, delta, (), safe=safe)
        return first.mul_(forward).add_(second.mul_(reverse))


@checked
@dataclass(frozen=True)
class WeightedKL(_BothKLs):
    """(1 − λ) KL(p‖q) + λ KL(q‖p).

    Attributes:
        lam: λ, the weight of the reverse KL.
    """

    lam: Probability = 0.5

    def _weights(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        one = log_p.new_ones(len(log_p))
        return one * (1 - self.lam), one * self.lam


@checked
@dataclass(frozen=True)
class AdaptiveKL(_BothKLs):
    """Forward KL as far as teacher and student differ on the teacher's likely tokens, reverse KL as far as elsewhere.

    The head is the teacher's most likely token and, in order, those whose cumulative probability is at most μ. The
    weight of the forward KL is the head's share in Σ |p − q|, ½ where p = q.

    Attributes:
        mu: μ.
    """

    mu: Probability = 0.5

    def _weights(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        p, order = torch.exp(log_p).sort(dim=1, descending=True, stable=True)
        head = p.cumsum(1) <= self.mu
        head[:, 0] = True
        gap = (p - torch.exp(log_q).gather(1, order)).abs_()
        total = gap.sum(1)
        share = (gap * head).sum(1) / total.where(total > 0, 1)
        share = share.where(total > 0, 0.5)
        return share, 1 - share


@checked
@dataclass(frozen=True)
class EntropyWeightedKL(_BothKLs):
    """Both KLs, that of the less certain side weighted up: the forward KL where the teacher's entropy is larger.

    Baseline of the paper's tables, known to us from its code only, where it is never reached (reconstructed).

    Attributes:
        weight: of the favoured one; the other has weight 1.
    """

    weight: Positive = 3.0

    def _weights(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        teacher, student = entropy(log_p), entropy(log_q)
        one = torch.ones_like(teacher)
        return torch.where(teacher > student, self.weight, one), torch.where(student > teacher, self.weight, one)


@checked
@dataclass(frozen=True)
class LargerAlpha:
    """The larger of two α-divergences (s = 1) of every row, as AlphaNet takes (reconstructed).

    The authors of the α-β paper take the larger of two means over the batch; here each row has its own.

    Attributes:
        first: α of one, its β is 1 − α.
        second: α of the other.
    """

    first: OpenFraction = 0.2
    second: OpenFraction = 0.8

    @property
    def _both(self) -> tuple[AlphaBeta, AlphaBeta]:
        return AlphaBeta(self.first, 1 - self.first), AlphaBeta(self.second, 1 - self.second)

    def rows(self, log_p: Tensor, log_q: Tensor, delta: Tensor, *, safe: bool = False) -> Rows:
        """Value and Σ g of the larger, and whether that is the first."""
        one, other = (each.rows(log_p, log_q, delta, safe=safe) for each in self._both)
        wins = one.value >= other.value
        return Rows(
            torch.maximum(one.value, other.value), torch.where(wins, one.total, other.total), (wins.to(delta)[:, None],)
        )

    def entries(self, log_p: Tensor, log_q: Tensor, delta: Tensor, state: State, *, safe: bool = False) -> Tensor:
        """g of the larger."""
        one, other = (each.entries(log_p, log_q, delta, (), safe=safe) for each in self._both)
        return torch.where(state[0] > 0, one, other)


def entropy(log_p: Tensor) -> Tensor:
    """−Σ p log p of rows, in nats; an entry of probability 0 counts 0."""
    return torch.special.entr(torch.exp(log_p)).sum(1)


DivergenceName: TypeAlias = Literal[
    "forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "tvd", "weighted_kl", "adaptive_kl"
]
_NAMED: dict[str, Callable[[], TokenDivergence]] = {
    "forward_kl": lambda: FORWARD_KL,
    "reverse_kl": lambda: REVERSE_KL,
    "jsd": JensenShannon,
    "skew_forward_kl": SkewForwardKL,
    "skew_reverse_kl": SkewReverseKL,
    "tvd": TotalVariation,
    "weighted_kl": WeightedKL,
    "adaptive_kl": AdaptiveKL,
}


def resolve_divergence(divergence: DivergenceName | TokenDivergence) -> TokenDivergence:
    """The family of a name with its usual settings, or the family itself.

    Raises:
        ValueError: if the name is not known, or the object is no family.

    >>> resolve_divergence("jsd")
    JensenShannon(beta=0.5)
    """
    if not isinstance(divergence, str):
        if isinstance(divergence, type) or not isinstance(divergence, TokenDivergence):
            given = divergence.__name__ if isinstance(divergence, type) else repr(divergence)
            raise ValueError(
                f"divergence={given} is no divergence; pass a name such as 'forward_kl', or an object such as "
                "JensenShannon(0.1)"
            )
        return divergence
    if divergence not in _NAMED:
        raise ValueError(f"divergence={divergence!r} is not known; choose one of {', '.join(map(repr, _NAMED))}")
    return _NAMED[divergence]()
