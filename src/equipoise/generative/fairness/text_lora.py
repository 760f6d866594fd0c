"""A low-rank change of the layers that read a text token by token, and of nothing else.

Layers that see the pooled vector only, such as CLIP's projection, are left out where there are others: a denoiser that
reads the states of the tokens would not notice a change there.

Encoders of transformers are changed through PEFT where it is installed, others through `LoRALinear`. The tensors are
the same, A (r, in) and B (out, r) beside each layer with the change scale / r · B A, so that what one has trained the
other can read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equipoise.core.models.low_rank import LoRALinear

ADAPTER = "fair"


class LowRankPair(NamedTuple):
    """What is trained beside a layer.

    Attributes:
        a: (r, in).
        b: (out, r).
    """

    a: Tensor
    b: Tensor


class TextLoRALinear(LoRALinear):
    """`LoRALinear` with the weight that it comes to.

    PyTorch's transformer layers read `linear1.weight` in place of calling the layer when they take their fused path,
    and `out_proj.weight` always: they find the changed weight here.
    """

    @property
    def weight(self) -> Tensor:
        """Weight of the layer with the change, (out, in); gradients reach the change."""
        base: Tensor = self.base.weight  # type: ignore[assignment]
        return base + self.factor * self.lora_b @ self.lora_a

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer."""
        return self.base.bias  # type: ignore[return-value]


def text_layers(model: nn.Module, read_text: Callable[[], Any]) -> list[str]:
    """Names of the linear layers that read token states while a text is encoded, in the order of the model.

    Args:
        model: a tower, or an encoder.
        read_text: encodes some text with it.

    Returns:
        Layers whose input is (texts, tokens, width); where there is none, all linear layers that ran.

    Raises:
        ValueError: if no linear layer ran.
    """
    seen: dict[str, int] = {}
    # With a hook on a layer, PyTorch's transformers do not take the fused path that passes it by.
    hooks = [
        part.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].ndim))
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        with torch.no_grad():
            read_text()
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("no linear layer ran while a text was encoded, so there is nothing to put a change beside")
    order = [name for name, _ in model.named_modules() if name in seen]
    return [name for name in order if seen[name] >= 3] or order


def put_lora(model: nn.Module, layers: Sequence[str], rank: int, scale: float, seed: int) -> None:
    """Freeze a model and put a low-rank change beside some of its layers, in place; it changes nothing at first.

    Args:
        model: a tower, or an encoder.
        layers: names of linear layers.
        rank: r.
        scale: the change is multiplied by scale / r.
        seed: of the first values of A.

    Raises:
        ValueError: if the rank is below 1 or above a side of a layer.
    """
    for name in layers:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is a {type(layer).__name__}, no linear layer")
        most = min(layer.in_features, layer.out_features)
        if not 1 <= rank <= most:
            raise ValueError(
                f"rank={rank} must lie in 1..{most} for {name}, {layer.in_features} to {layer.out_features}"
            )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if _of_transformers(model) and importlib.util.find_spec("peft") is not None:
            _put_peft(model, layers, rank, scale)
        else:
            for name in layers:
                changed = TextLoRALinear(model.get_submodule(name), rank, scale).train(model.training)
                _put(model, name, changed)


def lora_pairs(model: nn.Module) -> dict[str, LowRankPair]:
    """What `put_lora` has put into a model: layer → its parameters."""
    found: dict[str, LowRankPair] = {}
    for name, part in model.named_modules():
        if isinstance(part, LoRALinear):
            found[name] = LowRankPair(part.lora_a, part.lora_b)
        elif _is_peft(part):
            layer: Any = part
            found[name] = LowRankPair(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
    return found


def load_pairs(model: nn.Module, pairs: dict[str, LowRankPair]) -> None:
    """Copy values into the layers of `put_lora`."""
    held = lora_pairs(model)
    with torch.no_grad():
        for name, pair in pairs.items():
            for mine, other in zip(held[name], pair, strict=True):
                mine.copy_(other)


def merged(model: nn.Module) -> nn.Module:
    """Plain layers with the change in their weights in place of those of `put_lora`, in place."""
    for name, part in list(model.named_modules()):
        if isinstance(part, LoRALinear):
            _put(model, name, part.merged().requires_grad_(False))
        elif _is_peft(part):
            layer: Any = part
            layer.merge()
            _put(model, name, layer.get_base_layer())
    return model


def matching_layers(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Where layers of one model are in another that holds the same text encoder, perhaps within something else.

    A layer `model.text_model.encoder.layers.0.mlp.fc1` is found in a text encoder of its own as
    `text_model.encoder.layers.0.mlp.fc1`, or as `encoder.layers.0.mlp.fc1`: the longest end of the name that is there.

    Raises:
        ValueError: if a layer has no counterpart, several, or that of another layer.
    """
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    found: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            end = ".".join(parts[start:])
            fitting = [other for other in linear if other == end or other.endswith(f".{end}")]
            if fitting:
                break
        # `encoder.layers.0` alone may be of the text or of the images.
        if len(fitting) != 1 or len(end.split(".")) < min(2, len(parts)):
            what = "several layers" if len(fitting) > 1 else "no layer"
            raise ValueError(f"the adapter is of another encoder: {what} here can be its {name}")
        if fitting[0] in found.values():
            # Such as those of images, where there are only those of a text.
            raise ValueError(f"the adapter is of another encoder: {fitting[0]} is not its {name} and another layer")
        found[name] = fitting[0]
    return found


def _put_peft(model: nn.Module, layers: Sequence[str], rank: int, scale: float) -> None:
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=scale, target_modules=list(layers), lora_dropout=0.0, bias="none")
    training = model.training
    peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    model.train(training)


def _is_peft(part: nn.Module) -> bool:
    return hasattr(part, "lora_A") and hasattr(part, "get_base_layer") and ADAPTER in part.lora_A  # type: ignore[operator]


def _of_transformers(model: nn.Module) -> bool:
    return any(kind.__module__.startswith("transformers.") for part in model.modules() for kind in type(part).__mro__)


def _put(model: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._modules[last] = part
