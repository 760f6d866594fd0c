"""Ops of `dcr`."""

from __future__ import annotations

import torch

from equipoise import multimodal
from golden_ops import Ops, renamed

ops = Ops()
_LOSS = {
    name: name
    for name in (
        "temperature",
        "ids",
        "reduction",
        "detach_negatives",
        "separate_denominators",
        "augmented_weight",
    )
}


@ops("dcr", "dcr_loss")
def dcr_loss(inputs, params):
    settings = renamed(params, _LOSS)
    if settings.get("ids") is not None:
        settings["ids"] = torch.as_tensor(settings["ids"])
    if "ids" in inputs:
        settings["ids"] = inputs["ids"]
    given = [inputs[name].double() for name in ("pred", "pred_augmented", "target")]
    each = {**settings, "reduction": "none"}
    return {
        "loss": multimodal.dcr_loss(*given, **settings),
        "per_sample": multimodal.dcr_loss(*given, **each),
    }


@ops("dcr", "reconstruction_loss")
def reconstruction_loss(inputs, params):
    pred, target = inputs["pred"].double(), inputs["target"].double()
    return {"loss": multimodal.reconstruction_loss(pred, target, **params)}


@ops("dcr", "nt_xent")
def nt_xent(inputs, params):
    settings = renamed(params, {"temperature": "temperature", "reduction": "reduction"})
    return {"loss": multimodal.nt_xent(inputs["za"].double(), inputs["zb"].double(), **settings)}


@ops("dcr", "gradient_cosine")
def gradient_cosine(inputs, params):
    return multimodal.gradient_cosine(inputs["grad_a"].double(), inputs["grad_b"].double(), **params)._asdict()


@ops("dcr", "paired_detail_accuracy")
def paired_detail_accuracy(inputs, params):
    category = inputs.get("category")
    return multimodal.paired_detail_accuracy(inputs["scores"].double(), category, **params)._asdict()


@ops("dcr", "clustering_scores")
def clustering_scores(inputs, params):
    return multimodal.clustering_scores(inputs["assignment"], inputs["label"], **params)._asdict()
