"""The linear layers of a model that are to be adapted, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from equipoise.core.models.low_rank import linear_sizes


def find_layers(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """Linear layers whose name is a target or ends with one, in the order of the model.

    Args:
        model: any module.
        targets: names, or their last parts such as "q_proj" or "attention.query".

    Raises:
        TypeError: if a target is a module that is not linear.
        ValueError: if none matches; it lists what there is.
    """
    if isinstance(targets, str) or not targets:
        raise ValueError(f"target_modules={targets!r} must be a list of names")
    found = {
        name: module
        for name, module in model.named_modules()
        if name and any(name == target or name.endswith(f".{target}") for target in targets)
    }
    for name, module in found.items():
        if linear_sizes(module) is None:
            raise TypeError(
                f"{name} must be nn.Linear or transformers' Conv1D to be adapted, got {type(module).__name__}"
            )
    if not found:
        linears = {name.rpartition(".")[2] for name, module in model.named_modules() if linear_sizes(module)}
        raise ValueError(
            f"target_modules={list(targets)} match no module; linear layers are {', '.join(sorted(linears)) or 'none'}"
        )
    return found


def replace_layers(model: nn.Module, layers: dict[str, nn.Module], make: Callable[[str, nn.Module], nn.Module]) -> None:
    """Freeze a model and put what `make` gives of each layer in its place."""
    # All are made first, so that settings that do not fit leave the model as it was.
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        made = {name: make(name, layer).train(model.training) for name, layer in layers.items()}
    except Exception:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])
        raise
    model.requires_grad_(False)
    for name, layer in made.items():
        put(model, name, layer)


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one with this name."""
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._modules[last] = layer
