"""Personalised attributes: what all share, what a group of users shares, and users of their own kind.

    W = θ 1ᵀ + G + P

    min  J(W) + λ_θ/2 ‖θ‖² + λ_G R_k(G) + λ_2/2 ‖G‖² + λ_P Σ_t ‖P_t‖ (+ λ_U/2 ‖U‖²)

θ is what all tasks agree on, G has k blocks of users and features, and P is zero but for hard or odd users. One
gradient of J serves the three; the map from (θ, G, P) to W has the squared norm T + 2, which bounds the curvature.

Yang et al., "Task-Feature Collaborative Learning with Application to Personalized Attribute Prediction", TPAMI 2021,
section on personalised attributes. Reconstructed: the three parts are from memory, their weights inferred. The sibling
of AAAI 2019 (`ranking.MultiTaskAUC`) has a spectral tail in place of the blocks.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equipoise.core.solvers.proximal import Point, prox_squared_l2, proximal_gradient
from equipoise.core.validate import check_positive, warn_once
from equipoise.crowd.tasks.estimator import curvature_of
from equipoise.crowd.tasks.linear_tasks import LinearTasks, TaskNames, check_counts, check_strengths, read_tasks
from equipoise.crowd.tasks.losses import TaskLosses
from equipoise.crowd.tasks.objective import column_group_prox, penalty_of, tfcl_weight_prox
from equipoise.crowd.tasks.spectral import check_blocks, spectral_assignment, weight_components


class PersonalizedTFCL(LinearTasks):
    """Users as tasks: shared, grouped and personal weights, with the estimator interface of scikit-learn.

    Args:
        k: blocks of users and features in the grouped part.
        lambda_theta: λ_θ, pull of the shared part to zero.
        lambda_group: λ_G, what keeps blocks apart.
        lambda_ridge: λ_2, ridge on the grouped part.
        lambda_personal: λ_P, price of a personal part; the larger, the fewer users have one.
        lambda_assignment: λ_U, what makes the grouping move smoothly.
        loss: "pairwise_square" (AUC), "squared" or "logistic", each a mean within the user.
        ridge: strength of the ridge start, whose mean over users θ begins with.
        lipschitz: curvature that steps assume; None for a bound.
        backtracking: find the length of the steps.
        threshold: grouped weights up to which there is no edge, for `groups_`.
        inner_steps: steps for each U.
        max_iter: U steps at most.
        tol: stop where the weights move by less than this share of 1 + their norm.

    Attributes:
        theta_: (d,) the shared part.
        grouped_: (d, T).
        personal_: (d, T), zero columns for users without a part of their own.
        coef_: (d, T) their sum.
        hard_users_: the users with a personal part.
        groups_: the group of every feature and of every user in the grouped part.
        tasks_: the users, in order of first appearance.
        history_: the objective at the start and after every round; it never rises.
        n_iter_: rounds.

    >>> generator = np.random.default_rng(0)
    >>> x, user = generator.normal(size=(200, 3)), np.repeat(["ann", "bob", "eve", "joe"], 50)
    >>> y = np.where(user == "joe", -x[:, 0], x[:, 0] + x[:, 1]) > 0
    >>> model = PersonalizedTFCL(k=1).fit(x, y, user)
    >>> model.hard_users_
    ['joe']
    """

    _parts: ClassVar[tuple[str, ...]] = ("theta_", "grouped_", "personal_")

    def __init__(
        self,
        k: int = 2,
        lambda_theta: float = 0.1,
        lambda_group: float = 1.0,
        lambda_ridge: float = 1.0,
        lambda_personal: float = 0.3,
        lambda_assignment: float = 0.0,
        loss: str = "pairwise_square",
        ridge: float = 0.1,
        lipschitz: float | None = None,
        backtracking: bool = True,
        threshold: float = 1e-3,
        inner_steps: int = 5,
        max_iter: int = 200,
        tol: float = 1e-5,
    ) -> None:
        self.k = k
        self.lambda_theta = lambda_theta
        self.lambda_group = lambda_group
        self.lambda_ridge = lambda_ridge
        self.lambda_personal = lambda_personal
        self.lambda_assignment = lambda_assignment
        self.loss = loss
        self.ridge = ridge
        self.lipschitz = lipschitz
        self.backtracking = backtracking
        self.threshold = threshold
        self.inner_steps = inner_steps
        self.max_iter = max_iter
        self.tol = tol
        self.theta_: NDArray[np.float64]
        self.grouped_: NDArray[np.float64]
        self.personal_: NDArray[np.float64]
        self.hard_users_: list[Any]
        self.groups_: tuple[NDArray[np.int64], NDArray[np.int64]]
        self.history_: list[float]

    def fit(self, X: ArrayLike, y: ArrayLike, task: TaskNames | None = None) -> PersonalizedTFCL:
        """Fit a matrix X and a vector y for each user, or all rows (n, d), (n,) with the user (n,) of each.

        Raises:
            ValueError: on users that do not go together or are empty, values that are not finite, labels that are not
                of two classes where the loss wants them, or settings out of range.
        """
        check_counts(self, "k", "inner_steps", "max_iter")
        strengths = ("theta", "group", "ridge", "personal", "assignment")
        check_strengths(self, *(f"lambda_{name}" for name in strengths), "threshold", "tol")
        check_positive("ridge", self.ridge)
        given = read_tasks(X, y, task)
        check_blocks(self.k, given.features.shape[1], len(given.names))
        losses = self._losses(given)
        (theta, grouped, personal), self.history_ = self._solve(losses)
        self.theta_, self.grouped_, self.personal_ = theta.numpy(), grouped.numpy(), personal.numpy()
        self.tasks_, self.n_iter_ = given.names, len(self.history_) - 1
        self._restore()
        return self

    def _restore(self) -> None:
        self.coef_ = self.theta_[:, None] + self.grouped_ + self.personal_
        own = (self.personal_ != 0).any(0)
        self.hard_users_ = [name for name, has in zip(self.tasks_, own.tolist(), strict=True) if has]
        features, users = weight_components(torch.from_numpy(self.grouped_), self.threshold)
        self.groups_ = features.numpy(), users.numpy()

    def _solve(self, losses: TaskLosses) -> tuple[Point, list[float]]:
        start = losses.ridge(self.ridge)
        theta = start.mean(1)
        point: Point = (theta, start - theta[:, None], torch.zeros_like(start))
        lipschitz = curvature_of(self.lipschitz, losses, start.shape[1] + 2, self.backtracking)

        def smooth(at: Point) -> tuple[float, Point]:
            value, gradient = losses.value_and_gradient(at[0][:, None] + at[1] + at[2])
            return value, (gradient.sum(1), gradient, gradient)

        def simple(at: Point) -> float:
            ridges = self.lambda_theta * at[0].square().sum() + self.lambda_ridge * at[1].square().sum()
            return float(ridges / 2 + self.lambda_personal * at[2].norm(dim=0).sum())

        history: list[float] = []
        moved = True
        while True:
            assignment = spectral_assignment(point[1], self.k, self.lambda_group, self.lambda_assignment)
            spectral = penalty_of(assignment, self.lambda_group, self.lambda_assignment)
            history.append(smooth(point)[0] + spectral + simple(point))
            if not moved or len(history) > self.max_iter:
                break
            distance = assignment.distance
            found = proximal_gradient(
                point,
                smooth,
                lambda at, distance=distance: simple(at) + self._price(at[1], distance),  # type: ignore[misc]
                lambda at, step, distance=distance: self._prox(at, step, distance),  # type: ignore[misc]
                lipschitz=lipschitz,
                backtrack=self.backtracking,
                max_iter=self.inner_steps,
                tol=0.0,
            )
            lipschitz = found.lipschitz
            move = sum(float((a - b).square().sum()) for a, b in zip(found.point, point, strict=True)) ** 0.5
            size = sum(float(each.square().sum()) for each in point) ** 0.5
            moved, point = move > self.tol * (1 + size), found.point
        if moved:
            warn_once(
                f"PersonalizedTFCL stopped after max_iter={self.max_iter} rounds before the weights settled; raise "
                "max_iter or tol"
            )
        return point, history

    def _price(self, grouped: Tensor, distance: Tensor) -> float:
        return self.lambda_group * float((distance * grouped.abs()).sum())

    def _prox(self, at: Point, step: float, distance: Tensor) -> Point:
        return (
            prox_squared_l2(at[0], step * self.lambda_theta / 2),
            tfcl_weight_prox(at[1], distance, self.lambda_group, self.lambda_ridge, 1 / step),
            column_group_prox(at[2], step * self.lambda_personal),
        )
