"""Weights of a network from a file: safetensors, or what torch saved without code."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name → tensor, from a .safetensors file or one that `torch.save` wrote.

    A checkpoint that keeps its weights under "state_dict" or "model" is looked into, and the prefix "module." of a
    parallel model is dropped. Nothing but tensors is unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if safetensors is needed and not installed.
        ValueError: if the file holds no weights, or more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; download the weights first and give the path to them")
    found = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise ValueError(f"{path} holds no weights by name, wanted a state_dict")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError("reading safetensors needs safetensors: pip install 'equipoise[training]'") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error


def _torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as weights; save it with torch.save(model.state_dict(), path) or as safetensors"
        ) from error


def load_weights(module: nn.Module, path: str | Path, *, unused: Collection[str] = ()) -> None:
    """Load the weights of a module, all of them, in place.

    Args:
        module: what they are for.
        path: see `read_weights`.
        unused: first parts of names that the file may have and the module does not, such as that of a classifier.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if safetensors is needed and not installed.
        ValueError: if a weight is missing, unknown or of another shape; the module is then left as it was.
    """
    found = {name: each for name, each in read_weights(path).items() if name.partition(".")[0] not in unused}
    wanted = module.state_dict()
    # Files from before 2018 do not count the batches of their running statistics.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    unknown = [name for name in found if name not in wanted]
    kind = type(module).__name__
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"holds {unknown[0]!r}"
        raise ValueError(
            f"{path} {what}, which does not fit {kind} ({len(missing)} missing, {len(unknown)} unknown names); "
            "width, blocks and modules must be those of the weights"
        )
    for name, each in found.items():
        if each.shape != wanted[name].shape:
            raise ValueError(
                f"{path} holds {name!r} of shape {tuple(each.shape)}, {kind} wants {tuple(wanted[name].shape)}; "
                "width, blocks and modules must be those of the weights"
            )
    module.load_state_dict(found, strict=False)
