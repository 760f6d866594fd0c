"""Ops of `meta-wrapper`."""

from __future__ import annotations

from torch.nn.functional import binary_cross_entropy_with_logits

from equipoise import recsys
from equipoise.core.solvers.bilevel import one_step_hypergradient
from golden_ops import Ops, renamed

ops = Ops()


@ops("meta-wrapper", "one_step_hypergradient")
def hypergradient(inputs, params):
    def loss(side):
        x, y = inputs[f"x_{side}"].double(), inputs[f"y_{side}"].double()
        return lambda theta, phi: binary_cross_entropy_with_logits(x @ (theta * phi.sigmoid()), y)

    settings = renamed(params, {"inner_lr": "inner_lr"})
    theta, phi = (inputs[name].detach().double() for name in ("theta", "phi"))
    full, first = (
        one_step_hypergradient(loss("inner"), loss("outer"), theta, phi, first_order=order, **settings)
        for order in (False, True)
    )
    return {
        "theta_prime": full.theta_prime,
        "outer_loss": full.outer_loss,
        "grad_theta": full.theta,
        "grad_phi": full.phi,
        "grad_theta_first_order": first.theta,
        "grad_phi_first_order": first.phi,
    }


@ops("meta-wrapper", "grouped_auc")
def grouped_auc(inputs, params):
    settings = renamed(params, {})
    return {"value": recsys.grouped_auc(inputs["group"], inputs["score"].double(), inputs["target"], **settings)}


@ops("meta-wrapper", "interest_pooling")
def interest_pooling(inputs, params):
    settings = renamed(params, {"normalization": "normalization"})
    behavior, logit = (inputs[name].double() for name in ("behavior", "logit"))
    return {"pooled": recsys.interest_pooling(behavior, logit, inputs["mask"], **settings)}
