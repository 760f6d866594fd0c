"""A trained change of a text encoder as a folder: `adapter.safetensors` and, how to read it, `adapter.json`."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.core.models.low_rank import LoRALinear
from equipoise.generative.fairness.text_lora import (
    LowRankPair,
    load_pairs,
    lora_pairs,
    matching_layers,
    put_lora,
)

_TENSORS, _JSON, _FORMAT, _SAMPLED = "adapter.safetensors", "adapter.json", 1, 16


@dataclass(frozen=True)
class FairAdapter:
    """What an adapter was trained for.

    Attributes:
        rank: r of every layer.
        scale: the change is multiplied by scale / r.
        concepts: that were balanced.
        attributes: the values, or attribute → values.
        templates: concepts were put into.
        target: shares of the values; None where equal.
        settings: the other settings of the training.
    """

    rank: int
    scale: float
    concepts: tuple[str, ...]
    attributes: tuple[str, ...] | Mapping[str, Any]
    templates: tuple[str, ...]
    target: tuple[float, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_adapter(model: nn.Module, adapter: FairAdapter, folder: str | Path) -> Path:
    """Write the change of `put_lora` in a model.

    Returns:
        The folder, made if it is not there.

    Raises:
        ImportError: if safetensors is not installed.
        ValueError: if the model has no such change.
    """
    from safetensors.torch import save_file

    pairs, folder = lora_pairs(model), Path(folder)
    if not pairs:
        raise ValueError("the model has no change to save; train it first")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{side}": getattr(pair, side).detach() for name, pair in pairs.items() for side in ("a", "b")}
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, folder / _TENSORS)
    written = {"format": _FORMAT, **asdict(adapter), "layers": {name: _print_of(model, name) for name in pairs}}
    (folder / _JSON).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def load_fair_adapter(model: nn.Module, folder: str | Path) -> FairAdapter:
    """Put what `LightFairDebiaser.save_adapter` wrote into a text encoder, in place.

    Args:
        model: a tower or a text encoder on its own, such as that of a diffusion pipeline; layers are found by the end
            of their names. Without an adapter so far.
        folder: that was written.

    Returns:
        What it was trained for.

    Raises:
        ImportError: if safetensors is not installed.
        OSError: if there is nothing to read.
        ValueError: if the files are of another version or do not fit the encoder.

    Warns:
        UserWarning: if the weights of the layers are not those that it was trained beside.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    adapter, layers = _read(folder / _JSON)
    try:
        tensors = load_file(folder / _TENSORS)
    except SafetensorError as error:
        raise ValueError(f"{folder / _TENSORS} cannot be read: {error}") from error
    if set(tensors) != {f"{name}.{side}" for name in layers for side in ("a", "b")}:
        raise ValueError(f"{folder / _TENSORS} does not hold the layers that {_JSON} names")
    if lora_pairs(model):
        raise ValueError("the model has an adapter already; take a fresh model")
    places = matching_layers(model, layers)
    pairs = {places[name]: LowRankPair(tensors[f"{name}.a"], tensors[f"{name}.b"]) for name in layers}
    for name, pair in pairs.items():
        weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        if (pair.b.shape, pair.a.shape) != ((weight.shape[0], adapter.rank), (adapter.rank, weight.shape[1])):
            raise ValueError(f"the adapter in {folder} is of an encoder of another size: see {name}")
    strange = [name for name, held in layers.items() if not _is_print(model, places[name], held)]
    if strange:
        warnings.warn(
            f"the weights are not those that the adapter in {folder} was trained beside, as in {strange[0]}; take the "
            "same base model",
            stacklevel=2,
        )
    put_lora(model, list(pairs), adapter.rank, adapter.scale, seed=0)
    load_pairs(model, pairs)
    return adapter


def _read(path: Path) -> tuple[FairAdapter, dict[str, list[float]]]:
    """What an adapter was trained for, and some weights of its layers; read whole before a model is changed.

    Raises:
        OSError: if there is no such file.
        ValueError: if it says something else.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(written, dict) or written.get("format") != _FORMAT:
        raise ValueError(f"{path} is of another version, wanted format {_FORMAT}")
    try:
        held = {key: value for key, value in written.items() if key not in ("format", "layers")}
        for key in ("concepts", "templates", "target", "attributes"):
            held[key] = tuple(held[key]) if isinstance(held[key], list) else held[key]
        adapter = FairAdapter(**held)
        layers = {str(name): [float(value) for value in values] for name, values in written["layers"].items()}
        known = layers and type(adapter.rank) is int and adapter.rank >= 1 and 0 < float(adapter.scale) < math.inf
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} holds no adapter: {error}") from error
    if not known:
        raise ValueError(f"{path} holds no adapter: its rank={adapter.rank!r}, scale={adapter.scale!r} or layers")
    return adapter, layers


def _print_of(model: nn.Module, name: str) -> list[float]:
    """Some weights of a layer, by which it is known again, also in half precision."""
    layer: Any = model.get_submodule(name)
    base: Any = layer.base if isinstance(layer, LoRALinear) else getattr(layer, "base_layer", layer)
    flat = base.weight.detach().flatten()
    picked = flat[torch.linspace(0, len(flat) - 1, min(_SAMPLED, len(flat)), device=flat.device).long()]
    return [float(value) for value in picked]


def _is_print(model: nn.Module, name: str, held: list[float]) -> bool:
    found = torch.tensor(_print_of(model, name))
    return found.shape == (len(held),) and torch.allclose(found, torch.tensor(held), rtol=1e-2, atol=1e-4)
