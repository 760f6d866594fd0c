"""Ops of `icehrnet`."""

from __future__ import annotations

import torch

from equipoise import dense
from golden_ops import Ops, renamed

ops = Ops()


@ops("icehrnet", "adain")
def adain(inputs, params):
    return {"out": dense.adain(inputs["content"], inputs["style"], **renamed(params, {"eps": "eps"}))}


@ops("icehrnet", "gram_matrix")
def gram_matrix(inputs, params):
    return {"gram": dense.gram_matrix(inputs["features"], **renamed(params, {"normalize": "normalize"}))}


@ops("icehrnet", "monge_color_transfer")
def monge_color_transfer(inputs, params):
    settings = renamed(params, {"eps": "eps", "clip": "clip"})
    return {"out": dense.monge_color_transfer(inputs["content"], inputs["style"], **settings)}


@ops("icehrnet", "class_aware_stylize")
def class_aware_stylize(inputs, params):
    names = ("stylizer", "eps", "clip", "ignore_index")
    styles = {int(c): given for c, given in inputs["styles"].items()}
    settings = renamed(params, {name: name for name in names})
    return {"image": dense.class_aware_stylize(inputs["image"], inputs["label"], styles, **settings)}


@ops("icehrnet", "IceHrNet")
def network(inputs, params):
    names = ("width", "num_classes", "blocks", "modules", "aspp_rates", "aspp_channels", "in_channels")
    model = dense.IceHrNet(**renamed(params, {name: name for name in names})).eval()
    counts = model.parameter_counts()
    channels = params.get("in_channels", 3)
    with torch.no_grad():
        shape = model(torch.zeros(2, channels, 64, 96)).shape
    return {
        "n_parameters": counts.total,
        "n_parameters_plus_bn_statistics": counts.with_statistics,
        "backbone_parameters": counts.backbone,
        "aspp_parameters": counts.aspp,
        "decoder_parameters": counts.decoder,
        f"output_shape_for_input_2x{channels}x64x96": list(shape),
        "low_level_channels": model.backbone.low_channels[model.low_level],
        "high_level_channels": model.backbone.high_channels,
    }
