"""The convex problem of the distributional margin over Gram matrices, solved.

p = 2: accelerated projected gradient with restarts, G ← clip(G − ∇/L − λ/L) on the spectrum, L = 2 ‖A‖². p = 1:
alternating directions with one split variable, E = γ₀ − m, and a penalty that keeps both residuals of one size. Either
ends with a bound of how far the objective is from the optimum, from the dual problem

    max over y of  γ₀ Σ y − Σ conjugate(y)        subject to  Aᵀ y ⪯ λ I

(derived here). With one of the two weights 0 it is the hinge or squared hinge of GNMDS on the same matrices.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive
from equipoise.core.validate import warn_once
from equipoise.crowd.embedding.distributional import shrunk_spectrum, solve_normal
from equipoise.crowd.embedding.losses import Power
from equipoise.crowd.embedding.margins import AnswerMap, Gram, as_answers, check_gram

Solver: TypeAlias = Literal["auto", "gradient", "admm"]
_SETTLED = 5
_BALANCE_EVERY, _UNBALANCED, _TURN = 10, 5.0, 2.0
_RELAXED = 1.6
_RANGE = 1e4
# Beside what there was at the start.
_NOTHING = 1e-4
# A margin this small beside γ₀ is what a solver leaves of 0.
_ROUNDING = 1e-9
_CG_TOL = 1e-9
# Of residuals, which are of the first order where the change of the objective is of the second.
_LOOSER = 100.0


class GramFit(NamedTuple):
    """A solution.

    Attributes:
        gram: (n, n) positive semidefinite, in float64.
        objective: its objective.
        train_error: share of answers that are not kept; a margin of 0, up to rounding, is not.
        margins: (t,).
        history: the objective after each step.
        gap: a bound of the objective less its optimum; infinite where λ = 0 gives none.
        converged: whether it settled within the steps allowed.
    """

    gram: Tensor
    objective: float
    train_error: float
    margins: Tensor
    history: list[float]
    gap: float
    converged: bool


@checked
def dmoe_fit(
    triplets: Integer[Tensor, "t _"],
    n_items: Count | None = None,
    p: Power = 2,
    gamma0: Positive = 1.0,
    lam: NonNegative = 1.0,
    *,
    lower_weight: NonNegative = 1.0,
    upper_weight: NonNegative = 1.0,
    solver: Solver = "auto",
    start: Gram | None = None,
    max_iter: Count = 5000,
    tol: Positive = 1e-8,
) -> GramFit:
    """The Gram matrix of the distributional margin.

    Args:
        triplets: (t, 3) anchor, near, far, or (t, 4) quadruples.
        n_items: n; one more than the largest index by default.
        p: 1 or 2.
        gamma0: γ₀.
        lam: λ of the trace.
        lower_weight: of margins below γ₀.
        upper_weight: of margins above γ₀.
        solver: "gradient" (p = 2 only), "admm", or "auto" for the faster one.
        start: (n, n) to begin with, such as the solution for a larger λ.
        max_iter: steps at most.
        tol: relative change of the objective, or of the residuals, at which it is settled.

    Raises:
        ValueError: naming the first bad row, or on a bad argument, by name.

    >>> found = dmoe_fit(torch.tensor([[0, 1, 2], [1, 0, 2]]), lam=0.1)
    >>> found.train_error, found.gap < 1e-5
    (0.0, True)
    """
    quads, n = as_answers(triplets, n_items)
    if start is not None:
        check_gram(start, "start")
        if len(start) != n:
            raise ValueError(f"start must have shape ({n}, {n}), a row for each item, got {tuple(start.shape)}")
    if solver == "gradient" and p == 1:
        raise ValueError("solver='gradient' needs p=2, whose penalty is smooth; use 'admm' or 'auto'")
    problem = _Problem(AnswerMap(quads, n), p, gamma0, lam, lower_weight, upper_weight)
    gram = torch.zeros(n, n, dtype=torch.float64) if start is None else start.detach().double()
    solve = problem.by_admm if solver == "admm" or p == 1 else problem.by_gradient
    gram, dual, history, converged = solve(gram, max_iter, tol)
    margin = problem.answers.of_gram(gram)
    objective = problem.objective(gram, margin)
    if not converged:
        warn_once(
            f"dmoe_fit stopped after max_iter={max_iter} steps before the objective settled; raise max_iter or tol"
        )
    gap = problem.gap(objective, dual)
    error = float((margin <= _ROUNDING * gamma0).double().mean())
    return GramFit(gram, objective, error, margin, history, gap, converged)


class _Problem:
    """Σ weight · |γ₀ − m|^p + λ tr G over G ⪰ 0."""

    def __init__(
        self, answers: AnswerMap, p: int, gamma0: float, lam: float, lower_weight: float, upper_weight: float
    ) -> None:
        self.answers, self.p, self.gamma0, self.lam = answers, p, gamma0, lam
        self.lower, self.upper = lower_weight, upper_weight

    def objective(self, gram: Tensor, margin: Tensor) -> float:
        lack = self.gamma0 - margin
        return float((self._weight(lack) * lack.abs() ** self.p).sum() + self.lam * gram.diagonal().sum())

    def by_gradient(self, gram: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor, list[float], bool]:
        answers = self.answers
        curvature = 2 * max(self.lower, self.upper, 1e-12) * answers.squared_norm()
        at, momentum, settled = gram, 1.0, 0
        history = [self.objective(gram, answers.of_gram(gram))]
        margin = answers.of_gram(gram)
        margin_at = margin
        for _ in range(max_iter):
            slope = answers.transposed(-self._pull(self.gamma0 - margin_at))
            after = shrunk_spectrum(at - slope / curvature, self.lam / curvature)
            margin_after = answers.of_gram(after)
            if float(((at - after) * (after - gram)).sum()) > 0:
                at, margin_at, next_momentum = after, margin_after, 1.0
            else:
                next_momentum = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
                ahead = (momentum - 1) / next_momentum
                at, margin_at = after + ahead * (after - gram), margin_after + ahead * (margin_after - margin)
            gram, margin, momentum = after, margin_after, next_momentum
            history.append(self.objective(gram, margin))
            change = abs(history[-2] - history[-1])
            # A change of momentum may look settled for one step.
            settled = settled + 1 if change <= tol * max(history[-1], _NOTHING * history[0]) else 0
            if settled >= _SETTLED:
                break
        return gram, self._pull(self.gamma0 - margin), history, settled >= _SETTLED

    def by_admm(self, gram: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor, list[float], bool]:
        answers, gamma = self.answers, self.gamma0
        # A threshold 1/μ of the size of the margins wanted.
        mu = 1 / gamma if self.p == 1 else 1.0
        least, most = mu / _RANGE, mu * _RANGE
        copy, tied = gram, gram
        lack = gamma - answers.of_gram(copy)
        dual, dual_gram = torch.zeros_like(lack), torch.zeros_like(gram)
        history: list[float] = []
        for step in range(max_iter):
            before = lack, copy
            wanted = answers.transposed(gamma - lack + dual) + copy - dual_gram
            tied = solve_normal(answers, wanted, tied, _CG_TOL)
            lack_tied = gamma - answers.of_gram(tied)
            # Beyond the new point, which is faster.
            far, far_gram = (_RELAXED * a + (1 - _RELAXED) * b for a, b in ((lack_tied, lack), (tied, copy)))
            lack, copy = self._prox(far + dual, mu), shrunk_spectrum(far_gram + dual_gram, self.lam / mu)
            dual, dual_gram = dual + far - lack, dual_gram + far_gram - copy
            history.append(self.objective(copy, answers.of_gram(copy)))
            primal = math.hypot(float((lack_tied - lack).norm()), float((tied - copy).norm()))
            moved = math.hypot(float((lack - before[0]).norm()), float((copy - before[1]).norm()))
            size = max(float(lack.norm()), gamma * len(lack) ** 0.5)
            # Where nothing has a price at the optimum, moves are small beside the copies.
            price = max(math.hypot(float(dual.norm()), float(dual_gram.norm())), _NOTHING * size)
            if primal <= _LOOSER * tol * size and moved <= _LOOSER * tol * price:
                return copy, mu * dual, history, True
            if step % _BALANCE_EVERY == _BALANCE_EVERY - 1:
                if self.gap(history[-1], mu * dual) <= _LOOSER * tol * history[-1]:
                    return copy, mu * dual, history, True
                ratio = primal / size / max(moved / price, 1e-300)
                turn = _TURN if ratio > _UNBALANCED else 1 / _TURN if ratio < 1 / _UNBALANCED else 1.0
                if least < mu * turn < most:
                    mu, dual, dual_gram = mu * turn, dual / turn, dual_gram / turn
        return copy, mu * dual, history, False

    def gap(self, objective: float, dual: Tensor) -> float:
        """The objective less a value of the dual problem that is feasible."""
        if self.p == 1:
            y = dual.clamp(-self.upper, self.lower)
        else:
            # What has no weight has no price.
            y = dual.clamp(-math.inf if self.upper else 0.0, math.inf if self.lower else 0.0)
        top = float(torch.linalg.eigvalsh(self.answers.transposed(y))[-1])
        if top > self.lam:
            y = y * (self.lam / top)
        value = self.gamma0 * float(y.sum())
        if self.p == 2:
            value -= float((y.square() / (4 * self._weight(y).clamp_min(1e-300))).sum())
        return objective - value if self.lam > 0 else math.inf

    def _weight(self, lack: Tensor) -> Tensor:
        return torch.where(lack > 0, lack.new_tensor(self.lower), lack.new_tensor(self.upper))

    def _pull(self, lack: Tensor) -> Tensor:
        """The slope of the penalty in γ₀ − m, p = 2."""
        return 2 * self._weight(lack) * lack

    def _prox(self, s: Tensor, mu: float) -> Tensor:
        weight = self._weight(s)
        if self.p == 2:
            return s / (1 + 2 * weight / mu)
        return s.sign() * (s.abs() - weight / mu).clamp_min(0)
