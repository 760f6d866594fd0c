"""Ops of `localization`."""

from __future__ import annotations

from equipoise.core.class_stats import ClassStats
from equipoise.data import long_tail_counts
from equipoise.longtail import CVSLoss, LDAMLoss, VSLoss, fit_confidence_scale, shot_accuracy
from equipoise.longtail.reweighting.class_dependent import class_factors
from equipoise.longtail.reweighting.local_lipschitz import vs_local_lipschitz
from golden_ops import Ops

ops = Ops()


def _weights(stats, params):
    chosen = params.get("weighting") or "none"
    if chosen == "aligned":
        return stats.aligned_weights(params["nu"])
    if chosen == "effective":
        beta = params.get("beta")
        return stats.effective_number_weights(0.9999 if beta is None else beta)
    if chosen == "none":
        return None
    raise ValueError(f"unknown weighting {chosen}")


def _with_gradient(loss, inputs):
    logits = inputs["logits"].detach().double().clone().requires_grad_()
    value = loss(logits, inputs["target"])
    value.sum().backward()
    return {"loss": value.detach(), "grad_logits": logits.grad}


@ops("localization", "vs_loss")
def vs(inputs, params):
    stats = ClassStats.of(inputs["class_counts"])
    gamma = 0.0 if params.get("truncate_multiplicative") else params["gamma"]
    loss = VSLoss(stats, gamma, params["tau"], _weights(stats, params), reduction=params.get("reduction", "mean"))
    return _with_gradient(loss, inputs)


@ops("localization", "ldam_loss")
def ldam(inputs, params):
    stats = ClassStats.of(inputs["class_counts"])
    options = {"reduction": params.get("reduction", "mean")}
    loss = LDAMLoss(stats, params["max_m"], params["s"], _weights(stats, params), **options)
    return {**_with_gradient(loss, inputs), "margins": loss.margins}


@ops("localization", "cvs_loss")
def cvs(inputs, params):
    loss = CVSLoss(inputs["class_counts"], params["gamma"], params["tau"], params["rho"])
    loss.set_stage(params["stage"], inputs.get("kappa"))
    return _with_gradient(loss, inputs)


@ops("localization", "class_weights")
def weights(inputs, params):
    stats = ClassStats.of(inputs["class_counts"])
    return {
        "effective": stats.effective_number_weights(params["beta"]),
        "aligned": stats.aligned_weights(params["nu"]),
    }


@ops("localization", "fit_confidence_scale")
def scale(inputs, params):
    options = {name: params[name] for name in ("n_bins", "min_scale", "max_scale", "min_samples") if name in params}
    return {"kappa": fit_confidence_scale(inputs["logits"].double(), inputs["target"], **options)}


@ops("localization", "imbalance_counts")
def counts(inputs, params):
    kind = {"exp": "exponential"}.get(params["kind"], params["kind"])
    options = {"reverse": bool(params.get("reverse", False))}
    return {"counts": long_tail_counts(params["num_classes"], params["n_max"], 1 / params["ratio"], kind, **options)}


@ops("localization", "shot_accuracy")
def shots(inputs, params):
    options = {"many": params.get("many_threshold", 100), "few": params.get("few_threshold", 20)}
    return shot_accuracy(inputs["pred"], inputs["target"], inputs["class_counts"], **options)


@ops("localization", "vs_local_lipschitz")
def lipschitz(inputs, params):
    stats = ClassStats.of(inputs["class_counts"])
    found = vs_local_lipschitz(
        inputs["logits"],
        inputs["target"],
        stats,
        weight=stats.aligned_weights(params["nu"]),
        factor=class_factors(stats, params["gamma"]),
        offset=params["tau"] * stats.log_prior,
    )
    return {"mu": found.mu}
