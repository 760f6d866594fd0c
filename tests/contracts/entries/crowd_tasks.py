"""The public names of `equipoise.crowd` for many tasks."""

import torch

from contracts.model import Function

# The room is that of `entries/crowd.py`.
PACKAGES: list[str] = []

_STRENGTHS = {"k": 2, "alpha1": 0.5, "alpha2": 0.1}


def _weight(generator, n):
    return {"weight": torch.randn(n, 3, generator=generator)}


def _with_distance(generator, n):
    return {**_weight(generator, n), "distance": torch.rand(n, 3, generator=generator)}


def _labelled(generator, n):
    return {"features": torch.randn(n, 3, generator=generator), "y": (torch.arange(n) % 3 == 0).long()}


def _tasks(generator, n):
    """Three tasks of n rows."""
    return {
        "features": [torch.randn(n, 4, generator=generator) for _ in range(3)],
        "targets": [torch.randn(n, generator=generator) for _ in range(3)],
        "weight": torch.randn(4, 3, generator=generator),
    }


ENTRIES = [
    Function("equipoise.crowd.BlockDiagonalRegularizer", {"k": 2, "strength": 0.5}),
    Function("equipoise.crowd.block_diagonal_penalty", {"k": 2}, _weight),
    Function(
        "equipoise.crowd.capped_simplex_projection",
        {"total": 2.0},
        lambda generator, n: {"v": torch.randn(n, generator=generator)},
    ),
    Function("equipoise.crowd.column_group_prox", {"threshold": 0.5}, _weight),
    Function(
        "equipoise.crowd.pairwise_square_statistics",
        {},
        _labelled,
        {"bad_arguments_are_refused_by_name": "labels may be whole numbers or not"},
    ),
    Function("equipoise.crowd.spectral_assignment", {"k": 2, "alpha1": 1.0, "alpha3": 0.1}, _weight),
    Function("equipoise.crowd.tfcl_objective", {**_STRENGTHS, "loss": "squared"}, _tasks),
    Function("equipoise.crowd.tfcl_step", {**_STRENGTHS, "alpha3": 0.1, "lipschitz": 20.0, "loss": "squared"}, _tasks),
    Function("equipoise.crowd.tfcl_weight_prox", {"alpha1": 0.5, "alpha2": 0.1, "lipschitz": 2.0}, _with_distance),
]

_OF_TASKS = "fitted to tables of several tasks, which no estimator of scikit-learn is told"
OTHERS = {
    "equipoise.crowd.MultiTaskLinear": _OF_TASKS,
    "equipoise.crowd.PersonalizedTFCL": _OF_TASKS,
    "equipoise.crowd.TFCL": _OF_TASKS,
}
