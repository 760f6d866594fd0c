"""Ops of `abkd`."""

from __future__ import annotations

import functools
import re
import warnings

import torch

from equipoise.core.token_divergence import families
from equipoise.language.distillation import classifier_losses, divergence_loss
from golden_ops import Ops, renamed

ops = Ops()
_SETTINGS = {name: name for name in ("temperature", "scale_by_T2", "reduction", "ignore_index")}
_FAMILIES = {
    "forward_kl": families.AlphaBeta,
    "reverse_kl": lambda: families.REVERSE_KL,
    "jsd": families.JensenShannon,
    "skew_forward_kl": families.SkewForwardKL,
    "skew_reverse_kl": families.SkewReverseKL,
    "tvd": families.TotalVariation,
    "weighted_kl": families.WeightedKL,
    "adaptive_kl": families.AdaptiveKL,
}


def _unwarned(adapter):
    """Cases have negative exponents, too, of which the divergence warns."""

    @functools.wraps(adapter)
    def wrapper(inputs, params):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*has a negative exponent")
            return adapter(inputs, params)

    return wrapper


def _logits(inputs):
    return inputs["student_logits"].detach().double(), inputs["teacher_logits"].detach().double()


def _with_gradient(student, *arguments, **settings):
    leaf = student.clone().requires_grad_()
    loss = divergence_loss.token_divergence_loss(leaf, *arguments, **settings)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@ops("abkd", "ab_divergence")
@_unwarned
def ab_divergence(inputs, params):
    params = dict(params)
    pairs = params.pop("alpha_beta_pairs")
    settings = renamed(params, _SETTINGS)
    student, teacher = _logits(inputs)
    rows = {**settings, "reduction": "none", "scale_by_T2": False}
    found = {"per_token": [], "loss": [], "grad_student_logits": []}
    for alpha, beta in pairs:
        family = families.AlphaBeta(alpha, beta)
        loss, grad = _with_gradient(student, teacher, family, labels=inputs.get("labels"), **settings)
        found["per_token"].append(divergence_loss.token_divergence_loss(student, teacher, family, **rows))
        found["loss"].append(loss)
        found["grad_student_logits"].append(grad)
    return {name: torch.stack(each) for name, each in found.items()}


@ops("abkd", "kd_divergences")
def kd_divergences(inputs, params):
    params = dict(params)
    variants = params.pop("variants")
    settings = renamed(params, _SETTINGS)
    student, teacher = _logits(inputs)
    found = {}
    for name, given in variants.items():
        family = _FAMILIES[re.sub(r"_b[\d.]+$|_lam[\d.]+$|_mu[\d.]+$", "", name)](**given)
        values = divergence_loss.token_divergence_loss(student, teacher, family, **{**settings, "reduction": "none"})
        found[name], found[f"grad_{name}"] = values, _with_gradient(student, teacher, family, **settings)[1]
    return found


@ops("abkd", "log_mass_ratio")
@_unwarned
def log_mass_ratio(inputs, params):
    params = dict(params)
    pairs = params.pop("alpha_beta_pairs")
    settings = renamed(params, {"lr": "lr"})
    ratios = [divergence_loss.log_mass_ratio(*_logits(inputs), families.AlphaBeta(*pair), **settings) for pair in pairs]
    return {"log_ratio": torch.stack(ratios)}


@ops("abkd", "ab_variants")
def ab_variants(inputs, params):
    student, teacher = _logits(inputs)
    of_all = {name: params[name] for name in ("alpha", "beta")}
    temperature = {"temperature": params["temperature"]}
    exponent = {"exponent": params["ttm_exponent"]}
    weights = {"target_weight": params["dkd_alpha"], "other_weight": params["dkd_beta"]}
    decoupled = classifier_losses.decoupled_ab_loss(
        student, teacher, inputs["target"].long(), **of_all, **temperature, **weights
    )
    return {
        "lsd_ab": classifier_losses.standardized_ab_loss(student, teacher, **of_all, **temperature),
        "ttm_ab": classifier_losses.transformed_teacher_ab_loss(student, teacher, **of_all, **exponent),
        "wttm_ab": classifier_losses.transformed_teacher_ab_loss(student, teacher, **of_all, **exponent, weighted=True),
        "dkd_ab": decoupled.total,
        "tckd": decoupled.target_class,
        "nckd_ab": decoupled.other_classes,
    }
