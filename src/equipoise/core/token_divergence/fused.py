"""The same terms from hidden states and output layers: the logits themselves exist a few at a time only.

The forward pass makes the logits of a few rows, tile by tile of the vocabulary, and keeps four numbers a row. The
backward pass goes over tiles of the vocabulary, all rows at once, so that the gradient of a row of the output layer is
one product in single precision, rounded once. Products are taken in float32 whatever the dtype of the weights: logits
rounded to bfloat16 move a divergence by per cents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from equipoise.core.token_divergence.certainty import Certainty, certainty
from equipoise.core.token_divergence.chunks import (
    InfPolicy,
    accumulation_dtype,
    chunk_of,
    log_normalizer,
    parts,
)
from equipoise.core.token_divergence.families import TokenDivergence
from equipoise.core.token_divergence.kernel import TokenTerms, divergence_rows, logit_gradient

_CPU_BYTES, _DEVICE_BYTES = 12 << 20, 64 << 20
_WEIGHT_BYTES = 16 << 20


@dataclass(frozen=True)
class LinearHead:
    """An output layer: z = scale (h Wᵀ + b), then c tanh(z/c) where there is a soft cap c.

    Attributes:
        weight: (V, H).
        bias: (V,), or None.
        scale: factor of the logits, which some models have.
        soft_cap: c, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        for name, value, rank in (("weight", self.weight, 2), ("bias", self.bias, 1)):
            if name == "bias" and value is None:
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                given = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{name} of an output layer must be a floating-point torch.Tensor, got {given}")
            if value.ndim != rank or not value.numel():
                wanted = "(vocabulary, width)" if rank == 2 else "(vocabulary,)"
                raise ValueError(f"{name} of an output layer must have shape {wanted}, got {tuple(value.shape)}")
        if self.bias is not None and len(self.bias) != len(self.weight):
            raise ValueError(
                f"bias has {len(self.bias)} entries and weight {len(self.weight)}; both are over one vocabulary"
            )
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise ValueError(f"soft_cap={self.soft_cap!r} must be greater than 0, or None for no cap")

    def check_width(self, hidden: Tensor, whose: str) -> None:
        """Raise `ValueError` unless hidden states (..., H) are as wide as the layer takes them."""
        if hidden.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"{whose}_hidden has {hidden.shape[-1]} features, the {whose}'s output layer takes "
                f"{self.weight.shape[1]}; its weight must be (vocabulary, width), the width that of the hidden states"
            )

    def logits(self, hidden: Tensor, tile: slice, dtype: torch.dtype) -> Tensor:
        """(rows, columns of the tile), in a dtype, without gradient."""
        weight = self.weight[tile]
        if hidden.is_cuda and dtype is torch.float32 and hidden.dtype is weight.dtype is not torch.float32:
            out = torch.mm(hidden, weight.T, out_dtype=torch.float32)
        else:
            out = hidden.to(dtype) @ weight.to(dtype).T
        if self.bias is not None:
            out += self.bias[tile]
        if self.scale != 1:
            out *= self.scale
        if self.soft_cap is not None:
            out.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return out

    def through(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient before scale and cap, of that of the logits."""
        if self.soft_cap is not None:
            gradient = gradient * (1 - (logits / self.soft_cap).square())
        return gradient * self.scale if self.scale != 1 else gradient


def fused_token_terms(
    student_hidden: Tensor,
    student_head: LinearHead,
    teacher_hidden: Tensor,
    teacher_head: LinearHead,
    divergence: TokenDivergence,
    *,
    index: Tensor | None = None,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    inf_policy: InfPolicy = "error",
) -> TokenTerms:
    """`kernel.token_terms` of `head(hidden)`, of both models, whose widths may differ.

    Args:
        student_hidden: (N, H) last hidden states; gradients flow to these and to the student's weight and bias.
        student_head: its output layer over V tokens.
        teacher_hidden: (N, H').
        teacher_head: over the same V tokens.
        divergence: of `families`.
        index: (R,) numbers of the rows to look at; all of them if None.
        labels: (R,) classes of those rows; None for no hard labels.
        temperature: both logits are divided by it for the divergence, and only for it.
        inf_policy: what −∞ for one model only means.

    Returns:
        The terms, float32, or float64 where a hidden state is.

    Raises:
        ValueError: as in `token_terms`, or if hidden states and output layers differ in width.

    >>> from equipoise.core.token_divergence.families import FORWARD_KL
    >>> head, wide = LinearHead(torch.eye(3)), LinearHead(torch.ones(3, 5))
    >>> fused_token_terms(torch.eye(3), head, torch.ones(3, 5), wide, FORWARD_KL).divergence
    tensor([0.1195, 0.1195, 0.1195])
    """
    student_head.check_width(student_hidden, "student")
    teacher_head.check_width(teacher_hidden, "teacher")
    if index is None:
        index = torch.arange(len(student_hidden), device=student_hidden.device)
    settings = (student_head, teacher_head, divergence, temperature, inf_policy)
    values = _apply(
        student_hidden, student_head.weight, student_head.bias, teacher_hidden.detach(), index, labels, settings
    )
    return TokenTerms(*values)


@torch.no_grad()
def fused_certainty(
    hidden: Tensor,
    head: LinearHead,
    *,
    name: str = "teacher_logits",
    index: Tensor | None = None,
    labels: Tensor | None = None,
    power: float = 0.1,
) -> Certainty:
    """`certainty.certainty` of `head(hidden)`, a few rows of logits at a time.

    Args:
        hidden: (N, H) last hidden states.
        head: the output layer.
        name: of the logits in errors.
        index: (R,) numbers of the rows to look at; all of them if None.
        labels: (R,) tokens whose probability is asked for.
        power: γ of the power sum.

    Returns:
        Each (R,), float32, or float64 for such hidden states.

    Raises:
        ValueError: if a row of logits holds NaN or +∞, or nothing but −∞.

    >>> fused_certainty(torch.zeros(1, 2), LinearHead(torch.ones(4, 2))).entropy
    tensor([1.3863])
    """
    head.check_width(hidden, name.removesuffix("_logits"))
    if index is None:
        index = torch.arange(len(hidden), device=hidden.device)
    rows = max(1, _budget(hidden.device) // (4 * len(head.weight)))
    found = []
    for place, at in [*parts(index, rows)] or [(slice(0, 0), index)]:
        logits = _rows_of_logits(head, hidden[at], accumulation_dtype(hidden))
        found.append(certainty(logits, name=name, labels=None if labels is None else labels[place], power=power))
    return Certainty(*(torch.cat(each) for each in zip(*found, strict=True)))


def _tiles(vocabulary: int, width: int) -> Iterator[slice]:
    for start in range(0, vocabulary, width):
        yield slice(start, start + width)


def _budget(device: torch.device) -> int:
    return _CPU_BYTES if device.type == "cpu" else _DEVICE_BYTES


def _rows_of_logits(head: LinearHead, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    vocabulary, width = head.weight.shape
    out = torch.empty(len(hidden), vocabulary, dtype=dtype, device=hidden.device)
    for tile in _tiles(vocabulary, max(1, _WEIGHT_BYTES // (4 * width))):
        out[:, tile] = head.logits(hidden, tile, dtype)
    return out


class _FusedTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher_hidden: Tensor,
        index: Tensor,
        labels: Tensor | None,
        settings: tuple[LinearHead, LinearHead, TokenDivergence, float, InfPolicy],
    ) -> tuple[Tensor, Tensor, Tensor]:
        head, teacher_head, divergence, temperature, policy = settings
        dtype, count, device = accumulation_dtype(hidden, teacher_hidden), len(index), hidden.device
        value, norm, plain, teacher_norm, total = (torch.empty(count, dtype=dtype, device=device) for _ in range(5))
        label_logit = torch.zeros(count, dtype=dtype, device=device)
        states: list[tuple[Tensor, ...]] = []
        safe = infinite = False
        rows = max(1, _budget(device) // (4 * len(weight)))
        for place, at in parts(index, rows):
            z_s = _rows_of_logits(head, hidden[at], dtype)
            if labels is not None:
                label_logit[place] = z_s.gather(1, labels[place, None])[:, 0]
            plain[place], some = log_normalizer(z_s, "student_logits", at)
            norm[place] = plain[place]
            if temperature != 1:
                norm[place], _ = log_normalizer(z_s.div_(temperature), "student_logits", at)
            z_t = _rows_of_logits(teacher_head, teacher_hidden[at], dtype)
            teacher_norm[place], more = log_normalizer(z_t.div_(temperature), "teacher_logits", at)
            chunk = chunk_of(z_s, z_t, norm[place], teacher_norm[place], some or more, policy)
            del z_s, z_t
            found, needed = divergence_rows(divergence, chunk)
            value[place], total[place] = found.value, found.total
            states.append(found.state)
            safe, infinite = safe or needed, infinite or some or more
        state = tuple(torch.cat(each) for each in zip(*states, strict=True))
        ctx.save_for_backward(hidden, weight, bias, teacher_hidden, index, labels, norm, plain, teacher_norm, total)
        ctx.settings = (settings, state, safe, infinite)
        return value, plain.clone(), label_logit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_value: Tensor, of_norm: Tensor, of_label: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(of_value.device.type, enabled=False):
            return _gradients(ctx, of_value, of_norm, of_label)


def _gradients(ctx: Any, of_value: Tensor, of_norm: Tensor, of_label: Tensor) -> tuple[Tensor | None, ...]:
    hidden, weight, bias, teacher_hidden, index, labels, norm, plain, teacher_norm, total = ctx.saved_tensors
    (head, teacher_head, divergence, temperature, policy), state, safe, infinite = ctx.settings
    dtype = norm.dtype
    if not len(index):
        return (
            *(None if each is None else torch.zeros_like(each) for each in (hidden, weight, bias)),
            None,
            None,
            None,
            None,
        )
    h_s, h_t = hidden[index], teacher_hidden[index]
    single = h_s.to(dtype)
    of_hidden = torch.zeros(len(index), hidden.shape[1], dtype=dtype, device=hidden.device)
    of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
    of_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
    width = max(64, _budget(hidden.device) // (4 * max(1, len(index))))
    width = min(width, max(64, _WEIGHT_BYTES // (4 * max(weight.shape[1], teacher_head.weight.shape[1]))))
    for tile in _tiles(len(weight), width):
        z = head.logits(h_s, tile, dtype)
        scaled, z_t = z / temperature, teacher_head.logits(h_t, tile, dtype).div_(temperature)
        chunk = chunk_of(scaled, z_t, norm, teacher_norm, infinite, policy)
        del scaled, z_t
        found = logit_gradient(divergence, chunk, total, state, safe).mul_((of_value / temperature)[:, None])
        del chunk
        found.addcmul_(torch.exp(z - plain[:, None]), of_norm[:, None])
        if labels is not None:
            here = (labels >= tile.start) & (labels < tile.stop)
            found[here, labels[here] - tile.start] += of_label[here]
        found = head.through(found, z)
        of_hidden.addmm_(found, weight[tile].to(dtype))
        if of_weight is not None:
            of_weight[tile] = (found.T @ single).to(weight.dtype)
        if of_bias is not None:
            of_bias[tile] = found.sum(0).to(of_bias.dtype)
    gradient = torch.zeros_like(hidden)
    gradient[index] = of_hidden.to(hidden.dtype)
    return gradient, of_weight, of_bias, None, None, None, None


@torch.compiler.disable
def _apply(hidden: Tensor, *arguments: Any) -> Any:
    with torch.autocast(hidden.device.type, enabled=False):  # it would round the products
        return _FusedTerms.apply(hidden, *arguments)
