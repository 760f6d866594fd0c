"""Ops of `bridge-garden`: hard and soft labels, and the risk of tokens."""

from __future__ import annotations

from equipoise.language import (
    curriculum_soft_weight,
    hybrid_kd_loss,
    hybrid_soft_weight,
    kappa_tabular,
    risk_guided_hard_loss,
)
from equipoise.language.distillation.divergence_loss import token_divergence_loss
from golden_ops import Ops, renamed

ops = Ops()


@ops("bridge-garden", "hybrid_kd_loss")
def hybrid(inputs, params):
    names = {name: name for name in ("power_gamma", "ignore_index", "divergence", "hard")}
    settings = renamed({name: value for name, value in params.items() if name != "modes"}, names)
    weight_settings = {name: settings[name] for name in ("power_gamma", "ignore_index") if name in settings}
    student, teacher, labels = inputs["student_logits"], inputs["teacher_logits"], inputs["labels"]
    found = {}
    for mode, lam in params["modes"].items():
        leaf = student.detach().requires_grad_()
        loss = hybrid_kd_loss(leaf, teacher, labels, mode=mode, lam=lam, **settings)
        loss.backward()
        weight = hybrid_soft_weight(teacher, mode, labels=labels, lam=lam, **weight_settings)
        found[mode] = {"soft_weight": weight, "loss": loss, "grad_student_logits": leaf.grad}
    divergence = settings.get("divergence", "forward_kl")
    found["soft_per_token"] = token_divergence_loss(student, teacher, divergence, reduction="none")
    found["hard_per_token"] = hybrid_kd_loss(
        student, teacher, labels, mode="static", lam=0.0, reduction="none", **settings
    )
    return found


@ops("bridge-garden", "risk_guided_hard_loss")
def risk_guided(inputs, params):
    settings = {name: value for name, value in params.items() if name != "alpha_gamma_pairs"}
    results = []
    for alpha, gamma in params["alpha_gamma_pairs"]:
        logits = inputs["logits"].detach().requires_grad_()
        others = {name: value for name, value in inputs.items() if name != "logits"}
        parts = risk_guided_hard_loss(logits, **others, alpha=alpha, gamma=gamma, return_parts=True, **settings)
        parts.loss.backward()
        results.append(
            {
                "per_token": parts.per_token,
                "data_term": parts.data,
                "terminal_term": parts.terminal,
                "loss": parts.loss,
                "grad_logits": logits.grad,
            }
        )
    return {"results": results}


@ops("bridge-garden", "kappa_tabular")
def kappa(inputs, params):
    return kappa_tabular(**inputs, **params)._asdict()


@ops("bridge-garden", "curriculum_soft_weight")
def curriculum(inputs, params):
    return {
        "weight": [
            curriculum_soft_weight(int(a), int(b), float(c), float(d)) for a, b, c, d in inputs["step_total_warmup_max"]
        ]
    }
