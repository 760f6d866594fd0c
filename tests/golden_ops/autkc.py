"""Ops of `autkc`."""

from __future__ import annotations

from equipoise.openworld import AUTKC, AUTKCLoss, TopKEntropyLoss, TopKHingeLoss
from equipoise.openworld.topk.metrics import true_label_rank
from golden_ops import Ops, renamed

ops = Ops()


@ops("autkc", "autkc")
def autkc(inputs, params):
    k, ties = params.get("k", 5), params.get("ties", "strict")
    several = [k] if isinstance(k, int) else list(k)
    scores, target = inputs["scores"].double(), inputs["target"]
    metric = AUTKC(several, ties=ties)
    metric.update(scores, target)
    found = dict(metric.compute())
    for one in several:
        found[f"top{one}_acc"] = found.pop(f"top_{one}_accuracy")
        if ties == "strict":
            found[f"per_sample@{one}"] = (1 - true_label_rank(scores, target) / one).clamp_min(0)
    return found


def _with_gradient(loss, inputs, name="value", gradient="grad_logits"):
    logits = inputs["logits"].detach().double().clone().requires_grad_()
    value = loss(logits, inputs["target"])
    value.sum().backward()
    return {name: value.detach(), gradient: logits.grad}


@ops("autkc", "AUTKCLoss")
def loss(inputs, params):
    names = ("k", "surrogate", "comparators", "activation", "reduction", "ignore_index")
    options = renamed(params, {name: name for name in names}, {"exp": "exponential"})
    return _with_gradient(AUTKCLoss(**options), inputs)


@ops("autkc", "TopKHingeLoss")
def hinge(inputs, params):
    variants = params.get("variant", 5)
    found = {}
    for variant in [variants] if isinstance(variants, int) else variants:
        chosen = TopKHingeLoss(params.get("k", 5), variant)
        found |= _with_gradient(chosen, inputs, f"variant{variant}", f"variant{variant}_grad_logits")
    if isinstance(variants, int):
        found |= {"value": found[f"variant{variants}"], "grad_logits": found[f"variant{variants}_grad_logits"]}
    return found


@ops("autkc", "TopKEntropyLoss")
def entropy(inputs, params):
    return _with_gradient(TopKEntropyLoss(params.get("k", 5)), inputs)
