"""Ops of `multitask-auc`."""

from __future__ import annotations

import torch

from equipoise.core.pairs import quadratic
from equipoise.core.solvers.proximal import prox_group_columns, prox_squared_l2, prox_tail_spectrum
from equipoise.ranking.multitask import estimator, multitask_auc
from golden_ops import Ops, renamed

ops = Ops()

_WEIGHTS = {name: name for name in ("lambda_theta", "lambda_group", "lambda_personal", "kappa")}


def _users(inputs):
    features = [torch.as_tensor(x).double() for x in inputs["X"]]
    return features, [torch.as_tensor(y).long() for y in inputs["target"]]


@ops("multitask-auc", "auc_quadratic_form")
def auc_quadratic_form(inputs, params):
    renamed(params, {})
    return quadratic.auc_quadratic_form(inputs["X"].double(), inputs["target"].long())._asdict()


@ops("multitask-auc", "multitask_auc_objective")
def multitask_auc_objective(inputs, params):
    variables = [inputs[name].double() for name in ("theta", "G", "P")]
    return multitask_auc.multitask_auc_objective(*_users(inputs), *variables, **renamed(params, _WEIGHTS))._asdict()


@ops("multitask-auc", "prox_squared_l2")
def squared_l2(inputs, params):
    return {"X": prox_squared_l2(inputs["Z"].double(), **renamed(params, {"step": "step"}))}


@ops("multitask-auc", "prox_group_columns")
def group_columns(inputs, params):
    return {"X": prox_group_columns(inputs["Z"].double(), **renamed(params, {"step": "step"}))}


@ops("multitask-auc", "prox_tail_spectrum")
def tail_spectrum(inputs, params):
    return {"X": prox_tail_spectrum(inputs["Z"].double(), **renamed(params, {"step": "step", "kappa": "kappa"}))}


@ops("multitask-auc", "multitask_auc_step")
def multitask_auc_step(inputs, params):
    params = dict(params)
    point = tuple(inputs[name].double() for name in ("theta", "G", "P"))
    features, target = _users(inputs)
    lipschitz = params.pop("L")
    found = estimator.multitask_auc_step(features, target, *point, lipschitz=lipschitz, **renamed(params, _WEIGHTS))
    return dict(zip(("theta", "G", "P"), found, strict=True))
