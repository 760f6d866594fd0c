"""Embeddings of given dimension: the mean loss of answers over points, by L-BFGS on all answers at once.

    min over X (n × d) of  mean_q loss(d²_near, d²_far)  +  λ/t ‖X‖²

Not convex, with n d unknowns. A slope in a squared distance moves both ends of its pair,

    ∂/∂x_i = 2 g (x_i − x_j),   ∂/∂x_j = −2 g (x_i − x_j)

so that an evaluation is a gather and a scatter over pairs of items, of which there are never more than n (n − 1)/2
however many answers there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.crowd.embedding.losses import Kind, losses_of_distances
from equipoise.crowd.embedding.margins import AnswerMap

_MEMORY = 20
_FLAT = 1e-9
# Beyond this a spectrum takes longer than the fit that it starts.
_MOST_SPECTRAL = 1500


class PointsFit(NamedTuple):
    """Points and how they were reached.

    Attributes:
        points: (n, d).
        objective: mean loss with the ridge.
        history: the objective at every evaluation of the run that was kept.
        converged: whether it settled within the steps allowed.
    """

    points: Tensor
    objective: float
    history: list[float]
    converged: bool


class PointsObjective:
    """The objective and its gradient in points.

    Args:
        answers: the answers.
        kind: of loss.
        lam: λ, of the sum of squares, against the sum of losses.
        settings: of `losses_of_distances`.
        held: (m, d) first points, which do not move; None where all move.
    """

    def __init__(
        self, answers: AnswerMap, kind: Kind, lam: float, settings: dict[str, Any], held: Tensor | None = None
    ) -> None:
        self.answers, self.kind, self.lam, self.settings, self.held = answers, kind, lam, settings, held

    def __call__(self, points: Tensor) -> tuple[float, Tensor]:
        """The value and the gradient at points that move."""
        answers = self.answers
        everything = points if self.held is None else torch.cat([self.held, points])
        squared, between = answers.squared_of_points(everything)
        near, far = (squared[place].requires_grad_() for place in (answers.near, answers.far))
        with torch.enable_grad():
            loss = losses_of_distances(near, far, self.kind, **self.settings).mean()
            slopes = torch.autograd.grad(loss, (near, far))
        gradient = answers.spread(answers.per_pair(*slopes), between)
        if self.held is not None:
            gradient = gradient[len(self.held) :]
        ridge = self.lam / len(answers)
        return float(loss.detach() + ridge * points.square().sum()), gradient + 2 * ridge * points


def fit_points(objective: PointsObjective, start: Tensor, max_iter: int, tol: float) -> PointsFit:
    """Points from a start (n, d) in float64, by L-BFGS with strong Wolfe line searches.

    Args:
        objective: what is made small.
        start: left as it is.
        max_iter: steps at most.
        tol: relative change of the objective at which it is settled.
    """
    points = start.clone().requires_grad_()
    history: list[float] = []

    def closure() -> float:
        value, points.grad = objective(points.detach())
        history.append(value)
        return value

    solver = torch.optim.LBFGS(
        [points],
        max_iter=max_iter,
        max_eval=2 * max_iter,
        history_size=_MEMORY,
        tolerance_grad=_FLAT,
        tolerance_change=tol * max(abs(objective(start)[0]), 1e-12),
        line_search_fn="strong_wolfe",
    )
    solver.step(closure)
    steps = int(solver.state[points]["n_iter"])
    found = points.detach()
    return PointsFit(found, objective(found)[0], history, steps < max_iter)


def spectral_start(answers: AnswerMap, dim: int, size: float) -> Tensor | None:
    """(n, d): the top of the matrix Aᵀ1, the direction in which all margins grow at once from nothing.

    Scaled so that the mean margin is `size`; None where there is nothing to scale, or too many items.
    """
    if answers.num_items > _MOST_SPECTRAL:
        return None
    growth = answers.transposed(torch.ones(len(answers), dtype=torch.float64))
    points = points_of_gram(growth, dim)
    squared, _ = answers.squared_of_points(points)
    mean = float((squared[answers.far] - squared[answers.near]).mean())
    return points * (size / mean) ** 0.5 if mean > 0 else None


def points_of_gram(gram: Tensor, dim: int) -> Tensor:
    """(n, d) points of the d largest eigenvalues; the entry of largest magnitude of each column is positive."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    points = vectors[:, -dim:].flip(1) * eigenvalues[-dim:].flip(0).clamp_min(0).sqrt()
    largest = points.gather(0, points.abs().argmax(0, keepdim=True))
    return points * torch.where(largest < 0, -1.0, 1.0)
