"""Ops of `focal-sam` and `sse-sam`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.longtail import (
    SAM,
    SSESAM,
    ClassConditionalSAM,
    FocalSAM,
    ImbSAM,
    class_hessian_extremes,
    class_sharpness,
    focal_coefficients,
)
from equipoise.longtail.sharpness.class_sam import sse_rho_head_schedule
from golden_ops import Ops

ops = Ops()


def _linear(inputs):
    weight, bias = inputs["W"].detach().double(), inputs["b"].detach().double()
    model = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.copy_(bias)
    return model


def _each(logits, target):
    return cross_entropy(logits, target, reduction="none")


def _stepped(make, inputs, params):
    model = _linear(inputs)
    x, y = inputs["X"].detach().double(), inputs["target"]
    base = {"lr": params["lr"], "weight_decay": params["weight_decay"], "momentum": params.get("momentum", 0.0)}
    optimizer = make(model.parameters(), torch.optim.SGD, base)
    optimizer.step(lambda: (_each(model(x), y), y))
    return {
        "grad_W": model.weight.grad,
        "grad_b": model.bias.grad,
        "W_new": model.weight.detach(),
        "b_new": model.bias.detach(),
    }


@ops("focal-sam", "focal_sam_step")
def focal(inputs, params):
    counts = inputs["class_counts"]

    def make(model, base, options):
        return FocalSAM(model, base, counts, params["rho"], params["gamma"], params["lam"], **options)

    return {
        "coefficients": focal_coefficients(counts, params["gamma"], params["lam"]),
        **_stepped(make, inputs, params),
    }


@ops("focal-sam", "sam_step")
def sam(inputs, params):
    return _stepped(lambda model, base, options: SAM(model, base, params["rho"], **options), inputs, params)


@ops("focal-sam", "class_conditional_sam_step")
def by_class(inputs, params):
    counts = inputs["class_counts"]
    radii = []

    def make(model, base, options):
        made = ClassConditionalSAM(model, base, counts, params["rho0"], params["power"], **options)
        radii.extend(made.rho)
        return made

    found = _stepped(make, inputs, params)
    return {"rho": torch.tensor(radii, dtype=torch.float64), **found}


@ops("focal-sam", "class_sharpness")
def sharpness(inputs, params):
    model = _linear(inputs)
    x = inputs["X"].detach().double()
    return {"sharpness": class_sharpness(model, _each, x, inputs["target"], params["rho"], len(inputs["b"]))}


def _any_counts(inputs):
    return [10] * len(inputs["b"])


@ops("focal-sam", "imbsam_step")
@ops("sse-sam", "imbsam_step")
def imb(inputs, params):
    def make(model, base, options):
        scale = params.get("tail_loss_scale", 1.0)
        return ImbSAM(
            model,
            base,
            _any_counts(inputs),
            params["rho"],
            tail=params["tail_classes"],
            tail_loss_scale=scale,
            **options,
        )

    return _stepped(make, inputs, params)


@ops("sse-sam", "sse_sam_step")
def sse(inputs, params):
    def make(model, base, options):
        made = SSESAM(
            model,
            base,
            _any_counts(inputs),
            total_epochs=2,
            gamma=0.5,
            rho_head=params["rho_head"],
            rho_tail=params["rho_tail"],
            tail=params["tail_classes"],
            **options,
        )
        made.set_epoch(params["stage"] - 1)
        return made

    return _stepped(make, inputs, params)


@ops("sse-sam", "sse_rho_head_schedule")
def schedule(inputs, params):
    found = sse_rho_head_schedule(params["total_epochs"], params["gamma"], params["rho_head"])
    return {"rho_head_per_epoch": torch.tensor(found, dtype=torch.float64)}


@ops("sse-sam", "class_hessian_extremes")
def extremes(inputs, params):
    hidden, out = inputs["W1"].shape[0], inputs["W2"].shape[0]
    model = nn.Sequential(nn.Linear(inputs["W1"].shape[1], hidden), nn.Tanh(), nn.Linear(hidden, out)).double()
    with torch.no_grad():
        for layer, k in ((model[0], 1), (model[2], 2)):
            layer.weight.copy_(inputs[f"W{k}"].detach())
            layer.bias.copy_(inputs[f"b{k}"].detach())
    found = class_hessian_extremes(model, _each, inputs["X"].detach().double(), inputs["target"], out)
    return {"lambda_min": found.lambda_min, "lambda_max": found.lambda_max}
