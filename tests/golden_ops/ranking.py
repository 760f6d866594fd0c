"""Ops of `multiclass-auc` and `tpauc`."""

from __future__ import annotations

from equipoise import ranking
from golden_ops import Ops, renamed

ops = Ops()

_SURROGATES = {"exp": "exponential"}
_AVERAGES = {"ova": "ovr"}
_REGIONS = {"tp": "two_way", "op": "one_way"}


@ops("multiclass-auc", "multiclass_auroc")
def multiclass_auroc(inputs, params):
    options = renamed(params, {"average": "average"}, _AVERAGES)
    return {"value": ranking.multiclass_auroc(inputs["scores"].double(), inputs["target"], **options)}


@ops("multiclass-auc", "multiclass_auc_loss")
def multiclass_auc_loss(inputs, params):
    names = {"surrogate": "surrogate", "gamma": "margin", "average": "average", "reduction": "reduction"}
    options = renamed(params, names, _SURROGATES | _AVERAGES)
    return {"loss": ranking.multiclass_auc_loss(inputs["scores"].double(), inputs["target"], **options)}


@ops("tpauc", "partial_auroc")
def partial_auroc(inputs, params):
    scores, target = inputs["scores"].double(), inputs["target"]
    params = dict(params)
    definition = params.pop("definition", "selection")
    if definition == "selection":
        options = renamed(params, {"pos_frac": "pos_frac", "neg_frac": "neg_frac", "ties": "ties"})
        return {"value": ranking.partial_auroc(scores, target, **options)}
    max_fpr, min_tpr = params.pop("max_fpr", 1.0), params.pop("min_tpr", 0.0)
    normalization = {None: "normalized", "mcclish": "mcclish"}[params.pop("standardize", None)]
    if params:
        raise KeyError(f"params of partial_auroc without an adapter: {params}")
    if min_tpr > 0:
        return {"value": ranking.tpauc(scores, target, max_fpr, min_tpr, normalization=normalization)}
    return {
        "value": ranking.opauc(scores, target, max_fpr, normalization=normalization),
        "sklearn_mcclish": ranking.opauc(scores, target, max_fpr, normalization="mcclish"),
    }


@ops("tpauc", "weighted_partial_auc_loss")
def weighted_partial_auc_loss(inputs, params):
    names = ("scheme", "gamma", "margin", "eps", "detach_weights")
    options = renamed(params, {**{name: name for name in names}, "mode": "region"}, _REGIONS)
    loss = ranking.weighted_partial_auc_loss(
        inputs["scores"].double(), inputs["target"], from_logits=False, normalize_weights=False, **options
    )
    return {"loss": loss}
