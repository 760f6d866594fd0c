"""Ops of `reconboost`."""

from __future__ import annotations

from equipoise import multimodal
from golden_ops import Ops, renamed

ops = Ops()


@ops("reconboost", "reconcilement_loss")
def reconcilement_loss(inputs, params):
    names = ("label_weight", "reconcile_weight", "mode", "class_average", "reduction", "allow_negative")
    others = inputs.get("other_logits")
    loss = multimodal.reconcilement_loss(
        inputs["logits"].double(),
        inputs["target"],
        None if others is None else others.double(),
        **renamed(params, {name: name for name in names}),
    )
    return {"loss": loss}


@ops("reconboost", "memory_consolidation_loss")
def memory_consolidation_loss(inputs, params):
    given = renamed(params, {"alpha": "alpha"})
    logits, previous = inputs["logits"].double(), inputs["previous_logits"].double()
    return {"loss": multimodal.memory_consolidation_loss(logits, previous, **given)}


@ops("reconboost", "residual_target")
def residual_target(inputs, params):
    given = renamed(params, {"reconcile_weight": "reconcile_weight"})
    return {"residual": multimodal.residual_target(inputs["other_logits"].double(), inputs["target"], **given)}


@ops("reconboost", "ensemble_logits")
def ensemble_logits(inputs, params):
    given = inputs["per_modality_logits"]
    named = isinstance(given, dict)
    parts = {name: value.double() for name, value in given.items()} if named else given.double()
    logits = multimodal.ensemble_logits(parts, **renamed(params, {"boost_rate": "boost_rate", "exclude": "exclude"}))
    return {"logits": logits, "prediction": logits.argmax(1)}
