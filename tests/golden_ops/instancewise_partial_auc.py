"""Ops of `pauci` and `pauc-two-formulations`."""

from __future__ import annotations

import torch
from torch import nn

from equipoise import ranking
from equipoise.core.curves.selection import average_top_fraction
from equipoise.core.solvers.saddle import SaddleLoss
from equipoise.core.solvers.saddle_solvers import AcceleratedDescentAscent
from equipoise.ranking.partial.instancewise_objective import InnerVariables
from golden_ops import Ops, renamed

ops = Ops()

_INNER = ("a", "b", "gamma", "s_pos", "s_neg", "theta_a", "theta_b")


def _region(params):
    return {"max_fpr": params.pop("neg_frac", None) or 1.0, "min_tpr": 1 - (params.pop("pos_frac", None) or 1.0)}


def _objective(inputs, params, relaxation, **options):
    params = dict(params)
    region = _region(params)
    inner = {name: inputs.get(name) for name in _INNER}
    if region["min_tpr"] == 0:  # the one-way form has no threshold on positives and no bound by a
        inner |= {"s_pos": None, "theta_a": None}
    options |= renamed({k: v for k, v in params.items() if v is not None}, {"kappa": "kappa", "omega": "omega"})
    value = ranking.instancewise_partial_auc_objective(
        inputs["scores"].double(),
        inputs["target"],
        InnerVariables(**inner),
        relaxation=relaxation,
        from_logits=False,
        **region,
        **options,
    )
    return {"value": value}


@ops("pauci", "pauci_objective")
def pauci_objective(inputs, params):
    return _objective(inputs, params, "softplus")


@ops("pauc-two-formulations", "upauci_objective")
def upauci_objective(inputs, params):
    weight = inputs.get("c")
    return _objective(inputs, params, "auxiliary", weight=None if weight is None else weight.double())


@ops("pauci", "exact_partial_square_risk")
@ops("pauc-two-formulations", "exact_partial_square_risk")
def exact_partial_square_risk(inputs, params):
    params = {name: value for name, value in params.items() if value is not None}
    region = _region(params)
    options = renamed(params, {"margin": "margin", "boundary": "boundary"})
    risk = ranking.exact_partial_square_risk(
        inputs["scores"].double(), inputs["target"], from_logits=False, **region, **options
    )
    return {"loss": risk.loss, "a_star": risk.a, "b_star": risk.b, "gamma_star": risk.gamma}


@ops("pauc-two-formulations", "pauci_smoothing_gap")
def pauci_smoothing_gap(inputs, params):
    params = {name: value for name, value in params.items() if value is not None}
    region = _region(params)
    options = renamed(params, {"kappa": "kappa"})
    gap = ranking.smoothing_gap(inputs["scores"].double(), inputs["target"], from_logits=False, **region, **options)
    return gap._asdict()


@ops("pauc-two-formulations", "average_top_fraction")
def average_top_fraction_(inputs, params):
    return {"value": average_top_fraction(inputs["x"].double(), **renamed(params, {"frac": "frac"}))}


class _NoisyQuadratic(SaddleLoss):
    """½ xᵀQx + xᵀAg − gᵀg, shifted by the noise of a batch."""

    def __init__(self, inputs, params):
        super().__init__()
        self.x = nn.Parameter(inputs["x0"].double().clone())
        self.g = nn.Parameter(inputs["g0"].double().clone())
        self.q, self.a = inputs["Q"].double(), inputs["A"].double()
        self.boxes = [params.get("clip_min"), params.get("clip_max")]

    def min_parameters(self):
        return [self.x]

    def max_parameters(self):
        return [self.g]

    def bounds(self):
        return {p: tuple(box) for p, box in zip((self.x, self.g), self.boxes, strict=True) if box is not None}

    def forward(self, noise):
        return (
            self.x @ self.q @ self.x / 2
            + self.x @ self.a @ self.g
            - self.g @ self.g
            + noise[0] @ self.x
            + (noise[1] @ self.g)
        )


@ops("pauci", "asgda_trajectory")
@ops("pauc-two-formulations", "asgda_trajectory")
def asgda_trajectory(inputs, params):
    formula = "0.5 x^T Q x + x^T A g - g^T g + n_t1.x + n_t2.g"
    if params.get("init", "first_gradient") != "first_gradient" or params.get("objective", formula) != formula:
        raise KeyError(f"asgda_trajectory without an adapter: {params}")
    loss = _NoisyQuadratic(inputs, params)
    names = ("k", "m", "c1", "c2")
    optimizer = AcceleratedDescentAscent(
        loss, lr=params["nu"], dual_lr={"x": params["nu"], "g": params["lam"]}, **{n: params[n] for n in names}
    )
    trajectory = []
    for noise in inputs["noise"].double():

        def closure(noise=noise):
            optimizer.zero_grad()
            value = loss(noise)
            value.backward()
            return value

        optimizer.step(closure)
        trajectory.append(torch.cat([loss.x, loss.g]).detach())
    return {
        "trajectory": torch.stack(trajectory),
        "v_final": optimizer.state[loss.x]["estimate"],
        "w_final": optimizer.state[loss.g]["estimate"],
    }
