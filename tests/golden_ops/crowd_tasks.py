"""Ops of `tfcl`."""

from __future__ import annotations

import torch

from equipoise.crowd.tasks import losses, objective, spectral
from golden_ops import Ops, renamed

ops = Ops()
_SETTINGS = {name: name for name in ("k", "alpha1", "alpha2", "alpha3", "lipschitz", "loss")}


def _of_tasks(inputs):
    return {name: [torch.as_tensor(each).double() for each in inputs[name]] for name in ("features", "targets")}


@ops("tfcl", "block_diagonal_penalty")
def block_diagonal_penalty(inputs, params):
    return spectral.block_diagonal_penalty(inputs["weight"].double(), **renamed(params, {"k": "k"}))._asdict()


@ops("tfcl", "spectral_assignment")
def spectral_assignment(inputs, params):
    return spectral.spectral_assignment(inputs["weight"].double(), **renamed(params, _SETTINGS))._asdict()


@ops("tfcl", "capped_simplex_projection")
def capped_simplex_projection(inputs, params):
    return {"c": spectral.capped_simplex_projection(inputs["v"].double(), **renamed(params, {"total": "total"}))}


@ops("tfcl", "tfcl_weight_prox")
def tfcl_weight_prox(inputs, params):
    given = {name: inputs[name].double() for name in ("weight", "distance")}
    return {"weight": objective.tfcl_weight_prox(**given, **renamed(params, _SETTINGS))}


@ops("tfcl", "column_group_prox")
def column_group_prox(inputs, params):
    return {
        "weight": objective.column_group_prox(inputs["weight"].double(), **renamed(params, {"threshold": "threshold"}))
    }


@ops("tfcl", "pairwise_square_statistics")
def pairwise_square_statistics(inputs, params):
    renamed(params, {})
    form = losses.pairwise_square_statistics(inputs["features"].double(), inputs["y"])
    weight = inputs["weight"].double()
    return {**form._asdict(), "loss": form.loss(weight), "grad": form.gradient(weight)}


@ops("tfcl", "tfcl_objective")
def tfcl_objective(inputs, params):
    weight = inputs["weight"].double()
    return objective.tfcl_objective(**_of_tasks(inputs), weight=weight, **renamed(params, _SETTINGS))._asdict()


@ops("tfcl", "tfcl_step")
def tfcl_step(inputs, params):
    weight = inputs["weight"].double()
    return objective.tfcl_step(**_of_tasks(inputs), weight=weight, **renamed(params, _SETTINGS))._asdict()
