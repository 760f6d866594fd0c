"""AdaLoRA: one budget of ranks, spent on the layers that need it.

    y     = W x + b + scale / r * B diag(E) A dropout(x)          A (r, in), B (out, r), E (r, 1) zero at the start
    I     = |w grad w|      I' = .85 I' + .15 I      U' = .85 U' + .15 |I - I'|      score = I' U'
    rank  = score(E_i) + mean_j score(A_ij) + mean_j score(B_ji)

Of all ranks of all layers the best `budget` are kept, the E_i of the others are set to zero. The budget falls from
r to `target_r` per layer by a cubic. A regulariser keeps A and B near orthogonal: mean ||A A^T - I||_F.

Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023, as in huggingface/peft.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from equipoise.core.models.low_rank import linear_sizes, linear_weight, with_weight
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, OpenFraction, Whole
from equipoise.language.adapters.lora_settings import AdaLoRASettings

_NO_RANK = 1e-5


class AdaLoRALinear(nn.Module):
    """A frozen linear layer and a low-rank change whose ranks can be taken away.

    Args:
        base: the layer, `nn.Linear` or transformers' `Conv1D`; its parameters are frozen.
        settings: the rank to begin with, the scale and the dropout.

    Attributes:
        lora_a: A, (r, in).
        lora_b: B, (out, r).
        lora_e: E, (r, 1).

    Raises:
        TypeError: if the layer is another one.

    >>> from equipoise.language import AdaLoRASettings
    >>> base = torch.nn.Linear(4, 3)
    >>> torch.equal(AdaLoRALinear(base, AdaLoRASettings(r=2))(torch.ones(1, 4)), base(torch.ones(1, 4)))
    True
    """

    def __init__(self, base: nn.Module, settings: AdaLoRASettings) -> None:
        super().__init__()
        sizes = linear_sizes(base)
        if sizes is None:
            raise TypeError(f"base must be nn.Linear or transformers' Conv1D, got {type(base).__name__}")
        self.base = base.requires_grad_(False)
        like = linear_weight(base)
        self.lora_a = nn.Parameter(like.new_empty(settings.r, sizes[0]).normal_(std=0.02))
        self.lora_b = nn.Parameter(like.new_empty(sizes[1], settings.r).normal_(std=0.02))
        self.lora_e = nn.Parameter(like.new_zeros(settings.r, 1))
        self.dropout, self.factor = nn.Dropout(settings.dropout), settings.scale / (settings.r + _NO_RANK)

    def forward(self, x: Tensor) -> Tensor:
        """The layer with its change."""
        return self.base(x) + linear(linear(self.dropout(x), self.lora_a * self.lora_e), self.lora_b) * self.factor

    def orthogonality(self) -> Tensor:
        """Mean over A and B of the distance ||A A^T - I||_F."""
        eye = torch.eye(len(self.lora_a)).to(self.lora_a)
        products = (self.lora_a @ self.lora_a.T, self.lora_b.T @ self.lora_b)
        return torch.stack([torch.linalg.matrix_norm(product - eye) for product in products]).mean()

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A plain layer with the change in its weight; this one is left as it is."""
        change = self.lora_b @ (self.lora_a * self.lora_e) * self.factor
        return with_weight(self.base, linear_weight(self.base) + change).train(self.training)


