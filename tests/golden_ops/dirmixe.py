"""Ops of `dirmixe`."""

from __future__ import annotations

from equipoise.longtail import DirichletMixture, dirmixe_loss, diverse_expert_loss, view_consistency
from equipoise.longtail.experts.dirichlet_experts import Trials, inverse_prior
from golden_ops import Ops

ops = Ops()


@ops("dirmixe", "dirmixe_loss")
def loss(inputs, params):
    logits = inputs["expert_logits"].detach().double().clone().requires_grad_()
    trials = Trials(inputs["label_distributions"].double(), inputs["component"])
    options = {name: params[name] for name in ("power", "lambda_var", "semivariance_norm", "eps") if name in params}
    found = dirmixe_loss(logits, inputs["target"], inputs["prior"].double(), trials, **options)
    found.loss.backward()
    return {
        "loss": found.loss.detach(),
        "mean": found.mean.detach(),
        "semivariance": found.semivariance.detach(),
        "trial_losses": found.trial_losses.detach(),
        "grad_expert_logits": logits.grad,
    }


@ops("dirmixe", "diverse_expert_loss")
def diverse(inputs, params):
    logits = inputs["expert_logits"].detach().double().clone().requires_grad_()
    prior = inputs["prior"].double()
    options = {name: params[name] for name in ("tau", "eps") if name in params}
    value = diverse_expert_loss(logits, inputs["target"], prior, **options)
    value.backward()
    return {"loss": value.detach(), "inverse_prior": inverse_prior(prior), "grad_expert_logits": logits.grad}


@ops("dirmixe", "view_consistency")
def consistency(inputs, params):
    w = inputs["weight_logits"].detach().double().clone().requires_grad_()
    views = [inputs[f"expert_logits_view{k}"].detach().double() for k in range(2)]
    value = view_consistency(*views, w)
    value.backward()
    return {"similarity": value.detach(), "weights": w.detach().softmax(0), "grad_weight_logits": w.grad}


@ops("dirmixe", "meta_distributions")
def meta(inputs, params):
    return {"alpha": DirichletMixture(inputs["class_counts"], params["concentration"]).alpha}
