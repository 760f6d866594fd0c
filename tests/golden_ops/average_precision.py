"""Ops of `soprc`."""

from __future__ import annotations

from equipoise import ranking
from equipoise.ranking.precision import auprc
from golden_ops import Ops, renamed

ops = Ops()


@ops("soprc", "soprc_query_loss")
def soprc_query_loss(inputs, params):
    options = renamed(params, {"tau1": "tau1", "tau2": "tau2", "tpr_grad": "tpr_grad"})
    sim_pos, sim_neg, v = (inputs[name].double() for name in ("sim_pos", "sim_neg", "v"))
    return {"loss": ranking.soprc_query_loss(sim_pos, sim_neg, v, float(inputs["prior"]), **options)}


@ops("soprc", "soprc_interpolate")
def soprc_interpolate(inputs, params):
    return {"v": auprc.soprc_interpolate(inputs["sim_pos"].double(), **renamed(params, {"num_v": "num_v"}))}


@ops("soprc", "semi_variance")
def semi_variance(inputs, params):
    options = renamed(params, {"lambda_pos": "lambda_pos", "lambda_neg": "lambda_neg"})
    return {"loss": auprc.semi_variance(inputs["sim_pos"].double(), inputs["sim_neg"].double(), **options)}


@ops("soprc", "soprc_batch_loss")
def soprc_batch_loss(inputs, params):
    params = {name: value for name, value in params.items() if name != "v_update"}
    options = renamed(params, {name: name for name in ("tau1", "tau2", "beta", "prior_mul", "tpr_grad")})
    loss = ranking.SOPRCLoss(
        inputs["class_counts"], num_v=inputs["v_before"].shape[1], semi_variance_weight=0.0, **options
    ).double()
    loss.v.copy_(inputs["v_before"])
    value = loss(inputs["embeddings"].double(), inputs["target"])
    return {"loss": value, "v_after": loss.v}


@ops("soprc", "average_precision")
def average_precision(inputs, params):
    renamed(params, {})
    return {"value": ranking.average_precision(inputs["scores"].double(), inputs["target"].long())}


@ops("soprc", "retrieval_metrics")
def retrieval_metrics(inputs, params):
    names = {"recall_k": "recall_at", "metric": "similarity", "no_positive": "no_positive"}
    return ranking.retrieval_metrics(inputs["embeddings"].double(), inputs["target"].long(), **renamed(params, names))
