"""Ops of `gie` for ranking and for what a graph looks like."""

from __future__ import annotations

from equipoise.knowledge import filtered_ranking, krackhardt_hierarchy, rank_metrics, triangle_curvature
from golden_ops import Ops

ops = Ops()


_KS = (1, 3, 5, 10, 20, 50, 100)


@ops("gie", "filtered_ranking")
def ranking(inputs, params):
    known = inputs.get("known_true")
    found = filtered_ranking(
        inputs["scores"].double(), inputs["target"], None if known is None else known.bool(), **params
    )
    result = {f"rank_{kind}": getattr(found, kind) for kind in ("optimistic", "pessimistic", "realistic")}
    for kind, suffix in (("realistic", ""), ("optimistic", "_optimistic"), ("pessimistic", "_pessimistic")):
        metrics = rank_metrics(getattr(found, kind), found.candidates, _KS)
        result |= {f"{name.replace('@', '_at_')}{suffix}": value for name, value in metrics.items()}
    return result


@ops("gie", "krackhardt_hierarchy")
def hierarchy(inputs, params):
    return {"value": krackhardt_hierarchy(**inputs, **params)}


@ops("gie", "triangle_curvature")
def curvature(inputs, params):
    return {"value": triangle_curvature(**{name: value.double() for name, value in inputs.items()}, **params)}
