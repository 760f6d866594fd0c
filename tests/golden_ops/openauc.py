"""Ops of `openauc`; `interneg` shares `ood_metrics`."""

from __future__ import annotations

import torch

from equipoise.openworld.openset import confusion as at_threshold
from equipoise.openworld.openset import open_auc as whole
from equipoise.openworld.openset import open_auc_loss as open_set
from equipoise.openworld.outliers import detection
from golden_ops import Ops, renamed

ops = Ops()

_DIRECTIONS = {"unknown": "out", "known": "in", "id": "in", "ood": "out"}


def _direction(params, default):
    return _DIRECTIONS[params.get("higher_is", default)]


@ops("openauc", "open_auc")
def open_auc(inputs, params):
    renamed(params, {"ties": "ties", "higher_is": "higher_is"})
    known, unknown = inputs["known_scores"].double(), inputs["unknown_scores"].double()
    correct = inputs["known_pred"] == inputs["known_target"]
    higher_is = _direction(params, "unknown")
    ties = params.get("ties", ["half"])
    found = {
        f"open_auc_{rule}": whole.open_auc(known, unknown, correct, ties=rule, higher_is=higher_is)
        for rule in ([ties] if isinstance(ties, str) else ties)
    }
    everyone = torch.ones_like(correct)
    found["auroc"] = whole.open_auc(known, unknown, everyone, higher_is=higher_is)
    found["accuracy"] = correct.double().mean()
    return found


@ops("openauc", "open_set_metrics")
def open_set_metrics(inputs, params):
    rule = params.get("reject_if", "score > threshold")
    higher_is = {"score > threshold": "out", "score < threshold": "in"}[rule]
    weight = params.get("known_weight", 0.5)
    renamed(params, dict.fromkeys(("threshold", "num_classes", "reject_if", "known_weight"), ""))
    names = ("known_pred", "known_target", "known_scores", "unknown_pred", "unknown_scores")
    confusion = at_threshold.open_set_confusion(
        *(inputs[name].double() if name.endswith("scores") else inputs[name] for name in names),
        threshold=params["threshold"],
        num_classes=params["num_classes"],
        higher_is=higher_is,
    )
    return {
        "confusion": confusion,
        "f1_macro": at_threshold.open_set_f1(confusion, "macro"),
        "f1_micro": at_threshold.open_set_f1(confusion, "micro"),
        "youden_macro": at_threshold.youden_index(confusion, "macro"),
        "youden_micro": at_threshold.youden_index(confusion, "micro"),
        "known_acc": at_threshold.normalized_accuracy(confusion, 1.0),
        "unknown_acc": at_threshold.normalized_accuracy(confusion, 0.0),
        "known_acc_tp_tn": at_threshold.normalized_accuracy(confusion, 1.0, known="tp_tn"),
        "normalized_acc_05": at_threshold.normalized_accuracy(confusion, 0.5),
        f"normalized_acc_{str(weight).replace('.', '')}": at_threshold.normalized_accuracy(confusion, weight),
    }


@ops("openauc", "open_auc_pair_loss")
def open_auc_pair_loss(inputs, params):
    options = renamed(params, {"pairing": "pairing", "surrogate": "surrogate"}, {"exp": "exponential"})
    return {
        "value": open_set.open_auc_pair_loss(
            inputs["known_logits"].double(),
            inputs["known_target"],
            inputs["fake_logits"].double(),
            inputs["fake_valid"],
            **options,
        )
    }


@ops("openauc", "ood_metrics")
def ood_metrics(inputs, params):
    renamed(params, {"recall": "", "higher_is": ""})
    return detection.ood_metrics(
        inputs["id_scores"].double(),
        inputs["ood_scores"].double(),
        recall=params.get("recall", 0.95),
        higher_is=_direction(params, "id"),
    )


ops("interneg", "ood_metrics")(ood_metrics)
