"""Ops of `nc-grassmannian` and `nc-generalization`."""

from __future__ import annotations

import torch

from equipoise.longtail import classification_margins, grassmannian_frame, neural_collapse_metrics, simplex_etf
from equipoise.longtail.collapse.grassmannian import frame_correlation, welch_bound
from equipoise.longtail.collapse.margins import (
    greedy_cover_number,
    multiclass_margin_bound,
    pairwise_min_margin,
    ufm_svm_optimum,
)
from golden_ops import Ops

ops = Ops()


@ops("nc-grassmannian", "simplex_etf")
def simplex(inputs, params):
    frame = simplex_etf(params["num_classes"], params["dim"])
    return {"gram": frame @ frame.T}


@ops("nc-grassmannian", "grassmannian_frame")
def grassmannian(inputs, params):
    return {"max_cosine": grassmannian_frame(params["num_vectors"], params["dim"], signed=params["signed"]).max_cosine}


@ops("nc-grassmannian", "welch_bound")
def welch(inputs, params):
    return {"bound": welch_bound(params["num_vectors"], params["dim"])}


@ops("nc-grassmannian", "frame_correlation")
def correlation(inputs, params):
    return frame_correlation(inputs["frame"])._asdict()


@ops("nc-grassmannian", "neural_collapse_metrics")
def collapse(inputs, params):
    options = {"global_mean": params["global_mean"]} if "global_mean" in params else {}
    return neural_collapse_metrics(
        inputs["features"].double(), inputs["target"], inputs.get("weight"), inputs.get("bias"), **options
    )


@ops("nc-generalization", "classification_margins")
def margins(inputs, params):
    features, weight = inputs["features"].detach().double(), inputs["weight"].detach().double()
    logits = features @ weight.T + inputs["bias"].detach()
    found = classification_margins(logits, inputs["target"])
    return {
        "margin": found,
        "p_min": found.min(),
        "pairwise_min_margin": pairwise_min_margin(logits, inputs["target"], len(weight)),
        "normalized_p_min": found.min() / (weight.norm() * features.norm(dim=1).max()),
    }


@ops("nc-generalization", "ufm_svm_optimum")
def optimum(inputs, params):
    return {"objective": ufm_svm_optimum(params["num_classes"], params.get("per_class", 1)).objective}


@ops("nc-generalization", "greedy_cover_number")
def cover(inputs, params):
    return {"number": greedy_cover_number(inputs["points"].double(), params["eps"])}


@ops("nc-generalization", "multiclass_margin_bound_terms")
def bound(inputs, params):
    classes = len(inputs["class_counts"])
    matrices = [torch.as_tensor(inputs[f"pair_margins_class_{a}"]).double() for a in range(classes)]
    return multiclass_margin_bound(
        matrices, inputs["gamma"].double(), inputs["complexity"].double(), params["K"], params["delta"]
    )
