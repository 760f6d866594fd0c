"""Low-rank experts that every token chooses among.

    p     = softmax(R x)             R (n, in), a router in every layer
    y     = W x + b + sum over the top two of p'_e (scale / r) B_e A_e dropout(x)      p' the two, divided by their sum
    loss  = n sum_e f_e P_e          f the share of chosen places that are e's, P the mean of p_e

The loss is least, 1, where all experts are used alike. Reconstructed from common practice: no single paper's code.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from equipoise.core.models.low_rank import linear_sizes, linear_weight
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex
from equipoise.core.validate import warn_once
from equipoise.language.adapters.contexts import in_backward
from equipoise.language.adapters.lora_settings import MoELoRASettings


class MoELoRALinear(nn.Module):
    """A frozen linear layer and low-rank experts that tokens choose among.

    Args:
        base: the layer, `nn.Linear` or transformers' `Conv1D`; its parameters are frozen.
        settings: number, rank and choice of the experts.

    Attributes:
        lora_a: A, (n, r, in).
        lora_b: B, (n, out, r), zero at the start.
        gate: R, (n, in).

    Raises:
        TypeError: if the layer is another one.

    >>> from equipoise.language import MoELoRASettings
    >>> base = torch.nn.Linear(4, 3)
    >>> torch.equal(MoELoRALinear(base, MoELoRASettings(r=2))(torch.ones(1, 4)), base(torch.ones(1, 4)))
    True
    """

    def __init__(self, base: nn.Module, settings: MoELoRASettings) -> None:
        super().__init__()
        sizes = linear_sizes(base)
        if sizes is None:
            raise TypeError(f"base must be nn.Linear or transformers' Conv1D, got {type(base).__name__}")
        self.base = base.requires_grad_(False)
        like, bound = linear_weight(base), 1 / math.sqrt(sizes[0])
        count, r = settings.num_experts, settings.r
        self.lora_a = nn.Parameter(like.new_empty(count, r, sizes[0]).uniform_(-bound, bound))
        self.lora_b = nn.Parameter(like.new_zeros(count, sizes[1], r))
        self.gate = nn.Parameter(like.new_empty(count, sizes[0]).uniform_(-bound, bound))
        self.dropout, self.factor, self.top_k = nn.Dropout(settings.dropout), settings.scale / r, settings.top_k
        self.balance = settings.balance
        self._loss: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The layer with the changes of the experts that each token chooses."""
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            probability = linear(x.to(dtype), self.gate.to(dtype)).softmax(-1)
        top, chosen = probability.topk(self.top_k, -1)
        if self.training and torch.is_grad_enabled():
            loss = moe_balance_loss(probability.flatten(0, -2), chosen.flatten(0, -2)) * self.balance
            # A checkpoint that recomputes the layer must do all it did before, but its loss has been had.
            self._loss = self._loss if in_backward() else loss
        elif self.training:
            warn_once(
                "MoELoRALinear has no balance loss in training without gradients, as re-entrant checkpointing runs it; "
                "use use_reentrant=False"
            )
        weight = torch.zeros_like(probability).scatter(-1, chosen, top / top.sum(-1, keepdim=True))
        # All experts are computed: they are few and small, and gathering tokens costs more than it saves.
        inner = torch.einsum("...d,nrd->...nr", self.dropout(x), self.lora_a) * weight[..., None].to(x.dtype)
        return self.base(x) + torch.einsum("...nr,nor->...o", inner, self.lora_b) * self.factor

    def take_balance_loss(self) -> Tensor:
        """The weighted load-balance loss of the last training pass, which is let go of; zero where there was none."""
        loss, self._loss = self._loss, None
        return attached_zero(self.gate) if loss is None else loss


@checked
def moe_balance_loss(
    probability: Float[Tensor, "n classes"], chosen: Annotated[Integer[Tensor, "n top"], ClassIndex()]
) -> Float[Tensor, ""]:
    """n sum_e f_e P_e: 1 where experts are used alike, n where one has everything.

    Args:
        probability: (tokens, experts), rows sum to 1.
        chosen: (tokens, top k) experts of each token.

    >>> float(moe_balance_loss(torch.full((4, 2), 0.5), torch.tensor([[0], [1], [0], [1]])))
    1.0
    """
    experts = probability.shape[1]
    share = one_hot(chosen.long(), experts).sum((0, 1)).to(probability) / chosen.numel()
    return experts * (share * probability.mean(0)).sum()


def take_balance_loss(model: nn.Module) -> Tensor:
    """The sum of `MoELoRALinear.take_balance_loss` over a model, to be added to the loss.

    Raises:
        ValueError: if the model has no such layers.
    """
    layers = [part for part in model.modules() if isinstance(part, MoELoRALinear)]
    if not layers:
        raise ValueError("model has no MoELoRALinear layers; add them with add_adapter(model, 'moe-lora', ...)")
    return torch.stack([layer.take_balance_loss() for layer in layers]).sum()
