"""Task-feature collaborative learning: tasks share within a block of tasks and features, and not across blocks.

    min over W, U of  J(W) + α₁ ⟨Lap(W), U⟩ + α₂/2 ‖W‖² + α₃/2 ‖U‖²        0 ≤ U ≤ I, tr U = k

by an exact U step and a few proximal gradient steps in W in turn, see `crowd.tasks.objective`. The objective never
rises. The problem is not convex and the start decides: from a ridge start the weakest cuts of |W| are those between
blocks where weights across blocks are small, and single features or tasks where they are not.

Yang et al., "Task-Feature Collaborative Learning with Application to Personalized Attribute Prediction", TPAMI 2021,
reconstructed; see `crowd.tasks.spectral`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equipoise.core.solvers.proximal import Point, proximal_gradient
from equipoise.core.validate import check_choice, check_positive, warn_once
from equipoise.crowd.tasks.linear_tasks import (
    LinearTasks,
    TaskNames,
    check_counts,
    check_strengths,
    read_tasks,
)
from equipoise.crowd.tasks.losses import TaskLosses
from equipoise.crowd.tasks.objective import check_curvature, penalty_of, tfcl_weight_prox
from equipoise.crowd.tasks.spectral import check_blocks, spectral_assignment, weight_components

GROUPINGS = ("components", "spectral")
_LLOYD = 100


class TFCL(LinearTasks):
    """Linear tasks in k blocks of tasks and features, with the estimator interface of scikit-learn.

    Standardise features: the blocks are found by the sizes of weights.

    Args:
        k: blocks. A feature or task of weights 0 is one, too.
        alpha1: α₁, what keeps blocks apart.
        alpha2: α₂, ridge.
        alpha3: α₃, what makes the grouping move smoothly; 0 for the authors' sharp one.
        loss: "squared", "pairwise_square" (AUC) or "logistic", each a mean within the task.
        init: "ridge", or weights (d, T) to begin with.
        ridge: strength of the ridge start.
        lipschitz: curvature that steps assume; None for the loss's own.
        backtracking: find the length of the steps, from `lipschitz` on.
        grouping: "components" of |W| > `threshold`, or "spectral": k-means of the features and tasks in the k bottom
            eigenvectors, which also parts a graph that is still connected.
        threshold: weights up to which there is no edge.
        inner_steps: steps in W for each U.
        max_iter: U steps at most.
        tol: stop where W moves by less than this share of 1 + ‖W‖.

    Attributes:
        coef_: (d, T).
        tasks_: the tasks, in order of first appearance.
        groups_: the group of every feature (d,) and of every task (T,), numbered alike.
        history_: the objective at the start and after every round; it never rises.
        n_iter_: rounds.

    >>> generator = np.random.default_rng(0)
    >>> x = [generator.normal(size=(40, 4)) for _ in range(4)]
    >>> weight = np.kron(np.eye(2), np.ones((2, 2)))
    >>> model = TFCL(k=2, alpha1=5.0).fit(x, [each @ w for each, w in zip(x, weight.T)])
    >>> [each.tolist() for each in model.groups_]
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """

    def __init__(
        self,
        k: int = 2,
        alpha1: float = 10.0,
        alpha2: float = 0.03,
        alpha3: float = 0.0,
        loss: str = "squared",
        init: str | ArrayLike = "ridge",
        ridge: float = 0.1,
        lipschitz: float | None = None,
        backtracking: bool = True,
        grouping: str = "components",
        threshold: float = 1e-3,
        inner_steps: int = 5,
        max_iter: int = 60,
        tol: float = 1e-6,
    ) -> None:
        self.k = k
        self.alpha1 = alpha1
        self.alpha2 = alpha2
        self.alpha3 = alpha3
        self.loss = loss
        self.init = init
        self.ridge = ridge
        self.lipschitz = lipschitz
        self.backtracking = backtracking
        self.grouping = grouping
        self.threshold = threshold
        self.inner_steps = inner_steps
        self.max_iter = max_iter
        self.tol = tol
        self.groups_: tuple[NDArray[np.int64], NDArray[np.int64]]
        self.history_: list[float]

    def fit(self, X: ArrayLike, y: ArrayLike, task: TaskNames | None = None) -> TFCL:
        """Fit a matrix X and a vector y for each task, or all rows (n, d), (n,) with the task (n,) of each.

        Raises:
            ValueError: on tasks that do not go together or are empty, values that are not finite, labels that are not
                of two classes where the loss wants them, settings out of range, or `init` of another shape.
        """
        check_counts(self, "k", "inner_steps", "max_iter")
        check_strengths(self, "alpha1", "alpha2", "alpha3", "threshold", "tol")
        check_positive("ridge", self.ridge)
        check_choice("grouping", self.grouping, GROUPINGS)
        given = read_tasks(X, y, task)
        d, tasks = given.features.shape[1], len(given.names)
        check_blocks(self.k, d, tasks)
        empty = int((given.features == 0).all(0).sum())
        if empty:
            warn_once(f"{empty} of {d} features are 0 in every row; each stands alone and takes one of the k blocks")
        losses = self._losses(given)
        weight, self.history_ = self._solve(losses, start_weights(self.init, losses, self.ridge, d, tasks))
        self.coef_, self.tasks_, self.n_iter_ = weight.numpy(), given.names, len(self.history_) - 1
        self._restore()
        return self

    def _restore(self) -> None:
        weight = torch.from_numpy(self.coef_)
        found = (
            weight_components(weight, self.threshold)
            if self.grouping == "components"
            else spectral_groups(weight, self.k)
        )
        self.groups_ = found[0].numpy(), found[1].numpy()

    def _solve(self, losses: TaskLosses, weight: Tensor) -> tuple[Tensor, list[float]]:
        lipschitz = curvature_of(self.lipschitz, losses, 1, self.backtracking)

        def smooth(point: Point) -> tuple[float, Point]:
            value, gradient = losses.value_and_gradient(point[0])
            return value, (gradient,)

        def ridge(at: Tensor) -> float:
            return self.alpha2 / 2 * float(at.square().sum())

        history: list[float] = []
        moved, value = True, losses.value_and_gradient(weight)[0]
        while True:
            assignment = spectral_assignment(weight, self.k, self.alpha1, self.alpha3)
            history.append(value + penalty_of(assignment, self.alpha1, self.alpha3) + ridge(weight))
            if not moved or len(history) > self.max_iter:
                break
            distance = assignment.distance
            price = self.alpha1 * distance
            found = proximal_gradient(
                (weight,),
                smooth,
                lambda point, price=price: float((price * point[0].abs()).sum()) + ridge(point[0]),  # type: ignore[misc]
                lambda point, step, distance=distance: (  # type: ignore[misc]
                    tfcl_weight_prox(point[0], distance, self.alpha1, self.alpha2, 1 / step),
                ),
                lipschitz=lipschitz,
                backtrack=self.backtracking,
                max_iter=self.inner_steps,
                tol=0.0,
            )
            (after,), lipschitz = found.point, found.lipschitz
            moved = float((after - weight).norm()) > self.tol * (1 + float(weight.norm()))
            weight, value = after, losses.value_and_gradient(after)[0]
        if moved:
            warn_once(
                f"TFCL stopped after max_iter={self.max_iter} rounds before the weights settled; raise max_iter or tol"
            )
        return weight, history


def start_weights(init: str | ArrayLike, losses: TaskLosses, ridge: float, d: int, tasks: int) -> Tensor:
    """(d, T) to begin with: the ridge solution, or what is given.

    Raises:
        ValueError: if it has another shape, or is not known.
    """
    if isinstance(init, str):
        check_choice("init", init, ("ridge",))
        return losses.ridge(ridge)
    given = np.array(init, dtype=np.float64, order="C")
    if given.shape != (d, tasks):
        raise ValueError(f"init must have shape ({d}, {tasks}), features and tasks, got {given.shape}")
    if not np.isfinite(given).all():
        raise ValueError("init holds NaN or infinite values")
    return torch.from_numpy(given)


def curvature_of(lipschitz: float | None, losses: TaskLosses, times: float, backtracking: bool) -> float:
    """The curvature that steps begin with; warns where a given one may be too small and nothing would mend it."""
    bound = times * losses.curvature()
    if lipschitz is None:
        # Backtracking finds what the bound of several parts overstates.
        return losses.curvature() if backtracking else bound
    check_positive("lipschitz", lipschitz)
    if not backtracking:
        check_curvature(lipschitz, bound)
    return lipschitz


def spectral_groups(weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The group of every feature (d,) and task (T,): k-means in the k bottom eigenvectors of the Laplacian.

    It begins at the vertices farthest from each other, so that nothing is drawn.
    """
    places = spectral_assignment(weight, k).vectors[:, :k]
    centre = places[:1]
    while len(centre) < k:
        far = torch.cdist(places, centre).min(1).values.argmax()
        centre = torch.cat([centre, places[far][None]])
    label = torch.cdist(places, centre).argmin(1)
    for _ in range(_LLOYD):
        count = torch.bincount(label, minlength=k)
        mean = torch.zeros_like(centre).index_add_(0, label, places) / count.clamp_min(1)[:, None]
        centre = torch.where(count[:, None] > 0, mean, centre)
        found = torch.cdist(places, centre).argmin(1)
        if found.equal(label):
            break
        label = found
    return label[: len(weight)], label[len(weight) :]
