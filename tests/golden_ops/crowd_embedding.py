"""Ops of `dmoe`."""

from __future__ import annotations

from equipoise.crowd.embedding import distributional, gram_solvers, losses, margins
from golden_ops import Ops, renamed

ops = Ops()
_SETTINGS = {name: name for name in ("p", "gamma0", "lam", "mu")}


def _of_gram(inputs):
    return {"gram": inputs["gram"].double(), "triplets": inputs["triplets"].long()}


@ops("dmoe", "ordinal_margin")
def ordinal_margin(inputs, params):
    places = inputs["gram"] if "gram" in inputs else inputs["embedding"]
    pairs = {name: inputs[name].long() for name in ("near_i", "near_j", "far_i", "far_j")}
    return margins.ordinal_margin(places.double(), **pairs, **renamed(params, {"form": "form"}))._asdict()


@ops("dmoe", "dmoe_objective")
def dmoe_objective(inputs, params):
    return {"objective": distributional.dmoe_objective(**_of_gram(inputs), **renamed(params, _SETTINGS))}


@ops("dmoe", "hinge_prox")
def hinge_prox(inputs, params):
    return {"e": distributional.hinge_prox(inputs["s"].double(), **renamed(params, _SETTINGS))}


@ops("dmoe", "psd_projection")
def psd_projection(inputs, params):
    renamed(params, {})
    return {"projection": distributional.psd_projection(inputs["matrix"].double())}


@ops("dmoe", "nuclear_prox")
def nuclear_prox(inputs, params):
    settings = renamed(params, {"threshold": "threshold"})
    return {"prox": distributional.nuclear_prox(inputs["matrix"].double(), **settings)}


@ops("dmoe", "dmoe_admm_step")
def dmoe_admm_step(inputs, params):
    multipliers = {name: inputs[name].double() for name in ("z1", "z2", "Z3", "Z4") if name in inputs}
    return distributional.dmoe_admm_step(**_of_gram(inputs), **multipliers, **renamed(params, _SETTINGS))._asdict()


@ops("dmoe", "triplet_loss")
def triplet_loss(inputs, params):
    names = ("kind", "reduction", "margin", "delta", "alpha", "p", "gamma0", "lower_weight", "upper_weight")
    settings = renamed(params, {name: name for name in names})
    return {"loss": losses.triplet_loss(inputs["embedding"], inputs["triplets"].long(), **settings)}


@ops("dmoe", "dmoe_fit")
def dmoe_fit(inputs, params):
    given = {"triplets": inputs["triplets"].long(), "n_items": inputs["n_items"]}
    return gram_solvers.dmoe_fit(**given, **renamed(params, _SETTINGS))._asdict()
