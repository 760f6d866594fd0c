"""Low-rank adapters on every linear layer of an image encoder, and the plain encoder again.

As in the authors' code: rank 16, scale 16, dropout .1, on all linear layers, whose biases are trained along. Only the
image tower is given, so that no adapter lies in a text tower that is not used.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from equipoise.core.models.low_rank import LoRALinear, linear_sizes, merge_lora
from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, ProperFraction


@checked
@dataclass(frozen=True)
class LoRASettings:
    """How an encoder is adapted.

    Attributes:
        rank: of the change of each layer, less where the layer is smaller.
        scale: the change is multiplied by scale / rank.
        dropout: on the input of the change.
        biases: whether the biases of adapted layers are trained.

    Raises:
        ValueError: if a setting is out of range.

    >>> LoRASettings()
    LoRASettings(rank=16, scale=16.0, dropout=0.1, biases=True)
    """

    rank: Count = 16
    scale: Positive = 16.0
    dropout: ProperFraction = 0.1
    biases: bool = True


def add_adapters(encoder: nn.Module, settings: LoRASettings, seed: int) -> list[LoRALinear]:
    """Freeze an encoder and adapt all its linear layers, in place; the output is the same at first.

    The projections of `torch.nn.MultiheadAttention` are no layers that are called, and are left as they are.

    Args:
        encoder: any module.
        settings: of the adapters.
        seed: of their first weights; the global state is left alone.

    Raises:
        ValueError: if there is no linear layer inside.
    """
    within = [name for name, part in encoder.named_modules() if isinstance(part, nn.MultiheadAttention)]
    found = [
        (name, part)
        for name, part in encoder.named_modules()
        if name and linear_sizes(part) is not None and not any(name.startswith(f"{one}.") for one in within)
    ]
    if not found:
        raise ValueError("the encoder has no linear layer inside that an adapter could change; pass lora=None")
    encoder.requires_grad_(False)
    layers = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for name, part in found:
            rank = min(settings.rank, *(linear_sizes(part) or ()))
            # The factor is scale / rank of the settings also where the layer takes a lower rank.
            layer = LoRALinear(part, rank, settings.scale * rank / settings.rank, settings.dropout)
            if settings.biases and isinstance(bias := getattr(part, "bias", None), nn.Parameter):
                bias.requires_grad_(True)
            parent, _, last = name.rpartition(".")
            encoder.get_submodule(parent)._modules[last] = layer
            layers.append(layer)
    return layers


def without_adapters(encoder: nn.Module) -> nn.Module:
    """A copy with plain layers, each change in its weight."""
    return merge_lora(copy.deepcopy(encoder)).eval()
