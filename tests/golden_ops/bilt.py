"""Ops of `bilt`."""

from __future__ import annotations

import torch

from equipoise.longtail import AIGDL, BiLTLoss, LabelTree, crm_decision, hierarchical_metrics
from golden_ops import Ops

ops = Ops()


@ops("bilt", "hierarchy_cost_matrices")
def costs(inputs, params):
    tree = LabelTree.from_paths(inputs["paths"])
    return {f"cost_level_{h}": tree.cost(h) for h in range(tree.num_levels)}


@ops("bilt", "aigdl_loss")
def aigdl(inputs, params):
    level = AIGDL(inputs["cost"].double(), params["beta"], params.get("add_identity", False)).double()
    with torch.no_grad():
        level.weight.copy_(inputs["weight"].detach())
    logits = inputs["logits"].detach().double().clone().requires_grad_()
    plain, smooth = level.loss(logits, inputs["target"], params["epsilon"], params["gamma"])
    (plain + smooth).backward()
    return {
        "ce": plain.detach(),
        "smooth_ce": smooth.detach(),
        "loss": (plain + smooth).detach(),
        "adjusted_logits": level(logits).detach(),
        "distance": level.distance,
        "grad_logits": logits.grad,
        "grad_weight": level.weight.grad,
    }


@ops("bilt", "bilt_total_loss")
def total(inputs, params):
    tree = LabelTree.from_paths(inputs["paths"])
    options = {name: params[name] for name in ("alpha", "beta", "epsilon", "gamma", "weighting") if name in params}
    loss = BiLTLoss(tree, add_identity=params.get("add_identity", False), **options).double()
    levels = range(tree.num_levels)
    with torch.no_grad():
        for h in levels:
            loss.levels[h].weight.copy_(inputs[f"weight_level_{h}"].detach())
    logits = [inputs[f"logits_level_{h}"].detach().double() for h in levels]
    target = inputs["target_fine"]
    return {
        "loss": loss(logits, target).detach(),
        "level_losses": torch.stack(loss.level_losses(logits, target)).detach(),
        "level_weights": torch.tensor(loss.level_weights, dtype=torch.float64),
    }


@ops("bilt", "hierarchical_metrics")
def metrics(inputs, params):
    tree = LabelTree.from_paths(inputs["paths"])
    scores = inputs["scores"].detach().double()
    found = hierarchical_metrics(scores, inputs["target"], tree, params["ks"])
    return {**found, "crm_pred": crm_decision(scores.softmax(1), tree.cost(0))}
