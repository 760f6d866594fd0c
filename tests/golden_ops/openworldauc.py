"""Ops of `openworldauc`."""

from __future__ import annotations

import torch

from equipoise.openworld.outliers import detection
from equipoise.openworld.prompts import gated_auc as gated_pairs
from equipoise.openworld.prompts import openworld_auc as open_world
from golden_ops import Ops, renamed

ops = Ops()

_DIRECTIONS = {"base": "in", "new": "out", "in": "in", "out": "out"}


@ops("openworldauc", "openworld_auc")
def openworld_auc(inputs, params):
    renamed(params, {"ties": "", "higher_is": ""})
    scores = [inputs[f"{side}_scores"].double() for side in ("base", "new")]
    correct = [inputs[f"{side}_correct"] for side in ("base", "new")]
    higher_is = _DIRECTIONS[params.get("higher_is", "base")]
    ties = params.get("ties", "half")
    found = {}
    for rule in [ties] if isinstance(ties, str) else ties:
        value = open_world.openworld_auc(*scores, *correct, ties=rule, higher_is=higher_is)
        found |= {f"openworld_auc_{rule}": value, "value": value}
    base, new = (float(x.double().mean()) for x in correct)
    return found | {
        "auroc": detection.ood_metrics(*scores, higher_is=higher_is)["auroc"],
        "base_acc": base,
        "new_acc": new,
        "harmonic_mean": open_world.harmonic_mean_accuracy(base, new),
    }


@ops("openworldauc", "GatedPairwiseAUCLoss")
def gated_pairwise_auc_loss(inputs, params):
    loss = gated_pairs.GatedPairwiseAUCLoss(**renamed(params, {"margin": "margin", "detach_gate": "detach_gate"}))
    sides = (inputs["base_scores"], inputs["new_scores"], inputs.get("base_gate"), inputs.get("new_gate"))
    return {"value": loss(*(x if x is None else torch.as_tensor(x).double() for x in sides))}


@ops("openworldauc", "pseudo_base_new_partitions")
def pseudo_base_new_partitions(inputs, params):
    names = ("num_classes", "num_detectors")
    given = {**inputs, **params}
    found = gated_pairs.pseudo_base_new_partitions(**renamed(given, {name: name for name in names}))
    return {name: [getattr(one, name).tolist() for one in found] for name in ("pseudo_base", "pseudo_new", "labels")}


@ops("openworldauc", "base_to_new_score")
def base_to_new_score(inputs, params):
    (count,) = renamed(params, {"num_pseudo_base": "num_pseudo_base"}).values()
    logits = inputs["logits"]
    logits = logits.double() if isinstance(logits, torch.Tensor) else [z.double() for z in logits]
    return {"score": gated_pairs.base_to_new_score(logits, count)}


@ops("openworldauc", "harmonic_mean_accuracy")
def harmonic_mean_accuracy(inputs, params):
    renamed(params, {})
    return {"value": open_world.harmonic_mean_accuracy(*(float(x) for x in inputs.values()))}


@ops("openworldauc", "overall_accuracy")
def overall_accuracy(inputs, params):
    renamed(params, {})
    return {"value": open_world.overall_accuracy(inputs["logits"].double(), inputs["target"])}