class RankAllocator:
    """The budget of all AdaLoRA layers of a model.

    Call `step` after every backward pass, before the gradients are cleared, and add `penalty()` to the loss.

    Args:
        model: with `AdaLoRALinear` layers.
        total_steps: of the training.
        target_r: ranks per layer at the end, on average.
        initial_steps: before the budget falls.
        final_steps: after it has fallen, with the ranks that are left.
        every: how many steps lie between two allocations.
        beta_importance: smoothing of the importance, .85.
        beta_uncertainty: smoothing of its uncertainty, .85.
        orthogonality: weight of the penalty, .5.

    Attributes:
        kept: name of the layer → mask of its ranks that are left, (r,); empty before the first allocation.

    Raises:
        ValueError: if the model has no such layers, the target is above their ranks, or no step is left to fall.

    >>> from equipoise.language import add_adapter
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 6))
    >>> added = add_adapter(model, "adalora", ["0"])
    >>> allocator = RankAllocator(model, total_steps=10, target_r=8)
    >>> (model(torch.ones(2, 6)).sum() + allocator.penalty()).backward()
    >>> allocator.step()
    12
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        total_steps: Count,
        target_r: Count = 8,
        initial_steps: Whole = 0,
        final_steps: Whole = 0,
        every: Count = 1,
        *,
        beta_importance: OpenFraction = 0.85,
        beta_uncertainty: OpenFraction = 0.85,
        orthogonality: NonNegative = 0.5,
    ) -> None:
        self.layers = {name: part for name, part in model.named_modules() if isinstance(part, AdaLoRALinear)}
        if not self.layers:
            raise ValueError("model has no AdaLoRALinear layers; add them with add_adapter(model, 'adalora', ...)")
        if initial_steps + final_steps >= total_steps:
            raise ValueError(
                f"total_steps={total_steps} must be above initial_steps + final_steps = {initial_steps + final_steps}"
            )
        self.first_budget = sum(len(layer.lora_e) for layer in self.layers.values())
        self.last_budget = target_r * len(self.layers)
        if self.last_budget > self.first_budget:
            raise ValueError(f"target_r={target_r} must not be above the rank of the layers")
        self.total_steps, self.initial_steps, self.final_steps = total_steps, initial_steps, final_steps
        self.every = every
        self.betas, self.weight = (beta_importance, beta_uncertainty), orthogonality
        self.done = 0
        self.kept: dict[str, Tensor] = {}
        self._importance: dict[str, Tensor] = {}
        self._uncertainty: dict[str, Tensor] = {}

    def penalty(self) -> Tensor:
        """What keeps A and B near orthogonal, to be added to the loss."""
        return self.weight * torch.stack([layer.orthogonality() for layer in self.layers.values()]).mean()

    def budget(self, step: int) -> int:
        """How many ranks all layers have together in a step."""
        end = self.total_steps - self.final_steps
        if step <= self.initial_steps:
            return self.first_budget
        if step >= end:
            return self.last_budget
        left = 1 - (step - self.initial_steps) / (end - self.initial_steps)
        return int((self.first_budget - self.last_budget) * left**3 + self.last_budget)

    @torch.no_grad()
    def step(self) -> int:
        """Take note of the gradients, and take ranks away where it is time; the budget of the step.

        Raises:
            RuntimeError: if a layer has no gradient.
        """
        step, end = self.done, self.total_steps - self.final_steps
        self.done += 1
        if step < end:
            self._take_note()
        falling = self.initial_steps < step < end and step % self.every == 0
        if falling or step == end:
            self._allocate(self.budget(step))
        elif step > end:
            self._mask()
        return self.budget(step)

    def _take_note(self) -> None:
        first, second = self.betas
        for name, layer in self.layers.items():
            for part in ("lora_a", "lora_b", "lora_e"):
                weight: nn.Parameter = getattr(layer, part)
                if weight.grad is None:
                    raise RuntimeError(f"{name}.{part} has no gradient; call step after the backward pass")
                key, now = f"{name}.{part}", (weight * weight.grad).abs()
                mean = first * self._importance.get(key, torch.zeros_like(now)) + (1 - first) * now
                spread = self._uncertainty.get(key, torch.zeros_like(now))
                self._importance[key] = mean
                self._uncertainty[key] = second * spread + (1 - second) * (now - mean).abs()

    def _scores(self, name: str) -> Tensor:
        a, b, e = (self._importance[key] * self._uncertainty[key] for key in (f"{name}.lora_{each}" for each in "abe"))
        return e[:, 0] + a.mean(1) + b.mean(0)

    def _allocate(self, budget: int) -> None:
        scores = {name: self._scores(name) for name in self.layers}
        dropped = self.first_budget - budget
        if dropped == 0:
            return
        threshold = torch.cat(list(scores.values())).kthvalue(dropped).values
        self.kept = {name: score > threshold for name, score in scores.items()}
        self._mask()

    def _mask(self) -> None:
        for name, kept in self.kept.items():
            self.layers[name].lora_e[~kept] = 0
