"""Ops of `dr-moe` and `ue-mcm`."""

from __future__ import annotations

from equipoise.core.models.experts import soft_expert_fusion as fuse_experts
from equipoise.longtail.mistakes import metrics as mistakes
from equipoise.longtail.mistakes.branch_collaboration import collaboration_gate_fusion as fuse_branches
from equipoise.longtail.mistakes.objectives import (
    ComplementaryObjective,
    class_weights,
)
from equipoise.longtail.mistakes.objectives import (
    binary_auc_square_loss as auc_loss,
)
from equipoise.longtail.mistakes.objectives import (
    logit_adjusted_loss as adjusted_loss,
)
from equipoise.longtail.mistakes.objectives import (
    reweighted_ce as weighted_loss,
)
from golden_ops import Ops, renamed

ops = Ops()

_SCHEMES = {"effective_number": "effective"}


@ops("dr-moe", "binary_auc_square_loss")
def binary_auc_square_loss(inputs, params):
    return {"loss": auc_loss(inputs["score"].double(), inputs["target"], **renamed(params, {"margin": "margin"}))}


@ops("dr-moe", "soft_expert_fusion")
def soft_expert_fusion(inputs, params):
    names = {"normalize": "normalize", "fusion": "fusion", "temperature": "temperature"}
    options = renamed(params, names)
    if options.pop("normalize", "softmax") != "softmax":
        raise KeyError(f"params of soft_expert_fusion without an adapter: {params}")
    experts = inputs["expert_outputs"]
    fused, weights = fuse_experts(
        experts if isinstance(experts, list) else experts.double(), inputs["gate_logits"].double(), **options
    )
    return {"fused": fused, "weights": weights}


@ops("dr-moe", "reweighted_ce")
def reweighted_ce(inputs, params):
    names = {name: name for name in ("scheme", "beta", "reduction")}
    options = renamed(params, names, _SCHEMES)
    loss = weighted_loss(inputs["logits"].double(), inputs["target"], inputs["class_counts"], **options)
    options.pop("reduction", None)
    return {"loss": loss, "class_weight": class_weights(inputs["class_counts"], **options)}


@ops("dr-moe", "logit_adjusted_loss")
def logit_adjusted_loss(inputs, params):
    options = renamed(params, {"tau": "tau"})
    return {"loss": adjusted_loss(inputs["logits"].double(), inputs["target"], inputs["class_counts"], **options)}


@ops("dr-moe", "mistake_detection_metrics")
@ops("ue-mcm", "mistake_detection_metrics")
def mistake_detection_metrics(inputs, params):
    options = renamed(params, {name: name for name in ("threshold", "zero_division")})
    return mistakes.mistake_detection_metrics(inputs["prob_mistake"].double(), inputs["target"], **options)


@ops("ue-mcm", "collaboration_gate_fusion")
def collaboration_gate_fusion(inputs, params):
    logits = (inputs[name].double() for name in ("small_logits", "large_logits", "gate_logit"))
    found = fuse_branches(*logits, inputs["target"], **renamed(params, {"mode": "mode"}))
    return {"prob": found.prob, "nll": found.nll, "weight": found.weight, "loss": found.nll}


@ops("ue-mcm", "complementary_objective")
def complementary_objective(inputs, params):
    names = {name: name for name in ("weights", "tau", "scheme", "beta", "heads")}
    objective = ComplementaryObjective(inputs["class_counts"], **renamed(params, names, _SCHEMES))
    loss = objective(inputs["logits"].double(), inputs["target"])
    return {"loss": loss, "parts": objective.parts}
