"""Ops of `aucseg`."""

from __future__ import annotations

import torch

from equipoise import dense
from golden_ops import Ops, renamed

ops = Ops()
_VALUES = {"exp": "exponential", "ova": "ovr", "none": None, "raw": None, "identity": None, "logits": None}
_NAMES = {
    "surrogate": "surrogate",
    "scheme": "average",
    "gamma": "margin",
    "scores": "activation",
    "ignore_index": "ignore_index",
    "reduction": "reduction",
    "classes": "classes",
}


@ops("aucseg", "PixelAUCLoss")
def pixel_auc_loss(inputs, params):
    loss = dense.PixelAUCLoss(**renamed(params, _NAMES, _VALUES))
    return {"loss": loss(inputs["logits"], inputs["target"].long())}


@ops("aucseg", "pixel_auroc")
def pixel_auroc(inputs, params):
    options = renamed(params, {"scheme": "average", "ignore_index": "ignore_index"}, _VALUES)
    return {"auc": dense.pixel_auroc(inputs["scores"].double(), inputs["target"].long(), **options)}


@ops("aucseg", "segmentation_scores")
def segmentation_scores(inputs, params):
    options = renamed(params, {name: name for name in ("num_classes", "ignore_index", "groups")})
    found = dense.segmentation_scores(inputs["pred"].long(), inputs["target"].long(), **options)
    groups = {name: found[f"miou/{name}"] for name in options.get("groups") or {}}
    return {**found, "pixel_acc": found["pixel_accuracy"], "mean_acc": found["mean_accuracy"], "groups": groups}


@ops("aucseg", "paste_class_patch")
def paste_class_patch(inputs, params):
    names = ("class_id", "resize_ratio", "top", "left")
    given = {"image": inputs["image"].double(), "stored_image": inputs["stored_image"].double()}
    given |= {name: torch.as_tensor(inputs[name]).long() for name in ("label", "stored_mask")}
    return dense.paste_class_patch(**given, **renamed(params, {name: name for name in names}))._asdict()
