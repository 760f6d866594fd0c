"""A rare event in a long recording: two encoders see it, three heads judge it, two gates weigh both.

    features     J = g₁ LN(a) + g₂ LN(b)        a frozen encoder of the whole video, b tuned encoder of the segment
    heads        z_k = MLP_k(J), k = 1..3       re-weighted CE, AUC square, logit-adjusted CE with SAM: each its own
    decision     P = Σ_k h_k softmax(z_k)       h = softmax(Gate(b)); called a mistake from a threshold on

Each head receives its own loss only; the sharpness-aware step perturbs the third head and nothing else, with one more
pass through that head and none through an encoder. Probabilities are mixed rather than logits, because the three heads
are calibrated to different priors.

"Dual-Stage Reweighted MoE for Long-Tailed Egocentric Mistake Detection", arXiv 2509.12990: technical report without
code. The two stages, the three objectives and the gates fed by the segment are the report's (abstract and figure);
gate and head architectures, normalisation, class weights, surrogate, SAM's scope, the gate's training and every default
number are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import nll_loss

from equipoise.core.models.experts import SoftExpertFusion, gate_imbalance, mix_experts, two_layer_gate
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Count, NonNegative, Scalar
from equipoise.core.validate import check_finite
from equipoise.longtail.mistakes.objectives import (
    BinaryAUCSquareLoss,
    checked_weights,
    class_weights,
    logit_adjusted_loss,
    mistake_counts,
    reweighted_ce,
)

Head: TypeAlias = Literal["rw", "auc", "la"]
"""Known objectives: re-weighted CE, AUC square loss, logit-adjusted CE (the one that SAM flattens)."""
GateInput: TypeAlias = Literal["fine", "coarse", "both"]
Part: TypeAlias = Literal["features", "gate", "both"]
LEAST_PROBABILITY = 1e-7
"""Below it the likelihood of a decision is not driven further."""


class _Head(nn.Module):
    def __init__(self, dim: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(self.first(features).relu())


class _Heads(nn.ModuleList):
    """Heads of one shape, with parameters apart and evaluated together."""

    def forward(self, features: Tensor) -> Tensor:
        def stacked(name: str) -> tuple[Tensor, Tensor]:
            layers = [getattr(head, name) for head in self]
            weight = torch.stack([layer.weight.T for layer in layers])
            return weight, torch.stack([layer.bias for layer in layers])[:, None]

        (first, first_bias), (second, second_bias) = stacked("first"), stacked("second")
        hidden = torch.baddbmm(first_bias, features.expand(len(self), *features.shape), first).relu()
        return torch.baddbmm(second_bias, hidden, second)


class DualStageMoE(nn.Module):
    """Two encoders, a feature gate, heads and a decision gate.

    Args:
        encoder_coarse: of the whole recording; frozen, always in evaluation mode. `nn.Identity()` for embeddings.
        encoder_fine: of the segment; trained as it allows (see `add_lora`).
        dim: width D of the mixed features.
        heads: objectives, "rw", "auc" and "la", in any order and number.
        num_classes: C.
        coarse_dim: width of the coarse embedding, D if absent; projected where it differs.
        fine_dim: width of the fine embedding, likewise.
        hidden: width of the heads.
        gate_input: what the gates see: "fine", "coarse" or "both".
        fusion: of features, "sum" or "concat".
        combine: of heads, "prob" or "logit".
        detach_heads: the decision's loss reaches the gates but not the heads and features behind them.
        coarse_placeholder: without `coarse`, go on with the segment alone (feature gate 0, 1) instead of raising.

    Raises:
        ValueError: on unknown names or no head.

    >>> model = DualStageMoE(torch.nn.Identity(), torch.nn.Identity(), dim=8)
    >>> model(torch.randn(3, 8), torch.randn(3, 8))["prob"].shape
    torch.Size([3, 2])
    """

    @checked
    def __init__(
        self,
        encoder_coarse: nn.Module,
        encoder_fine: nn.Module,
        dim: Count,
        heads: Sequence[Head] = get_args(Head),
        num_classes: Count = 2,
        *,
        coarse_dim: Count | None = None,
        fine_dim: Count | None = None,
        hidden: Count = 256,
        gate_input: GateInput = "fine",
        fusion: Literal["sum", "concat"] = "sum",
        combine: Literal["prob", "logit"] = "prob",
        detach_heads: bool = True,
        coarse_placeholder: bool = False,
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError(f"heads is empty; give at least one of {', '.join(get_args(Head))}")
        widths = (coarse_dim or dim, fine_dim or dim)
        self.encoder_coarse = encoder_coarse.requires_grad_(False).eval()
        self.encoder_fine = encoder_fine
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        gate_dim = {"fine": widths[1], "coarse": widths[0], "both": sum(widths)}[gate_input]
        project = {"expert_dims": widths, "proj_dim": dim} if set(widths) != {dim} else {}
        self.feature_fusion = SoftExpertFusion(gate_dim, 2, fusion, **project)  # type: ignore[arg-type]
        joint = dim if fusion == "sum" else 2 * dim
        self.heads = _Heads(_Head(joint, hidden, num_classes) for _ in heads)
        self.decision_gate = two_layer_gate(gate_dim, len(heads))
        self.head_names, self.widths = tuple(heads), widths
        self.gate_input, self.combine, self.detach_heads = gate_input, combine, detach_heads
        self.coarse_placeholder = coarse_placeholder

    def train(self, mode: bool = True) -> DualStageMoE:
        """Training mode for all but the frozen encoder."""
        super().train(mode)
        self.encoder_coarse.eval()
        return self

    def forward(self, coarse: Tensor | None, fine: Tensor) -> dict[str, Any]:
        """Judge a batch of segments.

        Args:
            coarse: input of the coarse encoder, or None where the whole recording is missing.
            fine: input of the fine encoder.

        Returns:
            prob (n, C); log_prob; head_logits, by name; head_prob, by name; gate_f (n, 2); gate_c (n, K); fused
            (n, D), the features that the heads saw.

        Raises:
            ValueError: without `coarse` unless `coarse_placeholder`; on embeddings of the wrong width or with NaN.
        """
        b = self._checked("fine", self.encoder_fine(fine), self.widths[1])
        if coarse is None:
            if not self.coarse_placeholder:
                raise ValueError("coarse is missing; pass it, or build the model with coarse_placeholder=True")
            a = b.new_zeros(len(b), self.widths[0])
        else:
            with torch.no_grad():
                a = self._checked("coarse", self.encoder_coarse(coarse), self.widths[0]).to(b)
        a, b = self.norms[0](a), self.norms[1](b)
        seen = {"fine": b, "coarse": a, "both": torch.cat([a, b], 1)}[self.gate_input]
        if coarse is None:
            gate = b.new_tensor([0.0, 1.0]).expand(len(b), 2)
            fused = mix_experts(self.feature_fusion.project([a, b]), gate, self.feature_fusion.fusion)
        else:
            fused, gate = self.feature_fusion([a, b], seen)
        logits = self.heads(fused)
        judged = logits.detach() if self.detach_heads else logits
        weights = self.decision_gate(seen).softmax(1)
        if self.combine == "prob":
            prob = mix_experts(list(judged.softmax(2)), weights)
            log_prob = prob.clamp(LEAST_PROBABILITY, 1).log()
        else:
            log_prob = mix_experts(list(judged), weights).log_softmax(1)
            prob = log_prob.exp()
        named = dict(zip(self.head_names, logits, strict=True))
        return {
            "prob": prob,
            "log_prob": log_prob,
            "head_logits": named,
            "head_prob": {name: value.softmax(1) for name, value in named.items()},
            "gate_f": gate,
            "gate_c": weights,
            "fused": fused,
        }

    @checked
    def train_only(self, part: Part) -> DualStageMoE:
        """Choose what is trained: "features" (all but the decision gate), "gate" (it alone) or "both".

        The fine encoder's own frozen weights (LoRA's base) stay frozen: parameters that do not require a gradient
        before the first call never will.
        """
        if not hasattr(self, "_trainable"):
            self._trainable = [name for name, value in self.named_parameters() if value.requires_grad]
        for name, value in self.named_parameters():
            gate = name.startswith("decision_gate.")
            value.requires_grad_(name in self._trainable and part in ("both", "gate" if gate else "features"))
        return self

    def _checked(self, name: str, embedding: Tensor, width: int) -> Tensor:
        if embedding.ndim != 2 or embedding.shape[1] != width:
            raise ValueError(f"{name} embedding must have shape (n, {width}), got {tuple(embedding.shape)}")
        check_finite(f"{name} embedding", embedding)
        return embedding


class DualStageLoss(nn.Module):
    """The losses of a `DualStageMoE`: one for each head, and the decision's class-weighted negative log-likelihood.

    Args:
        class_counts: training samples per class.
        tau: of the logit-adjusted head.
        weights: of the heads' objectives, in the order of the model's heads.
        rho: SAM radius of the logit-adjusted head, used by `backward`; 0 is a plain step.

    Raises:
        ValueError: on counts below 1 (no mistake in training), or all-zero weights.

    >>> x, y = torch.randn(80, 4, generator=torch.Generator().manual_seed(0)), (torch.arange(80) < 8).long()
    >>> x = x + y[:, None]
    >>> model, loss = DualStageMoE(torch.nn.Identity(), torch.nn.Identity(), 4), DualStageLoss([72, 8])
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    >>> start = loss(model(x, x), y)["total"].item()
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     losses = loss.backward(model, model(x, x), y)
    ...     optimizer.step()
    >>> losses["total"].item() < start
    True
    """

    class_weight: Tensor

    @checked
    def __init__(
        self,
        class_counts: Any,
        tau: NonNegative = 1.0,
        weights: Sequence[NonNegative] = (1.0, 1.0, 1.0),
        *,
        rho: NonNegative = 0.05,
    ) -> None:
        super().__init__()
        self.stats = mistake_counts(class_counts)
        self.weights = checked_weights(weights, len(weights))
        self.tau, self.rho = tau, rho
        self.auc = BinaryAUCSquareLoss()
        self.register_buffer("class_weight", class_weights(self.stats), persistent=False)

    def forward(self, out: dict[str, Any], target: ClassTarget) -> dict[str, Tensor]:
        """Losses by name: one per head, "gate" of the decision, "balance" of its gate (not in the sum), and "total".

        Raises:
            ValueError: if the model gave no logits of heads, decision or gate, if weights and heads are not of one
                number, or on bad targets.
        """
        _check_given(out, "head_logits", "log_prob", "gate_c")
        logits = out["head_logits"]
        if len(logits) != len(self.weights):
            raise ValueError(f"weights has {len(self.weights)} numbers for {len(logits)} heads: {', '.join(logits)}")
        losses = {name: self._objective(name, value, target) for name, value in logits.items()}
        total = sum(weight * losses[name] for name, weight in zip(logits, self.weights, strict=True))
        losses["gate"] = self._decision(out["log_prob"], target)
        losses["balance"] = gate_imbalance(out["gate_c"])
        losses["total"] = total + losses["gate"]
        return losses

    def backward(self, model: DualStageMoE, out: dict[str, Any], target: ClassTarget) -> dict[str, Tensor]:
        """Backward of "total", where the logit-adjusted head's own loss has its gradient taken at the SAM point.

        Gradients are added to those that are there. Only that head's are changed by SAM: features receive the clean
        gradient, and no weight is moved.

        Returns:
            The losses, as `forward`.

        Raises:
            ValueError: as `forward`; if the model gave no fused features.
        """
        _check_given(out, "fused")
        losses = self(out, target)
        head = model.heads[model.head_names.index("la")] if "la" in model.head_names else None
        own = dict(head.named_parameters()) if head is not None else {}
        weight = self.weights[model.head_names.index("la")] if own else 0.0
        sharp = self.rho > 0 and weight > 0 and all(value.requires_grad for value in own.values())
        if not sharp or head is None:
            losses["total"].backward()
            return losses
        clean = torch.autograd.grad(losses["la"], list(own.values()), retain_graph=True)
        losses["total"].backward()
        norm = torch.stack([g.double().norm() for g in clean]).norm().clamp(min=1e-12)
        moved = {
            name: (value + (self.rho / norm).to(value) * g).detach().requires_grad_()
            for (name, value), g in zip(own.items(), clean, strict=True)
        }
        loss = self._objective("la", functional_call(head, moved, (out["fused"].detach(),)), target)
        for value, at_point, g in zip(
            own.values(), torch.autograd.grad(loss, list(moved.values())), clean, strict=True
        ):
            change = weight * (at_point - g)
            value.grad = change if value.grad is None else value.grad + change
        return losses

    @checked
    def _decision(self, log_prob: ClassScores, target: ClassTarget) -> Scalar:
        return nll_loss(log_prob, target, self.class_weight.to(log_prob))

    def _objective(self, name: str, logits: Tensor, target: Tensor) -> Tensor:
        if name == "rw":
            return reweighted_ce(logits, target, self.stats)
        if name == "auc":
            return self.auc(logits, target)
        return logit_adjusted_loss(logits, target, self.stats, tau=self.tau)


def _check_given(out: dict[str, Any], *names: str) -> None:
    for name in names:
        if name not in out:
            held = ", ".join(map(repr, out)) or "nothing"
            raise ValueError(f"out must hold {name!r}, as what a DualStageMoE gives does, got {held}")
