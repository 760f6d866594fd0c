"""Ops of `deep-svp`."""

from __future__ import annotations

from equipoise import crowd
from golden_ops import Ops, renamed

ops = Ops()
_SAME = {name: name for name in ("model", "lambda1", "lambda2", "mode", "reduction", "binary")}


@ops("deep-svp", "outlier_gamma")
def outlier_gamma(inputs, params):
    settings = renamed(params, _SAME)
    return crowd.outlier_gamma(inputs["score_diff"].double(), inputs["y"].long(), **settings)._asdict()


@ops("deep-svp", "pair_outlier_loss")
def pair_outlier_loss(inputs, params):
    given = {name: inputs[name].double() for name in ("score_i", "score_j", "strength", "gamma") if name in inputs}
    return {"loss": crowd.pair_outlier_loss(**given, y=inputs["y"].long(), **renamed(params, _SAME))}


@ops("deep-svp", "majority_vote")
def majority_vote(inputs, params):
    columns = [inputs[name].long() for name in ("item_i", "item_j", "y")]
    return crowd.majority_vote(*columns, inputs.get("strength"), **renamed(params, _SAME))._asdict()


@ops("deep-svp", "robust_linear_ranker")
def robust_linear_ranker(inputs, params):
    columns = [inputs[name].long() for name in ("item_i", "item_j", "y")]
    strength = inputs["strength"].double() if "strength" in inputs else None
    found = crowd.robust_linear_ranker(inputs["features"].double(), *columns, strength, **renamed(params, _SAME))
    return found._asdict()
