"""Ops of `edge`."""

from __future__ import annotations

from equipoise import openworld
from golden_ops import Ops, renamed

ops = Ops()


@ops("edge", "multilabel_ood_scores")
def multilabel_ood_scores(inputs, params):
    return openworld.multilabel_ood_scores(inputs["logits"].double(), **renamed(params, {}))


@ops("edge", "EDGELoss")
def edge_loss(inputs, params):
    names = ("alpha", "beta", "k", "margin", "surrogate", "tail", "exclude_unlabelled")
    loss = openworld.EDGELoss(start_epoch=0, **renamed(params, {name: name for name in names}))
    id_logits = inputs["id_logits"].double()
    # Without outliers the case cannot say how many classes these would have.
    ood_logits = inputs["ood_logits"].double().reshape(-1, id_logits.shape[1])
    return loss(id_logits, inputs["target"].long(), ood_logits, return_parts=True)._asdict()


@ops("edge", "dilation_distance")
def dilation_distance(inputs, params):
    sides = inputs["id_features"].double(), inputs["ood_features"].double()
    options = renamed(params, {"k": "k", "normalise": "normalize"})
    distance = openworld.DilationDistance(**options)
    distance.update_id(sides[0])
    distance.update_ood(sides[1])
    return {
        "distance": openworld.dilation_distance(*sides, **options),
        "id_singular_values": distance.singular_values("id"),
        "ood_singular_values": distance.singular_values("ood"),
    }


@ops("edge", "tail_ood_metrics")
def tail_ood_metrics(inputs, params):
    options = renamed(params, {"num_head": "num_head", "recall": "recall"})
    return openworld.tail_ood_metrics(
        inputs["id_scores"].double(), inputs["target"], inputs["ood_scores"].double(), **options
    )
