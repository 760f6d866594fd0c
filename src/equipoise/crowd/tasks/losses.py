"""The losses of many linear tasks and their gradients, all tasks at once.

squared           J_t = 1/(2 n_t) ‖X_t w_t − y_t‖²
pairwise_square   J_t = mean over pairs of ½ (1 − (s_p − s_q))²         `core.pairs.quadratic`
logistic          J_t = 1/n_t Σ log(1 + exp(−y s)),  y = ±1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.pairs.quadratic import auc_quadratic_form, pairwise_square_rows
from equipoise.core.signature import checked
from equipoise.core.solvers.least_squares import GroupedLeastSquares
from equipoise.core.solvers.proximal import prox_squared_l2, proximal_gradient
from equipoise.core.validate import warn_once

TaskLoss: TypeAlias = Literal["squared", "pairwise_square", "logistic"]
TaskLabels: TypeAlias = Integer[Tensor, " _"] | Bool[Tensor, " _"] | Float[Tensor, " _"]


class PairwiseSquare(NamedTuple):
    """J(w) = ½ wᵀ S w − bᵀ w + constant of one task.

    Attributes:
        matrix: (d, d) S.
        vector: (d,) b.
        constant: ½; 0 for a task of one class, which has no pairs.
    """

    matrix: Tensor
    vector: Tensor
    constant: float

    def loss(self, weight: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        """J at weights (d,)."""
        return weight @ self.matrix @ weight / 2 - self.vector @ weight + self.constant

    def gradient(self, weight: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """S w − b at weights (d,)."""
        return self.matrix @ weight - self.vector


@checked
def pairwise_square_statistics(
    features: Float[Tensor, "n d"], y: Integer[Tensor, " n"] | Bool[Tensor, " n"] | Float[Tensor, " n"]
) -> PairwiseSquare:
    """What the all-pairs square loss of a task depends on, in O(n d²): the pairs are never listed.

    Args:
        features: (n, d).
        y: (n,) in {0, 1} or {−1, 1}.

    Returns:
        The form in float64; zero, with a warning, where one class is missing.

    Raises:
        ValueError: on other labels, or on a bad argument, by name.

    >>> form = pairwise_square_statistics(torch.tensor([[1.0], [0.0], [0.5]]), torch.tensor([1, 0, 0]))
    >>> form.loss(torch.tensor([1.0], dtype=torch.float64))
    tensor(0.0625, dtype=torch.float64)
    """
    target = as_classes("y", y)
    if not 0 < int(target.sum()) < len(target):
        warn_once(f"a task has labels of one class only: {_NO_PAIRS}")
        d = features.shape[1]
        nothing = torch.zeros(d, d, dtype=torch.float64, device=features.device)
        return PairwiseSquare(nothing, nothing[0].clone(), 0.0)
    form = auc_quadratic_form(features, target)
    return PairwiseSquare(form.A, form.c, 0.5)


@runtime_checkable
class TaskLosses(Protocol):
    """J of weights (d, tasks)."""

    def value_and_gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        """J and its gradient (d, tasks)."""

    def curvature(self) -> float:
        """A bound of the curvature in the weights of any one task."""

    def ridge(self, strength: float) -> Tensor:
        """The minimiser (d, tasks) of J + ½ strength ‖W‖²."""


def task_losses(features: Tensor, y: Tensor, task: Tensor, tasks: int, loss: TaskLoss) -> TaskLosses:
    """The losses of rows (n, d) in float64 with labels (n,) and the task (n,) of each row.

    Raises:
        ValueError: if a task has no row, or labels are not those of two classes.
    """
    count = torch.bincount(task, minlength=tasks)
    if bool((count == 0).any()):
        raise ValueError(f"task {int((count == 0).nonzero()[0])} is empty; leave it out")
    if loss == "squared":
        share = count[task].to(features).rsqrt()
        return GroupedLeastSquares(features * share[:, None], y.to(features) * share, task, tasks)
    target = as_classes("y", y)
    if loss == "logistic":
        return _LogisticLosses(features, 2 * target.to(features) - 1, task, count)
    rows = pairwise_square_rows(features, target, task, tasks)
    if not bool(rows.both.all()):
        lacking = int((~rows.both).sum())
        warn_once(f"{lacking} of {tasks} tasks have labels of one class only: {_NO_PAIRS}")
    return GroupedLeastSquares(*rows[:3], tasks)


def stack_tasks(features: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (n, d) in float64, labels (n,) and the task (n,) of each row, of one matrix and one vector a task.

    Raises:
        ValueError: if they do not go together.
    """
    if len(features) != len(targets) or not len(features):
        raise ValueError(f"features and targets must be one for each task, got {len(features)} and {len(targets)}")
    for number, (x, y) in enumerate(zip(features, targets, strict=True)):
        if x.shape[1] != features[0].shape[1]:
            raise ValueError(
                f"features of task {number} have {x.shape[1]} columns, those of task 0 have {features[0].shape[1]}"
            )
        if len(x) != len(y):
            raise ValueError(f"task {number} has {len(x)} rows of features and {len(y)} targets")
    task = torch.repeat_interleave(torch.tensor([len(x) for x in features]))
    return torch.cat([x.double() for x in features]), torch.cat([y.double() for y in targets]), task


def as_classes(name: str, y: Tensor) -> Tensor:
    """Labels in {0, 1} or {−1, 1} as {0, 1}; `ValueError` for others."""
    values = set(y.unique().tolist())
    if not (values <= {0, 1} or values <= {-1, 1}):
        raise ValueError(f"{name} must hold 0 and 1, or -1 and 1, got the values {sorted(values)[:5]}")
    return (y == 1).long()


_NO_PAIRS = "they have no pairs and add no loss, and only the penalties see them"


class _LogisticLosses:
    """The logistic losses of all tasks."""

    def __init__(self, features: Tensor, sign: Tensor, task: Tensor, count: Tensor) -> None:
        self.rows, self.owner, self.owners = features * sign[:, None], task, len(count)
        self.share = 1 / count.to(features)[task]

    def value_and_gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        own = weights.T
        scores = (self.rows * own[self.owner]).sum(1)
        value = torch.nn.functional.softplus(-scores) @ self.share
        pull = -torch.sigmoid(-scores) * self.share
        gradient = torch.zeros_like(own).index_add_(0, self.owner, pull[:, None] * self.rows)
        return float(value), gradient.T.contiguous()

    def curvature(self) -> float:
        rows = self.rows * self.share.sqrt()[:, None]
        return GroupedLeastSquares(rows, rows.new_zeros(len(rows)), self.owner, self.owners).curvature() / 4

    def ridge(self, strength: float) -> Tensor:
        def smooth(point: tuple[Tensor, ...]) -> tuple[float, tuple[Tensor, ...]]:
            value, gradient = self.value_and_gradient(point[0])
            return value, (gradient,)

        def prox(point: tuple[Tensor, ...], step: float) -> tuple[Any, ...]:
            return (prox_squared_l2(point[0], step * strength / 2),)

        start = self.rows.new_zeros(self.rows.shape[1], self.owners)
        found = proximal_gradient(
            (start,),
            smooth,
            lambda point: strength / 2 * float(point[0].square().sum()),
            prox,
            lipschitz=self.curvature(),
            accelerate=True,
            max_iter=2000,
            tol=1e-10,
        )
        return found.point[0]
