"""Bridges on disk: `bridge.safetensors` with the weights, `bridge.json` with what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from equipoise.core.models.principal import PrincipalAutoencoder
from equipoise.core.models.vector_denoiser import VectorDenoiser
from equipoise.generative.bridges.mixture import RoutedMixture
from equipoise.generative.bridges.schedule import BridgeSchedule

if TYPE_CHECKING:
    from equipoise.generative.bridges.model import BridgeModel

_WEIGHTS, _SETTINGS = "bridge.safetensors", "bridge.json"
_FORMAT = 1


class SavedBridge(NamedTuple):
    """What a folder holds.

    Attributes:
        network: built, without its weights.
        schedule: of the bridge.
        codec: built, without its numbers; None where there is none.
        settings: keyword arguments of the model.
        weights: of the whole model.
    """

    network: nn.Module
    schedule: BridgeSchedule
    codec: PrincipalAutoencoder | None
    settings: dict[str, Any]
    weights: dict[str, Tensor]


def write_bridge(model: BridgeModel, folder: str | Path) -> Path:
    """Write a model; see `BridgeModel.save`."""
    torch_files = _safetensors()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    schedule, codec = model.schedule, model.codec
    held = {
        "format": _FORMAT,
        "schedule": {name: getattr(schedule, name) for name in ("num_steps", "beta_start", "beta_max", "ot_ode")},
        "codec": codec and {"shape": codec.shape, "components": codec.components, "scale": codec.scale},
        "model": {"steps": model.steps, "clip": model.clip, "cond_x1": model.cond_x1},
        "network": _described(model.network),
    }
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    torch_files.save_file(weights, folder / _WEIGHTS)
    (folder / _SETTINGS).write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    return folder


def read_bridge(folder: str | Path, network: nn.Module | None) -> SavedBridge:
    """Read what `write_bridge` wrote; see `BridgeModel.load`."""
    torch_files = _safetensors()
    folder = Path(folder)
    try:
        held = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        weights = torch_files.load_file(folder / _WEIGHTS)
        known = held["format"] == _FORMAT
        schedule, settings, codec = BridgeSchedule(**held["schedule"]), held["model"], held["codec"]
    except (OSError, ValueError, KeyError, TypeError, _torn()) as error:
        raise ValueError(f"{folder} holds no bridge: {str(error).partition(chr(10))[0]}") from error
    if not known:
        raise ValueError(f"{folder} is of another version, format {held['format']}; this one reads {_FORMAT}")
    if network is None:
        if held["network"] is None:
            raise ValueError("give network=..., for the saved one is of a class that cannot be built from settings")
        network = _built(held["network"])
    coder = codec and PrincipalAutoencoder(tuple(codec["shape"]), codec["components"], codec["scale"])
    return SavedBridge(network, schedule, coder or None, settings, weights)


def _described(network: nn.Module) -> dict[str, Any] | None:
    """What builds the network again; None where only its owner can."""
    if type(network) is VectorDenoiser and network.condition is None:
        return {
            "kind": "vector",
            "size": network.size,
            "width": network.inward.out_features,
            "blocks": len(network.norms),
            "time_features": network.time_features,
            "hidden": network.bodies[0][0].out_features,  # type: ignore[index]
        }
    if type(network) is nn.Linear:
        return {"kind": "linear", "sizes": [network.in_features, network.out_features]}
    if type(network) is nn.Sequential and [type(layer) for layer in network] == [nn.Linear, nn.ReLU, nn.Linear]:
        first, last = network[0], network[2]
        return {"kind": "two layers", "sizes": [first.in_features, first.out_features, last.out_features]}
    if type(network) is RoutedMixture:
        parts = [_described(part) for part in (network.router, *network.experts)]
        if all(part is not None for part in parts):
            return {"kind": "mixture", "router": parts[0], "experts": parts[1:], "skip_below": network.skip_below}
    return None


def _built(held: Mapping[str, Any]) -> nn.Module:
    settings = {name: value for name, value in held.items() if name != "kind"}
    if held["kind"] == "vector":
        return VectorDenoiser(**settings)
    if held["kind"] == "linear":
        return nn.Linear(*held["sizes"])
    if held["kind"] == "two layers":
        wide, hidden, narrow = held["sizes"]
        return nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, narrow))
    experts = [_built(part) for part in held["experts"]]
    return RoutedMixture(experts, _built(held["router"]), skip_below=held["skip_below"])


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("saving bridges needs safetensors: pip install 'equipoise[training]'") from error
    return safetensors.torch


def _torn() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
