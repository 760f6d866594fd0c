"""Ops of `lightfair`."""

from __future__ import annotations

import torch

from equipoise import generative
from golden_ops import Ops, renamed

ops = Ops()
_ODDS = {"distance": "distance", "target": "target", "kappa": "logit_scale", "logit_scale": "logit_scale"}
_QUALITY = {"distance": "distance", "pull": "pull"}
_STEPS = {name: name for name in ("num_train_steps", "num_sampling_steps", "switch_fraction")}


@ops("lightfair", "equalized_odds_loss")
def equalized_odds_loss(inputs, params):
    text, centers = inputs["text"].double(), inputs["centers"].double()
    given = renamed(params | ({"target": inputs["target"]} if "target" in inputs else {}), _ODDS)
    return {
        "loss": generative.equalized_odds_loss(text, centers, **given),
        "distances": generative.attribute_distances(text, centers, given.get("distance", "cosine")),
    }


@ops("lightfair", "equalized_quality_loss")
def equalized_quality_loss(inputs, params):
    images = [torch.as_tensor(each).double() for each in inputs["images"]]
    text, given = inputs["text"].double(), renamed(params, _QUALITY)
    return {
        "loss": generative.equalized_quality_loss(text, images, **given),
        "radius": generative.equalized_radii(text, images, given.get("distance", "cosine")),
    }


@ops("lightfair", "attribute_bias")
def attribute_bias(inputs, params):
    return generative.attribute_bias(inputs["counts"])._asdict()


@ops("lightfair", "two_stage_conditioning")
def two_stage_conditioning(inputs, params):
    return generative.two_stage_conditioning(**renamed(params, _STEPS))._asdict()


@ops("lightfair", "equidistant_projection")
def equidistant_projection(inputs, params):
    centers = inputs["centers"].double()
    text = inputs["text"].double()
    # Several texts may share their centres.
    centers = centers.expand(*text.shape[:-1], *centers.shape[-2:])
    projected = generative.equidistant_projection(text, centers)
    rows, each = projected.reshape(-1, projected.shape[-1]), centers.reshape(-1, *centers.shape[-2:])
    distances = generative.attribute_distances(rows, each)
    return {"projected": projected, "cosine": 1 - distances.mean(-1).reshape(projected.shape[:-1])}
