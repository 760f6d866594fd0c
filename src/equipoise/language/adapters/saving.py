"""Adapters by name: put into a model, listed, written to a folder and read back.

A folder holds `adapter.safetensors`, what was trained, and `adapter.json`, how to make it: kind, settings, names of the
layers and a fingerprint of the frozen weights, so that it is noticed when they are those of another model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from equipoise.core.models.low_rank import LoRALinear
from equipoise.core.validate import check_choice
from equipoise.language.adapters.adalora import AdaLoRALinear
from equipoise.language.adapters.apply import apply_tucka, merge_pinned
from equipoise.language.adapters.layers import TuckALinear, TuckASettings
from equipoise.language.adapters.lora_settings import AdaLoRASettings, LoRASettings, MoELoRASettings
from equipoise.language.adapters.moe_lora import MoELoRALinear
from equipoise.language.adapters.targets import find_layers, put, replace_layers

AdapterKind: TypeAlias = Literal["lora", "adalora", "moe-lora", "tucka"]
AdapterSettings: TypeAlias = LoRASettings | AdaLoRASettings | MoELoRASettings | TuckASettings
ADAPTERS: Mapping[str, type[AdapterSettings]] = {
    "lora": LoRASettings,
    "adalora": AdaLoRASettings,
    "moe-lora": MoELoRASettings,
    "tucka": TuckASettings,
}
_LAYERS = (LoRALinear, AdaLoRALinear, MoELoRALinear, TuckALinear)
_TENSORS, _JSON = "adapter.safetensors", "adapter.json"
_FORMAT = 1
_SAMPLED = 256
_RECORD = "equipoise_adapter"


@dataclass(frozen=True)
class AdapterRecord:
    """What was put into a model; `add_adapter` leaves it there.

    Attributes:
        kind: of the adapter.
        settings: of it.
        layers: names of the adapted layers.
        router_name: of the layer that routes, of TuckA.
        also_trained: names of modules that are trained as they are, such as a classifier.
    """

    kind: AdapterKind
    settings: AdapterSettings
    layers: tuple[str, ...]
    router_name: str | None
    also_trained: tuple[str, ...]


def add_adapter(
    model: nn.Module,
    kind: AdapterKind,
    target_modules: Sequence[str],
    settings: AdapterSettings | None = None,
    *,
    also_train: Sequence[str] = (),
    router_name: str | None = None,
    example: Any = None,
) -> list[str]:
    """Freeze a model and put an adapter around its linear layers, in place.

    Args:
        model: any module.
        kind: "lora", "adalora" (see `RankAllocator`), "moe-lora" (see `take_balance_loss`) or "tucka".
        target_modules: names of linear layers or their last parts.
        settings: of this kind; its defaults if absent.
        also_train: names of modules that are trained as they are and saved with the adapter, such as a classifier.
        router_name: of TuckA, the adapted layer that routes, see `apply_tucka`.
        example: of TuckA, arguments of the model to find out which layer runs first.

    Returns:
        Names of the layers that were adapted.

    Raises:
        TypeError: if a target is not linear, or the settings are of another kind.
        ValueError: if the kind is not known, no module matches, or the model has an adapter already.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> add_adapter(model, "lora", ["0"], LoRASettings(r=2), also_train=["2"])
    ['0']
    >>> trainable_parameters(model)
    {'0.lora_a': 8, '0.lora_b': 8, '2.weight': 8, '2.bias': 2}
    """
    check_choice("kind", kind, ADAPTERS)
    settings = ADAPTERS[kind]() if settings is None else settings
    if not isinstance(settings, ADAPTERS[kind]):
        raise TypeError(f"settings of {kind!r} must be {ADAPTERS[kind].__name__}, got {type(settings).__name__}")
    if any(isinstance(part, _LAYERS) for part in model.modules()):
        raise ValueError("the model has an adapter already; take a fresh model")
    trained = [model.get_submodule(name) for name in also_train]
    if isinstance(settings, TuckASettings):
        names = apply_tucka(model, target_modules, settings, router_name, example=example)
        router_name = next(n for n in names if model.get_submodule(n).router is not None)
    else:
        names = _add_low_rank(model, target_modules, settings)
    for module in trained:
        module.requires_grad_(True)
    setattr(model, _RECORD, AdapterRecord(kind, settings, tuple(names), router_name, tuple(also_train)))
    return names


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Name and size of every parameter that is trained."""
    return {name: value.numel() for name, value in model.named_parameters() if value.requires_grad}


def merge_adapter(model: nn.Module) -> nn.Module:
    """Plain layers with the change in their weights in the place of the adapted ones, in place.

    Raises:
        RuntimeError: of TuckA, if no route is pinned.
        TypeError: of MoE-LoRA, whose change differs from token to token.
        ValueError: if the model has no adapter of `add_adapter`.
    """
    record = _record(model)
    if record.kind == "moe-lora":
        raise TypeError("experts that tokens choose among are no plain layer, so 'moe-lora' cannot be merged")
    if record.kind == "tucka":
        merge_pinned(model)
    else:
        for name in record.layers:
            layer = model.get_submodule(name)
            put(model, name, layer.merged())  # type: ignore[operator]
    delattr(model, _RECORD)
    return model


