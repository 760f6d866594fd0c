"""The objective of task-feature collaborative learning and a step on it.

    F(W) = J(W) + α₁ R_k(W) + α₂/2 ‖W‖²

U step: the exact U of `spectral_assignment`, with distances D. W step: a proximal gradient step, a weighted soft
threshold after a step on J,

    W̃ = W − ∇J(W)/C        W ← sign(W̃) max(|W̃| − α₁ D / C, 0) / (1 + α₂/C)

With C at least the curvature of J neither raises F (for α₃ = 0; for α₃ > 0 the same with α₃/2 ‖U‖² counted).

Yang et al., TPAMI 2021, reconstructed; see `crowd.tasks.spectral`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.solvers.proximal import prox_group_columns
from equipoise.core.types import Count, NonNegative, Positive, Range
from equipoise.core.validate import warn_once
from equipoise.crowd.tasks.losses import TaskLabels, TaskLoss, stack_tasks, task_losses
from equipoise.crowd.tasks.spectral import Assignment, block_diagonal_penalty, spectral_assignment


class TaskObjective(NamedTuple):
    """The objective at given weights, scalars in float64.

    Attributes:
        data_loss: J, the sum over tasks.
        objective: F.
    """

    data_loss: Tensor
    objective: Tensor


class TaskStep(NamedTuple):
    """What one step does.

    Attributes:
        weight: (d, T) after it, in float64.
        objective_before: F before.
        objective_after: F after.
    """

    weight: Tensor
    objective_before: Tensor
    objective_after: Tensor


@checked
def tfcl_weight_prox(
    weight: Float[Tensor, "d tasks"],
    distance: Annotated[Float[Tensor, "d tasks"], Range(0)],
    alpha1: NonNegative,
    alpha2: NonNegative,
    lipschitz: Positive,
) -> Float[Tensor, "d tasks"]:
    """argmin_W  C/2 ‖W − W̃‖² + α₁ Σ D |W| + α₂/2 ‖W‖², entry by entry.

    Args:
        weight: (d, T) W̃.
        distance: (d, T) D.
        alpha1: α₁.
        alpha2: α₂.
        lipschitz: C.

    >>> tfcl_weight_prox(torch.tensor([[3.0, -1.0]]), torch.tensor([[0.0, 4.0]]), 0.5, 1.0, 2.0)
    tensor([[2., -0.]])
    """
    shrunk = (weight.abs() - alpha1 / lipschitz * distance).clamp_min(0)
    return weight.sign() * shrunk / (1 + alpha2 / lipschitz)


@checked
def column_group_prox(weight: Float[Tensor, "d tasks"], threshold: NonNegative) -> Float[Tensor, "d tasks"]:
    """Columns shortened by `threshold`, those not longer than it to zero: the proximal map of Σ_t ‖P_t‖.

    Args:
        weight: (d, T).
        threshold: at least 0.

    >>> column_group_prox(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), 1.0)
    tensor([[2.4000, 0.0000],
            [3.2000, 0.0000]])
    """
    return prox_group_columns(weight, threshold)


@checked
def tfcl_objective(
    features: Sequence[Float[Tensor, "_ _d"]],
    targets: Sequence[TaskLabels],
    weight: Float[Tensor, "d tasks"],
    *,
    k: Count,
    alpha1: NonNegative,
    alpha2: NonNegative,
    loss: TaskLoss = "squared",
) -> TaskObjective:
    """F at given weights.

    Args:
        features: (n_t, d) of each task.
        targets: (n_t,) of each task; of classes {0, 1} or {−1, 1} for the losses of two classes.
        weight: (d, T).
        k: blocks.
        alpha1: α₁.
        alpha2: α₂.
        loss: "squared", "pairwise_square" or "logistic", each a mean within the task.

    Raises:
        ValueError: if they do not go together, a task is empty, or on a bad argument, by name.

    >>> x, y = [torch.eye(2)], [torch.tensor([1.0, 0.0])]
    >>> tfcl_objective(x, y, torch.zeros(2, 1), k=1, alpha1=1.0, alpha2=1.0).objective
    tensor(0.2500, dtype=torch.float64)
    """
    rows, y, task = _rows(features, targets, weight)
    wide = weight.detach().double()
    value, _ = task_losses(rows, y, task, weight.shape[1], loss).value_and_gradient(wide)
    return _objective(value, wide, k, alpha1, alpha2)


@checked
def tfcl_step(
    features: Sequence[Float[Tensor, "_ _d"]],
    targets: Sequence[TaskLabels],
    weight: Float[Tensor, "d tasks"],
    *,
    k: Count,
    alpha1: NonNegative,
    alpha2: NonNegative,
    lipschitz: Positive,
    alpha3: NonNegative = 0.0,
    loss: TaskLoss = "squared",
) -> TaskStep:
    """The U step and one W step.

    Args:
        features: (n_t, d) of each task.
        targets: (n_t,) of each task.
        weight: (d, T).
        k: blocks.
        alpha1: α₁.
        alpha2: α₂.
        lipschitz: C. Below the curvature of J the objective may rise (warned).
        alpha3: α₃ of the U step. The objectives that are returned do not count α₃/2 ‖U‖².
        loss: as in `tfcl_objective`.

    Raises:
        ValueError: as `tfcl_objective`.

    >>> x, y = [torch.eye(2)], [torch.tensor([1.0, 0.0])]
    >>> step = tfcl_step(x, y, torch.zeros(2, 1), k=1, alpha1=0.0, alpha2=0.0, lipschitz=0.5)
    >>> step.weight.T.round(decimals=6)
    tensor([[1., 0.]], dtype=torch.float64)
    """
    rows, y, task = _rows(features, targets, weight)
    wide = weight.detach().double()
    losses = task_losses(rows, y, task, weight.shape[1], loss)
    check_curvature(lipschitz, losses.curvature())
    value, gradient = losses.value_and_gradient(wide)
    distance = spectral_assignment(wide, k, alpha1, alpha3).distance
    after = tfcl_weight_prox(wide - gradient / lipschitz, distance, alpha1, alpha2, lipschitz)
    value_after, _ = losses.value_and_gradient(after)
    return TaskStep(
        after,
        _objective(value, wide, k, alpha1, alpha2).objective,
        _objective(value_after, after, k, alpha1, alpha2).objective,
    )


def check_curvature(lipschitz: float, bound: float) -> None:
    """Warn where a step 1/lipschitz may be too long."""
    if lipschitz < bound * (1 - 1e-3):
        warn_once(
            f"lipschitz={lipschitz:g} is below the curvature {bound:.4g} of the loss, so that a step may raise the "
            "objective; take that, or backtrack"
        )


def penalty_of(assignment: Assignment, alpha1: float, alpha3: float) -> float:
    """α₁ ⟨Lap, U⟩ + α₃/2 ‖U‖² at the U of an assignment."""
    return alpha1 * float(assignment.penalty) + alpha3 / 2 * float(assignment.weight.square().sum())


def _rows(features: Sequence[Tensor], targets: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, y, task = stack_tasks(features, targets)
    if weight.shape != (rows.shape[1], len(features)):
        raise ValueError(
            f"weight must have shape ({rows.shape[1]}, {len(features)}), a column of the features' {rows.shape[1]} "
            f"columns for each of {len(features)} tasks, got {tuple(weight.shape)}"
        )
    return rows, y, task


def _objective(value: float, weight: Tensor, k: int, alpha1: float, alpha2: float) -> TaskObjective:
    penalty = alpha1 * block_diagonal_penalty(weight, k).value + alpha2 / 2 * weight.square().sum()
    data_loss = torch.tensor(value, dtype=torch.float64)
    return TaskObjective(data_loss, data_loss + penalty)
