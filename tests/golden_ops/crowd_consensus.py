"""Ops of `isplit-lbi` that are rankings of a consensus."""

from __future__ import annotations

from equipoise import crowd
from golden_ops import Ops, renamed

ops = Ops()


def _columns(inputs):
    """Items and, where there are some, weights, under our names; the number of items as an int."""
    found = {name: inputs[name].long() for name in ("item_i", "item_j")}
    if "weight" in inputs:
        found["weight"] = inputs["weight"].double()
    return {**found, "num_items": int(inputs["n_items"])}


@ops("isplit-lbi", "hodge_rank")
def hodge_rank(inputs, params):
    return crowd.hodge_rank(**_columns(inputs), y=inputs["y"].double(), **renamed(params, {}))._asdict()


@ops("isplit-lbi", "bradley_terry_mle")
def bradley_terry_mle(inputs, params):
    settings = renamed(params, {"ridge": "ridge"})
    return crowd.bradley_terry_mle(**_columns(inputs), y=inputs["y"].long(), **settings)._asdict()


@ops("isplit-lbi", "thurstone_mle")
def thurstone_mle(inputs, params):
    settings = renamed(params, {"ridge": "ridge"})
    return crowd.thurstone_mle(**_columns(inputs), y=inputs["y"].long(), **settings)._asdict()
