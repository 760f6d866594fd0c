"""Ops of `adauc` and `drauc`."""

from __future__ import annotations

import torch

from equipoise import ranking
from equipoise.core.solvers.perturbation import input_gradient
from equipoise.ranking.robust.adversarial_auc import first_order_stationarity
from equipoise.ranking.robust.distributional_auc import margin_auc_terms
from equipoise.ranking.robust.minmax_auc import minmax_auc_terms, minmax_inner_solution, project_alpha
from equipoise.ranking.robust.wasserstein import class_budgets, dual_step
from golden_ops import Ops, renamed

ops = Ops()
_UNBOUNDED = (-float("inf"), float("inf"))


def _given(params):
    """The params that are not null."""
    return {key: value for key, value in params.items() if value is not None}


def _linear(inputs):
    return lambda x: torch.sigmoid(x @ inputs["w"].double() + inputs["c"])


@ops("adauc", "adauc_minmax_loss")
def adauc_minmax_loss(inputs, params):
    scalars = [inputs[name] for name in ("a", "b", "alpha")]
    options = renamed(_given(params), {"prior": "prior"})
    return {"loss": ranking.minmax_auc_loss(inputs["scores"].double(), inputs["target"].long(), *scalars, **options)}


@ops("adauc", "adauc_inner_solution")
def adauc_inner_solution(inputs, params):
    renamed(params, {})
    return minmax_inner_solution(inputs["scores"].double(), inputs["target"].long())._asdict()


@ops("adauc", "pgd_linf")
def pgd_linf(inputs, params):
    options = renamed(
        {key: value for key, value in _given(params).items() if key not in ("prior", "model")},
        {"eps": "eps", "step": "step", "steps": "steps", "clip": "bounds", "random_start": "random_start"},
    )
    x, target, prior = inputs["X"].double(), inputs["target"].long(), params.get("prior")

    def terms(scores, target):
        return minmax_auc_terms(scores, target, inputs["a"], inputs["b"], inputs["alpha"], prior=prior)

    model = _linear(inputs)
    options["bounds"] = tuple(options.get("bounds", _UNBOUNDED))
    delta = ranking.PGDAttack(**options, keep="last")(model, x, target, terms)
    _, gradient = input_gradient(model, x, delta, lambda scores: terms(scores, target))
    return {"delta": delta, "fosc": first_order_stationarity(gradient, delta, options["eps"])}


@ops("adauc", "adauc_project_alpha")
def adauc_project_alpha(inputs, params):
    renamed(params, {})
    return {"alpha": project_alpha(inputs["a"], inputs["b"], inputs["alpha"])}


@ops("drauc", "drauc_loss")
def drauc_loss(inputs, params):
    scalars = [inputs[name] for name in ("a", "b", "alpha")]
    options = renamed(_given(params), {"margin": "margin", "k": "k"})
    return {"loss": ranking.drauc_loss(inputs["scores"].double(), inputs["target"].long(), *scalars, **options)}


@ops("drauc", "drauc_perturb")
def drauc_perturb(inputs, params):
    names = {"lr": "lr", "steps": "steps", "normalize_grad": "normalize", "clip": "bounds"}
    options = renamed({key: value for key, value in _given(params).items() if key not in ("cost", "model")}, names)
    options["bounds"] = tuple(options.get("bounds", _UNBOUNDED))
    target = inputs["target"].long()
    multiplier = torch.where(target == 1, inputs["lambda_pos"], inputs["lambda_neg"]).double()

    def terms(scores, target):
        return margin_auc_terms(scores, target, inputs["a"], inputs["b"], inputs["alpha"])

    moved = ranking.wasserstein_ascent(
        _linear(inputs), inputs["X"].double(), target, terms, multiplier, inputs["delta0"].double(), **options
    )
    return {
        "delta": moved.delta,
        "cost": moved.cost,
        "mean_cost_pos": moved.cost[target == 1].mean(),
        "mean_cost_neg": moved.cost[target == 0].mean(),
    }


@ops("drauc", "drauc_class_budgets")
def drauc_class_budgets(inputs, params):
    renamed(params, {})
    return class_budgets(float(inputs["epsilon"]), float(inputs["prior"]), float(inputs["k"]))._asdict()


@ops("drauc", "drauc_dual_step")
def drauc_dual_step(inputs, params):
    options = renamed(params, {"lr": "lr"})
    return {"lambda": dual_step(inputs["lambda"], float(inputs["budget"]), inputs["mean_cost"], **options)}
