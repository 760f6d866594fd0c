"""Low-rank adaptation: tune a frozen encoder by a small matrix beside each chosen layer.

    y = W x + b + (scale / r) B A dropout(x)        A (r, in) random, B (out, r) zero: nothing changes at the start

Rank-stabilised, the factor is scale / sqrt(r), which keeps the size of the change where the rank grows.

For networks of this library and small ones of your own. Models of transformers are tuned by PEFT, which has more kinds
of adapters, merges and saves them: `peft.inject_adapter_in_model(peft.LoraConfig(...), encoder)`.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Reconstructed: rank 8 and scale 16 as
defaults, that arXiv 2509.12990 adapts the query and the value of the attention, and the rank-stabilised factor.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.core.validate import check_fraction, check_positive


def linear_sizes(layer: nn.Module) -> tuple[int, int] | None:
    """Input and output features of a linear layer or of transformers' `Conv1D`; None of any other module.

    >>> linear_sizes(torch.nn.Linear(4, 3)), linear_sizes(torch.nn.ReLU())
    ((4, 3), None)
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if _is_conv1d(layer):
        return int(layer.nx), int(layer.nf)  # type: ignore[arg-type]
    return None


def linear_weight(layer: nn.Module) -> Tensor:
    """The weight of such a layer, (out, in); a view."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.mT if _is_conv1d(layer) else weight


@torch.no_grad()
def with_weight(layer: nn.Module, weight: Float[Tensor, "o i"]) -> nn.Module:
    """A copy of such a layer that has this weight, (out, in), and can be trained."""
    made = copy.deepcopy(layer).requires_grad_(True)
    linear_weight(made).copy_(weight)
    return made


def _is_conv1d(layer: nn.Module) -> bool:
    # By name, for transformers may not be installed.
    return type(layer).__name__ == "Conv1D" and type(layer).__module__.startswith("transformers.")


@checked
def lora_parameter_count(in_features: Count, out_features: Count, r: Count, layers: Count = 1) -> int:
    """Trainable parameters of LoRA on layers of one size: layers r (in + out).

    >>> lora_parameter_count(768, 768, 8, 12)
    147456
    """
    return layers * r * (in_features + out_features)


class LoRALinear(nn.Module):
    """A frozen linear layer and its low-rank change.

    Args:
        base: the layer, `nn.Linear` or transformers' `Conv1D`; its parameters are frozen.
        r: rank, 1..min(in, out).
        scale: the change is multiplied by scale / r.
        dropout: on the input of the change.
        rank_stabilised: multiply by scale / sqrt(r) instead.

    Raises:
        TypeError: if the layer is another one.
        ValueError: on a rank, scale or dropout out of range.

    >>> base = torch.nn.Linear(4, 3)
    >>> torch.equal(LoRALinear(base, r=2)(torch.ones(1, 4)), base(torch.ones(1, 4)))
    True
    """

    def __init__(
        self,
        base: nn.Module,
        r: int = 8,
        scale: float = 16.0,
        dropout: float = 0.0,
        *,
        rank_stabilised: bool = False,
    ) -> None:
        super().__init__()
        sizes = linear_sizes(base)
        if sizes is None:
            raise TypeError(f"base must be nn.Linear or transformers' Conv1D, got {type(base).__name__}")
        if not 1 <= r <= min(sizes):
            raise ValueError(f"r={r} must lie in 1..{min(sizes)} for a layer of {sizes[0]} to {sizes[1]}")
        check_positive("scale", scale)
        check_fraction("dropout", dropout, zero=True, one=False)
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(linear_weight(base).new_empty(r, sizes[0]))
        self.lora_b = nn.Parameter(linear_weight(base).new_zeros(sizes[1], r))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.dropout, self.factor = nn.Dropout(dropout), scale / (math.sqrt(r) if rank_stabilised else r)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """The layer with its change."""
        return self.base(x) + linear(linear(self.dropout(x), self.lora_a), self.lora_b) * self.factor

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A plain layer with the change in its weight, for inference; this one is left as it is."""
        weight = linear_weight(self.base) + self.factor * self.lora_b @ self.lora_a
        return with_weight(self.base, weight).train(self.training)


def add_lora(
    model: nn.Module,
    targets: Sequence[str] = ("q", "v", "query", "value", "q_proj", "v_proj"),
    r: int = 8,
    scale: float = 16.0,
    dropout: float = 0.0,
) -> list[str]:
    """Freeze a model and put `LoRALinear` in the place of its linear layers with these names, in place.

    Args:
        model: any module; `torch.nn.MultiheadAttention` has no separate layers to adapt.
        targets: last parts of layer names; the default has the query and value names of common attentions.
        r: as in `LoRALinear`.
        scale: as in `LoRALinear`.
        dropout: as in `LoRALinear`.

    Returns:
        Names of the layers that were replaced.

    Raises:
        ValueError: if no layer matches, listing the names there are; or on a rank out of range.

    >>> model = torch.nn.ModuleDict({"q": torch.nn.Linear(8, 8), "k": torch.nn.Linear(8, 8)})
    >>> add_lora(model, ("q",), r=2)
    ['q']
    """
    linears = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and name]
    inside = {f"{name}.base" for name, part in model.named_modules() if isinstance(part, LoRALinear)}
    found = [name for name in linears if name.rpartition(".")[2] in targets and name not in inside]
    if not found:
        candidates = sorted({name.rpartition(".")[2] for name in linears if name not in inside})
        raise ValueError(f"no linear layer is named {list(targets)}; candidates: {', '.join(candidates) or 'none'}")
    # Layers are made first, so that a rank that does not fit leaves the model as it was.
    layers = {name: LoRALinear(model.get_submodule(name), r, scale, dropout) for name in found}
    model.requires_grad_(False)
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        model.get_submodule(parent)._modules[last] = layer.train(model.training)
    return found


def merge_lora(model: nn.Module) -> nn.Module:
    """Put plain layers with the change in their weights back in place."""
    for name, part in list(model.named_modules()):
        if isinstance(part, LoRALinear) and name:
            parent, _, last = name.rpartition(".")
            model.get_submodule(parent)._modules[last] = part.merged()
    return model


def trainable_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained: what has to be stored beside a frozen encoder's own weights.

    Load with `model.load_state_dict(state, strict=False)`.
    """
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
