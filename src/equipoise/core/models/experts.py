"""Several experts on one question, and how their answers become one.

    fused = Σ_k g_k e_k          g = softmax(gate logits / T), one row per sample

Soft mixtures for any encoders or classifiers; reconstructed from "Dual-Stage Reweighted MoE for Long-Tailed Egocentric
Mistake Detection", arXiv 2509.12990.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive

Fusion: TypeAlias = Literal["sum", "concat"]


class ExpertMixture(NamedTuple):
    """What a soft mixture gives.

    Attributes:
        fused: the mixture, (n, D), or (n, K D) where experts are put side by side.
        weights: (n, K), rows sum to 1.
    """

    fused: Tensor
    weights: Tensor


@checked
def soft_expert_fusion(
    expert_outputs: Float[Tensor, "k n *d"] | Sequence[Tensor],
    gate_logits: Float[Tensor, "n k"],
    *,
    fusion: Fusion = "sum",
    temperature: Positive = 1.0,
) -> ExpertMixture:
    """Mix the outputs of experts by the softmax of gate logits; every expert always runs.

    Args:
        expert_outputs: (K, n, D), or a sequence of K tensors (n, D).
        gate_logits: (n, K).
        fusion: "sum" for Σ_k g_k e_k, "concat" for [g_1 e_1, …, g_K e_K], whose widths may differ.
        temperature: divides the gate logits, above 0.

    Raises:
        ValueError: if the outputs differ in shape or the gate has another width.

    >>> experts = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]])
    >>> soft_expert_fusion(experts, torch.zeros(1, 2)).fused
    tensor([[2., 4.]])
    """
    experts = list(expert_outputs)
    if gate_logits.shape[1] != len(experts):
        raise ValueError(f"gate_logits must have one column per expert, {len(experts)}, got {gate_logits.shape[1]}")
    if any(len(expert) != len(gate_logits) for expert in experts):
        raise ValueError(f"gate_logits has {len(gate_logits)} rows, experts have {[len(expert) for expert in experts]}")
    weights = (gate_logits / temperature).softmax(1)
    return ExpertMixture(mix_experts(experts, weights, fusion), weights)


def mix_experts(experts: Sequence[Tensor], weights: Float[Tensor, "n k"], fusion: Fusion = "sum") -> Tensor:
    """Outputs of experts, each (n, ...), weighted by row and summed, or put side by side.

    Raises:
        ValueError: if outputs to be summed have different shapes.
    """
    shapes = [tuple(expert.shape) for expert in experts]
    if fusion == "sum" and len(set(shapes)) > 1:
        raise ValueError(
            f"experts of different shapes {shapes} cannot be summed; set proj_dim and expert_dims to bring "
            "them to one width, or fusion='concat'"
        )
    scaled = [
        expert * weights[:, k].reshape(-1, *[1] * (expert.ndim - 1)).to(expert) for k, expert in enumerate(experts)
    ]
    return torch.stack(scaled).sum(0) if fusion == "sum" else torch.cat(scaled, 1)


@checked
def gate_entropy(weights: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean entropy of the rows in nats: 0 where one expert decides alone, log K where all weigh alike.

    >>> gate_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor(0.3466)
    """
    return torch.special.entr(weights).sum(1).mean()