def save_adapter(model: nn.Module, folder: str | Path) -> Path:
    """Write what `add_adapter` put into a model and training made of it.

    Args:
        model: with the adapter.
        folder: made if it is not there.

    Returns:
        The folder.

    Raises:
        ImportError: if safetensors is not installed.
        ValueError: if the model has no adapter of `add_adapter`.
    """
    from safetensors.torch import save_file

    record, folder = _record(model), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in _state(model, record).items()}, folder / _TENSORS)
    written = {
        "format": _FORMAT,
        **{name: value for name, value in vars(record).items() if name != "settings"},
        "settings": dataclasses.asdict(record.settings),
        "base": base_fingerprint(model),
    }
    (folder / _JSON).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def load_adapter(model: nn.Module, folder: str | Path) -> list[str]:
    """Put into a fresh model what `save_adapter` wrote, in place.

    Args:
        model: the base model, without an adapter.
        folder: that was written.

    Returns:
        Names of the layers that were adapted.

    Raises:
        ImportError: if safetensors is not installed.
        OSError: if there is nothing to read.
        ValueError: if the files are of another version or do not fit the model.

    Warns:
        UserWarning: if the frozen weights are not those the adapter was trained with.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    written = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    if written.get("format") != _FORMAT:
        raise ValueError(f"{folder / _JSON} has the format {written.get('format')!r}, wanted {_FORMAT}")
    settings = ADAPTERS[written["kind"]](**written["settings"])
    missing = [name for name in (*written["layers"], *written["also_trained"]) if not _has(model, name)]
    if missing:
        raise ValueError(f"the adapter in {folder} is of another model, this one has no {', '.join(missing[:3])}")
    state = load_file(folder / _TENSORS)
    names = add_adapter(
        model,
        written["kind"],
        written["layers"],
        settings,
        also_train=written["also_trained"],
        router_name=written["router_name"],
    )
    wanted = _state(model, _record(model))
    if set(wanted) != set(state) or any(wanted[name].shape != state[name].shape for name in wanted):
        raise ValueError(f"the tensors in {folder / _TENSORS} do not fit the layers of this model")
    with torch.no_grad():
        for name, value in state.items():
            wanted[name].copy_(value)
    if base_fingerprint(model) != written["base"]:
        warnings.warn(
            f"the frozen weights are not those that the adapter in {folder} was trained with; load the same base model",
            stacklevel=2,
        )
    return names


def base_fingerprint(model: nn.Module) -> str:
    """A hash of names, shapes and sampled values of the weights that an adapter leaves as they are.

    Of every tensor 256 numbers are looked at, in float32, so that a large model takes no time and a cast to another
    precision that loses nothing goes unnoticed.
    """
    record = getattr(model, _RECORD, None)
    layers = () if record is None else record.layers
    also = () if record is None else record.also_trained
    digest = hashlib.sha256()
    for name, value in sorted(_base_parameters(model, layers, also).items()):
        flat = value.detach().flatten()
        picked = flat[torch.linspace(0, len(flat) - 1, min(len(flat), _SAMPLED), device=flat.device).long()]
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(picked.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _base_parameters(model: nn.Module, layers: Sequence[str], also: Sequence[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in model.named_parameters():
        if any(name.startswith(f"{each}.") for each in also):
            continue
        layer = next((each for each in layers if name.startswith(f"{each}.")), None)
        if layer is None:
            found[name] = value
        elif name.startswith(f"{layer}.base."):
            found[layer + name[len(layer) + len(".base") :]] = value
    return found


def _add_low_rank(
    model: nn.Module, targets: Sequence[str], settings: LoRASettings | AdaLoRASettings | MoELoRASettings
) -> list[str]:
    makers: dict[type, Callable[[nn.Module], nn.Module]] = {
        LoRASettings: lambda layer: LoRALinear(layer, **dataclasses.asdict(settings)),
        AdaLoRASettings: lambda layer: AdaLoRALinear(layer, settings),  # type: ignore[arg-type]
        MoELoRASettings: lambda layer: MoELoRALinear(layer, settings),  # type: ignore[arg-type]
    }
    layers = find_layers(model, targets)
    replace_layers(model, layers, lambda name, layer: makers[type(settings)](layer))
    return list(layers)


def _record(model: nn.Module) -> AdapterRecord:
    record = getattr(model, _RECORD, None)
    if not isinstance(record, AdapterRecord):
        raise ValueError("the model has no adapter of `add_adapter`")
    return record


def _state(model: nn.Module, record: AdapterRecord) -> dict[str, Tensor]:
    """Tensors of the adapter, and of the modules that are trained as they are."""
    found = {}
    for layer in record.layers:
        for name, value in model.get_submodule(layer).state_dict(keep_vars=True).items():
            if not name.startswith("base."):
                found[f"{layer}.{name}"] = value
    for module in record.also_trained:
        for name, value in model.get_submodule(module).state_dict(keep_vars=True).items():
            found[f"{module}.{name}"] = value
    return found


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
