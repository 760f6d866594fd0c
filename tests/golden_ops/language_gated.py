"""Ops of `glu`."""

from __future__ import annotations

import dataclasses

import torch

from equipoise.language import energy_distance as energy
from equipoise.language import expected_gd_loss as gd_loss
from equipoise.language import (
    loss_crossing_step,
    loss_phases,
    ntk_spectrum,
    two_layer_empirical_ntk,
)
from equipoise.language import matched_glu_width as matched
from equipoise.language import two_layer_ntk as expected_ntk
from golden_ops import Ops, renamed

ops = Ops()


def _with_spectrum(kernel):
    return dataclasses.asdict(ntk_spectrum(kernel)) | {"ntk": kernel}


@ops("glu", "two_layer_ntk")
def two_layer_ntk(inputs, params):
    given = {name: value for name, value in params.items() if name not in ("activations", "init")}
    settings = renamed(given, {name: name for name in ("width", "sigma_w2", "sigma_v2", "sigma_p2")})
    if params.get("init", "lecun") != "lecun":
        raise KeyError(params["init"])
    found = {}
    for name in params["activations"]:
        for gated in (False, True):
            kernels = expected_ntk(inputs["x"].double(), activation=name, gated=gated, **settings)
            found[f"{name}_glu" if gated else name] = _with_spectrum(kernels.ntk) | {"nngp": kernels.nngp}
    return found


@ops("glu", "empirical_ntk")
def empirical_ntk(inputs, params):
    settings = renamed(params, {name: name for name in ("activation", "gated", "reduction")})
    weights = {name: inputs[name].double() for name in ("x", "w", "v")}
    weights["p"] = inputs["p"].double() if settings.pop("gated") else None
    full = two_layer_empirical_ntk(**weights, **{**settings, "reduction": "full"})
    return _with_spectrum(two_layer_empirical_ntk(**weights, **settings)) | {"ntk_full": full}


@ops("glu", "expected_gd_loss")
def expected_gd_loss(inputs, params):
    settings = dict(params)
    if settings.pop("loss", "mean of squares / 2") != "mean of squares / 2":
        raise KeyError("loss")
    settings = renamed(settings, {name: name for name in ("activation", "width", "eta", "steps")})
    eta, steps, y = settings.pop("eta"), settings.pop("steps"), inputs["y"].double()
    nets = {name: expected_ntk(inputs["x"].double(), gated=name == "glu", **settings) for name in ("plain", "glu")}
    forms = {name: loss_phases(kernels, y, eta).quadratic_form for name, kernels in nets.items()}
    found = {"quadratic_form_gap": forms["plain"] - forms["glu"]}
    for init in ("nngp", "zero"):
        found[f"crossing_step_{init}_init"] = loss_crossing_step(*nets.values(), y, eta, init_cov=init)
        for name, kernels in nets.items():
            found[f"{name}_{init}"] = gd_loss(kernels, y, eta, steps, init_cov=init)
    return found


@ops("glu", "matched_glu_width")
def matched_glu_width(inputs, params):
    renamed(params, {})
    return {"width": [matched(*sizes) for sizes in torch.as_tensor(inputs["in_hidden_out"]).long().tolist()]}


@ops("glu", "energy_distance")
def energy_distance(inputs, params):
    settings = renamed(params, {"squared": "squared"})
    return {"value": energy(inputs["a"].double(), inputs["b"].double(), **settings)}
