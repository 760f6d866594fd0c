"""Ops of `er`: regularisers and the loss."""

from __future__ import annotations

from equipoise.knowledge import kg_cross_entropy, kg_regularizer
from golden_ops import Ops, renamed

ops = Ops()
_SETTINGS = ("kind", "family", "weight", "base", "scale", "a", "b", "eps", "soft", "tau", "p")


@ops("er", "kg_regularizer")
def regularizer(inputs, params):
    names = {name: name for name in _SETTINGS} | {"tail": "tail_map"}
    settings = renamed(params, names, {"inf": float("inf")})
    return {"loss": kg_regularizer(**inputs, **settings)}


@ops("er", "kg_cross_entropy")
def cross_entropy(inputs, params):
    scores = inputs["scores"].detach().requires_grad_()
    loss = kg_cross_entropy(**{**inputs, "scores": scores}, **params)
    loss.backward()
    return {"loss": loss, "grad": scores.grad}
