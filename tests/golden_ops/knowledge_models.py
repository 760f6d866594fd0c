"""Ops of `gie` and `er` that score triples."""

from __future__ import annotations

from equipoise.knowledge import Stereographic, gie_score, givens_rotation, kg_score
from golden_ops import Ops, renamed

ops = Ops()


@ops("gie", "stereographic_ops")
def stereographic(inputs, params):
    space, x, y = Stereographic(**params), inputs["x"], inputs["y"]
    return {
        "mobius_add": space.mobius_add(x, y),
        "expmap0": space.expmap0(x),
        "logmap0": space.logmap0(x),
        "distance": space.dist(x, y),
    }


@ops("gie", "givens_rotation")
def rotation(inputs, params):
    return {"y": givens_rotation(**inputs, **params)}


@ops("gie", "gie_score")
def geometry_interaction(inputs, params):
    score, weights = gie_score(**inputs, **params)
    return {"score": score, "weights": weights}


@ops("er", "kg_score")
def score(inputs, params):
    return {"score": kg_score(**inputs, **renamed(params, {"model": "model", "norm": "norm", "p": "norm"}))}
