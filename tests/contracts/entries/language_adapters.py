"""The public names of `equipoise.language` for adapters."""

import torch

from contracts.model import Function

# The room is that of `entries/language.py`.
PACKAGES: list[str] = []

_SIZES = {"k": 2, "t": 2}


def _layer(generator, n):
    shapes = {
        "x": (n, 4),
        "weight": (3, 4),
        "bias": (3,),
        "core": (2, 2, 3, 3),
        "factor": (4, 3),
        "expert_coef": (2, 2),
        "centroids": (4, 4),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _routed(generator, n):
    return {"batch_mean": torch.randn(4, generator=generator), "centroids": torch.randn(4, 4, generator=generator)}


def _drawn(generator, n):
    return {"batch_mean": torch.randn(4, generator=generator), "uniform": torch.rand(n, 4, generator=generator)}


def _merged(generator, n):
    shapes = {"weight": (n, 4), "factor": (4, 3), "mixed_core": (3, 3)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _tokens(generator, n):
    return {
        "probability": torch.randn(n, 4, generator=generator).softmax(1),
        "chosen": torch.arange(2 * n).view(n, 2) % 4,
    }


ENTRIES = [
    Function("equipoise.language.AdaLoRASettings", {"r": 2}),
    Function("equipoise.language.LoRASettings", {"r": 2}),
    Function("equipoise.language.MoELoRASettings", {"num_experts": 4}),
    Function("equipoise.language.TuckARouter", {"in_features": 4, **_SIZES}),
    Function("equipoise.language.TuckASettings", {"r": 2}),
    Function("equipoise.language.moe_balance_loss", {}, _tokens),
    Function("equipoise.language.tucka_data_aware_init", {"perturb_scale": 3.0}, _drawn),
    Function("equipoise.language.tucka_linear", {**_SIZES, "alpha": 2.0}, _layer),
    Function("equipoise.language.tucka_merged_weight", {"alpha": 2.0}, _merged),
    Function("equipoise.language.tucka_parameter_count", {"in_features": 4, "r": 2, **_SIZES, "p": 2}),
    Function(
        "equipoise.language.tucka_routing",
        _SIZES,
        _routed,
        {"bad_arguments_are_refused_by_name": "a mean of any shape before its features; its test has bad ones"},
    ),
]

_IN_A_MODEL = "works on a whole model; its own test gives bad ones"
_LAYER = "wraps a layer of a model; its own test gives other modules"
_RESULT = "a result that the library makes"
OTHERS = {
    "equipoise.language.ADAPTERS": "a table of the adapters",
    "equipoise.language.AdaLoRALinear": _LAYER,
    "equipoise.language.AdapterRecord": _RESULT,
    "equipoise.language.AdapterSettings": "a union of the settings of adapters",
    "equipoise.language.ExpertLoad": _RESULT,
    "equipoise.language.GroupRoute": _RESULT,
    "equipoise.language.MoELoRALinear": _LAYER,
    "equipoise.language.RankAllocator": _IN_A_MODEL,
    "equipoise.language.Route": _RESULT,
    "equipoise.language.RouteState": "what layers share, made by `apply_tucka`",
    "equipoise.language.RoutedLayer": "a base class of layers",
    "equipoise.language.TuckAExperts": _LAYER,
    "equipoise.language.TuckALinear": _LAYER,
    "equipoise.language.TuckAResult": _RESULT,
    "equipoise.language.TuckARouting": _RESULT,
    "equipoise.language.add_adapter": _IN_A_MODEL,
    "equipoise.language.apply_tucka": _IN_A_MODEL,
    "equipoise.language.base_fingerprint": _IN_A_MODEL,
    "equipoise.language.expert_load": _IN_A_MODEL,
    "equipoise.language.load_adapter": _IN_A_MODEL,
    "equipoise.language.merge_adapter": _IN_A_MODEL,
    "equipoise.language.merge_pinned": _IN_A_MODEL,
    "equipoise.language.pin_route": _IN_A_MODEL,
    "equipoise.language.routes_of": _IN_A_MODEL,
    "equipoise.language.routing_mask": _IN_A_MODEL,
    "equipoise.language.save_adapter": _IN_A_MODEL,
    "equipoise.language.take_balance_loss": _IN_A_MODEL,
    "equipoise.language.trainable_parameters": _IN_A_MODEL,
    "equipoise.language.tucka_parameter_groups": _IN_A_MODEL,
}
