"""Ops of `tkpr`."""

from __future__ import annotations

from equipoise.openworld import TKPRLoss, multilabel_ranking_metrics
from equipoise.openworld.multilabel.metrics import TKPR
from golden_ops import Ops, renamed

ops = Ops()


@ops("tkpr", "tkpr")
def tkpr(inputs, params):
    options = renamed(params, {name: name for name in ("k", "normalizer", "ties", "empty_target")})
    if options.pop("empty_target", "skip") != "skip":
        raise ValueError("the metric skips empty targets")
    normalizers = options.pop("normalizer", ["one", "num_relevant", "ideal"])
    found = {}
    for normalizer in [normalizers] if isinstance(normalizers, str) else normalizers:
        metric = TKPR(normalizer=normalizer, **options)
        metric.update(inputs["scores"].double(), inputs["target"], inputs.get("mask"))
        found[normalizer], found["num_skipped"] = metric.compute(), metric.num_skipped
    return found


@ops("tkpr", "multilabel_ranking_metrics")
def ranking_metrics(inputs, params):
    options = renamed(params, {name: name for name in ("k", "ties", "empty_target")})
    return multilabel_ranking_metrics(inputs["scores"].double(), inputs["target"], mask=inputs.get("mask"), **options)


@ops("tkpr", "TKPRLoss")
def loss(inputs, params):
    names = ("k", "surrogate", "comparators", "normalizer", "activation", "reduction")
    options = renamed(params, {name: name for name in names}, {"exp": "exponential"})
    return {"value": TKPRLoss(**options)(inputs["logits"].double(), inputs["target"], inputs.get("mask"))}
