"""The usual ways to learn linear tasks alone or together, by one proximal gradient method with one smooth part.

    ridge   λ/2 ‖W‖²                       each task alone
    lasso   λ Σ |W_ij|                     each task alone, few features
    l21     λ Σ_i ‖W_i‖                    the same few features for all tasks
    trace   λ ‖W‖_*                        weights of low rank
    robust  W = L + E, λ ‖L‖_* + μ Σ_t ‖E_t‖             low rank, but for a few tasks of their own
    dirty   W = B + S, λ Σ_i max_t |B_it| + μ Σ |S_ij|   shared features, and each task's own

The penalties are those of the works that they are named after in the field (Argyriou et al. 2008 for l21 and trace,
Chen, Zhou and Ye 2011 for robust, Jalali et al. 2010 for dirty).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equipoise.core.solvers.proximal import (
    Point,
    prox_group_columns,
    prox_l1,
    prox_largest_of_rows,
    prox_nuclear,
    prox_squared_l2,
    proximal_gradient,
)
from equipoise.core.validate import check_choice, warn_once
from equipoise.crowd.tasks.linear_tasks import LinearTasks, TaskNames, check_counts, check_strengths, read_tasks

_Norm = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]]

_HALF_SQUARE: _Norm = (lambda w: w.square().sum() / 2, lambda w, step: prox_squared_l2(w, step / 2))
_ENTRIES: _Norm = (lambda w: w.abs().sum(), prox_l1)
_ROWS: _Norm = (lambda w: w.norm(dim=1).sum(), lambda w, step: prox_group_columns(w.T, step).T)
_COLUMNS: _Norm = (lambda w: w.norm(dim=0).sum(), prox_group_columns)
_NUCLEAR: _Norm = (lambda w: torch.linalg.svdvals(w).sum(), prox_nuclear)
_LARGEST: _Norm = (lambda w: w.abs().amax(1).sum(), prox_largest_of_rows)

PENALTIES: dict[str, tuple[_Norm, ...]] = {
    "ridge": (_HALF_SQUARE,),
    "lasso": (_ENTRIES,),
    "l21": (_ROWS,),
    "trace": (_NUCLEAR,),
    "robust": (_NUCLEAR, _COLUMNS),
    "dirty": (_LARGEST, _ENTRIES),
}


class MultiTaskLinear(LinearTasks):
    """Linear tasks under one of the usual penalties, with the estimator interface of scikit-learn.

    Args:
        penalty: "ridge", "lasso", "l21", "trace", "robust" or "dirty", see the module.
        strength: λ.
        own_strength: μ of the tasks' own part, of "robust" and "dirty" only.
        loss: "squared", "pairwise_square" (AUC) or "logistic", each a mean within the task.
        max_iter: steps at most.
        tol: stop where the objective falls by less than this share.

    Attributes:
        coef_: (d, T).
        shared_: (d, T) the part under λ, all there is without a second one.
        own_: (d, T) the part under μ; zero without one.
        tasks_: the tasks, in order of first appearance.
        history_: the objective at the start and after every step.
        n_iter_: steps.

    >>> generator = np.random.default_rng(0)
    >>> x = [generator.normal(size=(50, 3)) for _ in range(2)]
    >>> model = MultiTaskLinear("l21", 0.1).fit(x, [each[:, 0] for each in x])
    >>> np.flatnonzero(np.abs(model.coef_).sum(1)).tolist()
    [0]
    """

    _parts: ClassVar[tuple[str, ...]] = ("shared_", "own_")

    def __init__(
        self,
        penalty: str = "ridge",
        strength: float = 0.1,
        own_strength: float = 0.1,
        loss: str = "squared",
        max_iter: int = 2000,
        tol: float = 1e-9,
    ) -> None:
        self.penalty = penalty
        self.strength = strength
        self.own_strength = own_strength
        self.loss = loss
        self.max_iter = max_iter
        self.tol = tol
        self.shared_: NDArray[np.float64]
        self.own_: NDArray[np.float64]
        self.history_: list[float]

    def fit(self, X: ArrayLike, y: ArrayLike, task: TaskNames | None = None) -> MultiTaskLinear:
        """Fit a matrix X and a vector y for each task, or all rows (n, d), (n,) with the task (n,) of each.

        Raises:
            ValueError: on tasks that do not go together or are empty, values that are not finite, labels that are not
                of two classes where the loss wants them, or settings out of range.
        """
        check_choice("penalty", self.penalty, PENALTIES)
        check_strengths(self, "strength", "own_strength", "tol")
        check_counts(self, "max_iter")
        given = read_tasks(X, y, task)
        losses = self._losses(given)
        norms = PENALTIES[self.penalty]
        strengths = (self.strength, self.own_strength)[: len(norms)]
        zero = given.features.new_zeros(given.features.shape[1], len(given.names))

        def smooth(point: Point) -> tuple[float, Point]:
            value, gradient = losses.value_and_gradient(sum(point[1:], point[0]))
            return value, (gradient,) * len(point)

        found = proximal_gradient(
            (zero,) * len(norms),
            smooth,
            lambda point: sum(s * float(norm(p)) for s, (norm, _), p in zip(strengths, norms, point, strict=True)),
            lambda point, step: tuple(
                prox(p, s * step) for s, (_, prox), p in zip(strengths, norms, point, strict=True)
            ),
            lipschitz=losses.curvature() * len(norms),
            accelerate=True,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        if not found.converged:
            warn_once(
                f"MultiTaskLinear stopped after max_iter={self.max_iter} steps before the objective settled; raise "
                "max_iter or tol"
            )
        self.shared_ = found.point[0].numpy()
        self.own_ = found.point[1].numpy() if len(norms) > 1 else zero.numpy()
        self.tasks_, self.history_, self.n_iter_ = given.names, found.objective, len(found.objective) - 1
        self._restore()
        return self

    def _restore(self) -> None:
        self.coef_ = self.shared_ + self.own_
