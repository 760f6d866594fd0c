"""The public names of `equipoise.dense` for a domain without labels."""

import torch

from contracts.model import Function

# The room is that of `entries/dense.py`.
PACKAGES: list[str] = []


def _pair(generator, n):
    return {"content": torch.rand(3, 8, n, generator=generator), "style": torch.rand(3, 6, 5, generator=generator)}


def _labelled(generator, n):
    """An image of three classes, one of which keeps its pixels."""
    return {
        "image": torch.rand(3, 4, n, generator=generator),
        "label": torch.arange(n).expand(4, n) % 3,
        "styles": {c: torch.rand(3, 5, 5, generator=generator) for c in range(2)},
    }


def _images(generator, n):
    return {
        "label": torch.arange(n).expand(4, n) % 3,
        "images": {1: torch.rand(3, 4, n, generator=generator)},
        "default": torch.rand(3, 4, n, generator=generator),
    }


_SMALL = {"blocks": [1, 1, 1, 1], "modules": (1, 1, 1, 1), "in_channels": 3, "seed": 1}

ENTRIES = [
    Function("equipoise.dense.adain", {"eps": 1e-4}, _pair),
    Function(
        "equipoise.dense.gram_matrix",
        {"normalize": "hw"},
        lambda generator, n: {"features": torch.randn(4, 3, n, generator=generator)},
    ),
    Function("equipoise.dense.monge_color_transfer", {"eps": 1e-4, "clip": True}, _pair),
    Function("equipoise.dense.merge_by_label", {}, _images),
    Function("equipoise.dense.class_aware_stylize", {"stylizer": "monge", "eps": 1e-4, "ignore_index": 2}, _labelled),
    Function("equipoise.dense.MomentStylizer", {"eps": 1e-4}),
    Function("equipoise.dense.MongeStylizer", {"eps": 1e-4}),
    Function("equipoise.dense.PyramidStylizer", {"levels": 2, "eps": 1e-4}),
    Function("equipoise.dense.GatysStylizer", {"features": torch.nn.Conv2d(3, 4, 3), "steps": 2, "optimizer": "adam"}),
    Function(
        "equipoise.dense.AdaINStylizer",
        {"encoder": torch.nn.Identity(), "decoder": torch.nn.Identity(), "alpha": 0.5},
    ),
    Function("equipoise.dense.StylizedDataset", {"data": [], "strategy": "none", "copies": 2}),
    Function("equipoise.dense.HRNetBackbone", {"width": 4, **_SMALL}),
    Function("equipoise.dense.ASPP", {"in_channels": 8, "rates": [1, 2], "out_channels": 4, "dropout": 0.2}),
    Function("equipoise.dense.DeepLabDecoder", {"num_classes": 3, "low_channels": 4, "high_channels": 8}),
    Function(
        "equipoise.dense.IceHrNet",
        {"num_classes": 3, "width": 4, "aspp_rates": [1, 2], "aspp_channels": 8, "low_level": "stage1", **_SMALL},
    ),
]

OTHERS = {
    "equipoise.dense.HRNetFeatures": "a result that the library makes",
    "equipoise.dense.ParameterCounts": "a result that the library makes",
}
