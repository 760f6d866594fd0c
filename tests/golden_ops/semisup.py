"""Ops of `maxmatch`."""

from __future__ import annotations

from equipoise import semisup
from golden_ops import Ops, renamed

ops = Ops()


@ops("maxmatch", "WorstCaseConsistencyLoss")
def worst_case_consistency_loss(inputs, params):
    names = ("threshold", "aggregate", "divergence", "temperature")
    criterion = semisup.WorstCaseConsistencyLoss(**renamed(params, {name: name for name in names}))
    terms = criterion.terms(inputs["weak_logits"].double(), inputs["strong_logits"].double())
    return {**terms._asdict(), "mask": terms.mask.double()}


@ops("maxmatch", "warmup_cosine_lr")
def warmup_cosine_lr(inputs, params):
    given = renamed(params, {name: name for name in ("base_lr", "warmup", "total")})
    steps = inputs["step"]
    if not steps.ndim:
        return {"lr": semisup.warmup_cosine_lr(steps, **given)}
    return {"lr": [semisup.warmup_cosine_lr(step, **given) for step in steps.tolist()]}


@ops("maxmatch", "ema_update")
def ema_update(inputs, params):
    ema = inputs["ema"].double()
    for value in inputs["values"].double():
        ema = semisup.ema_update(ema, value, **renamed(params, {"momentum": "momentum"}))
    return {"ema": ema}