@checked
def gate_imbalance(weights: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """KL of the mean gate from uniform: 0 where experts are used alike over the batch, log K after a collapse.

    >>> gate_imbalance(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor(0.)
    """
    return math.log(weights.shape[1]) - torch.special.entr(weights.mean(0)).sum()


class SoftExpertFusion(nn.Module):
    """A gate and the mixture that it weighs: dense, every expert runs for every sample.

    The form of the gate, Linear(D, D/4) - ReLU - Linear(K), and the weighted sum are a reconstruction of the feature
    mixture of arXiv 2509.12990, whose figure shows only that there is one.

    Args:
        gate: a module from the gate input to K logits, or the width of the gate input for the two-layer gate above.
        num_experts: K.
        fusion: "sum" or "concat".
        temperature: of the softmax.
        expert_dims: widths of the experts; needed for `proj_dim`.
        proj_dim: width to which every expert is projected first.

    Raises:
        ValueError: if `expert_dims` does not name one width per expert where `proj_dim` needs it.

    >>> fusion = SoftExpertFusion(6, 2, expert_dims=(6, 4), proj_dim=5)
    >>> fusion([torch.randn(3, 6), torch.randn(3, 4)], torch.randn(3, 6)).fused.shape
    torch.Size([3, 5])
    """

    @checked
    def __init__(
        self,
        gate: nn.Module | Count,
        num_experts: Count,
        fusion: Fusion = "sum",
        temperature: Positive = 1.0,
        *,
        expert_dims: Sequence[int] | None = None,
        proj_dim: Count | None = None,
    ) -> None:
        super().__init__()
        if proj_dim is not None and (expert_dims is None or len(expert_dims) != num_experts):
            raise ValueError(f"proj_dim={proj_dim} needs expert_dims, the {num_experts} widths to project from")
        self.num_experts, self.fusion, self.temperature = num_experts, fusion, temperature
        self.gate = two_layer_gate(gate, num_experts) if isinstance(gate, int) else gate
        self.projections = nn.ModuleList(
            nn.Linear(dim, proj_dim) for dim in (expert_dims or ()) if proj_dim is not None
        )

    def forward(self, expert_outputs: Tensor | Sequence[Tensor], gate_input: Float[Tensor, "n d"]) -> ExpertMixture:
        """Mix; errors as `soft_expert_fusion`."""
        return soft_expert_fusion(
            self.project(expert_outputs), self.gate(gate_input), fusion=self.fusion, temperature=self.temperature
        )

    def project(self, expert_outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The experts, projected where `proj_dim` was given."""
        experts = list(expert_outputs)
        if self.projections:
            experts = [layer(expert) for layer, expert in zip(self.projections, experts, strict=True)]
        return experts


def two_layer_gate(in_dim: int, out_dim: int, hidden: int | None = None) -> nn.Sequential:
    """Linear - ReLU - Linear, a quarter as wide as its input unless told; the last bias begins at 0.

    >>> two_layer_gate(8, 2)(torch.zeros(1, 8)).shape
    torch.Size([1, 2])
    """
    hidden = max(in_dim // 4, 1) if hidden is None else hidden
    last = nn.Linear(hidden, out_dim)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), last)


class MultiExpertHead(nn.Module):
    """K heads on one trunk: features (n, d) to logits (K, n, C), all heads in one batched product.

    Args:
        in_features: d.
        num_classes: C.
        num_experts: K.
        hidden: width of a hidden layer of its own for every expert; none if absent.
        cosine: logits are `scale` times cosines of features and class vectors, without a bias.
        scale: of cosines, above 0.

    >>> MultiExpertHead(8, 5, num_experts=3)(torch.randn(4, 8)).shape
    torch.Size([3, 4, 5])
    """

    @checked
    def __init__(
        self,
        in_features: Count,
        num_classes: Count,
        num_experts: Count = 3,
        *,
        hidden: Count | None = None,
        cosine: bool = False,
        scale: Positive = 30.0,
    ) -> None:
        super().__init__()
        self.cosine, self.scale = cosine, scale
        self.hidden = None if hidden is None else _expert_weights(num_experts, in_features, hidden)
        self.hidden_bias = None if hidden is None else nn.Parameter(torch.zeros(num_experts, 1, hidden))
        self.weight = _expert_weights(num_experts, in_features if hidden is None else hidden, num_classes)
        self.bias = None if cosine else nn.Parameter(torch.zeros(num_experts, 1, num_classes))

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "k n c"]:
        """Logits of every expert."""
        held = features.expand(len(self.weight), *features.shape)
        if self.hidden is not None and self.hidden_bias is not None:
            held = torch.baddbmm(self.hidden_bias, held, self.hidden).relu()
        if self.bias is None:
            return self.scale * normalize(held, dim=2) @ normalize(self.weight, dim=1)
        return torch.baddbmm(self.bias, held, self.weight)


def _expert_weights(experts: int, wide: int, narrow: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(experts, wide, narrow).uniform_(-(wide**-0.5), wide**-0.5))
