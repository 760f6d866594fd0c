"""Divergence of two models' next-token distributions, row by row, and its gradient, in a few rows of extra memory.

The forward pass walks over a few rows at a time in float32 (float64 for such logits) and keeps three numbers a row; the
backward pass walks over them again and writes the gradient in closed form, straight in the dtype of the logits. No copy
of the logits ever exists but their gradient. The row's log-normaliser and the logit of its label come out of the same
walk, with gradients, so that hard labels cost no second one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from equipoise.core.token_divergence.chunks import (
    Chunk,
    InfPolicy,
    accumulation_dtype,
    chunk_of,
    log_normalizer,
    parts,
    rows_of,
)
from equipoise.core.token_divergence.families import Rows, TokenDivergence


class TokenTerms(NamedTuple):
    """What a loss is made of, for each row asked for.

    Attributes:
        divergence: (rows,) D(teacher‖student).
        log_normalizer: (rows,) log Σ exp of the student's logits as they are, without temperature.
        label_logit: (rows,) the student's logit of the label; 0 where no labels are given.
    """

    divergence: Tensor
    log_normalizer: Tensor
    label_logit: Tensor

    @property
    def hard(self) -> Tensor:
        """(rows,) cross-entropy of the labels."""
        return self.log_normalizer - self.label_logit


def token_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    divergence: TokenDivergence,
    *,
    index: Tensor | None = None,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    inf_policy: InfPolicy = "error",
    chunk_rows: int | None = None,
) -> TokenTerms:
    """Divergence and hard-label terms of rows of logits.

    Args:
        student_logits: (N, V), any floating dtype; gradients flow to these only.
        teacher_logits: (N, V).
        divergence: of `families`.
        index: (R,) numbers of the rows to look at; all of them if None. The others get no gradient.
        labels: (R,) classes of those rows; None for no hard labels.
        temperature: both logits are divided by it for the divergence, and only for it.
        inf_policy: what −∞ for one model only means, see `InfPolicy`.
        chunk_rows: rows at a time; what is quick and small if None.

    Returns:
        The terms, float32, or float64 where one of the logits is.

    Raises:
        ValueError: if a row holds NaN or +∞, or −∞ for one model only under "error".

    >>> from equipoise.core.token_divergence.families import FORWARD_KL
    >>> student = torch.tensor([[0.0, 1.0], [2.0, 0.0]], requires_grad=True)
    >>> terms = token_terms(student, student.detach().flip(1), FORWARD_KL, labels=torch.tensor([1, 1]))
    >>> terms.divergence.detach(), terms.hard.detach()
    (tensor([0.4621, 1.5232]), tensor([0.3133, 2.1269]))
    """
    if index is None:
        index = torch.arange(len(student_logits), device=student_logits.device)
    values = _apply(
        student_logits, teacher_logits.detach(), index, labels, divergence, temperature, inf_policy, chunk_rows
    )
    return TokenTerms(*values)


def divergence_rows(divergence: TokenDivergence, chunk: Chunk) -> tuple[Rows, bool]:
    """Value and Σ g of a chunk, and whether the form was needed that cannot overflow."""
    found = divergence.rows(chunk.log_p, chunk.log_q, chunk.delta)
    if bool(torch.isfinite(found.value + found.total).all()):
        return found, False
    return divergence.rows(chunk.log_p, chunk.log_q, chunk.delta, safe=True), True


def logit_gradient(
    divergence: TokenDivergence, chunk: Chunk, total: Tensor, state: tuple[Tensor, ...], safe: bool
) -> Tensor:
    """(rows, columns) g_j − q_j Σ g."""
    gradient = divergence.entries(chunk.log_p, chunk.log_q, chunk.delta, state, safe=safe)
    # Values can be finite where a product of a tiny probability and an overflow is not.
    if not safe and not bool(torch.isfinite(gradient.sum())):
        gradient = divergence.entries(chunk.log_p, chunk.log_q, chunk.delta, state, safe=True)
    gradient = gradient.addcmul_(torch.exp(chunk.log_q), total[:, None], value=-1)
    return gradient if chunk.left_out is None else gradient.masked_fill_(chunk.left_out, 0.0)


class _TokenTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        labels: Tensor | None,
        divergence: TokenDivergence,
        temperature: float,
        policy: InfPolicy,
        chunk_rows: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, count = accumulation_dtype(student, teacher), len(index)
        rows = rows_of(student.shape[1], student.device, chunk_rows)
        value, norm, plain, teacher_norm, total = (
            torch.empty(count, dtype=dtype, device=student.device) for _ in range(5)
        )
        label_logit = torch.zeros(count, dtype=dtype, device=student.device)
        states: list[tuple[tuple[Tensor, ...], bool, bool]] = []
        for place, at in parts(index, rows):
            z_s, z_t = student[at].to(dtype), teacher[at].to(dtype)
            if labels is not None:
                label_logit[place] = z_s.gather(1, labels[place, None])[:, 0]
            plain[place], some = log_normalizer(z_s, "student_logits", at)
            if temperature != 1:
                z_s, z_t = z_s / temperature, z_t / temperature
                norm[place], _ = log_normalizer(z_s, "student_logits", at)
            else:
                norm[place] = plain[place]
            teacher_norm[place], more = log_normalizer(z_t, "teacher_logits", at)
            chunk = chunk_of(z_s, z_t, norm[place], teacher_norm[place], some or more, policy)
            found, safe = divergence_rows(divergence, chunk)
            value[place], total[place] = found.value, found.total
            states.append((found.state, safe, some or more))
        ctx.save_for_backward(student, teacher, index, labels, norm, plain, teacher_norm, total)
        ctx.settings = (divergence, temperature, policy, rows, states)
        return value, plain.clone(), label_logit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_value: Tensor, of_norm: Tensor, of_label: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return (None,) * 8
        student, teacher, index, labels, norm, plain, teacher_norm, total = ctx.saved_tensors
        divergence, temperature, policy, rows, states = ctx.settings
        dtype = norm.dtype
        hard = bool((of_norm != 0).any() or (of_label != 0).any())
        whole = len(index) == len(student)
        gradient = torch.empty_like(student) if whole else torch.zeros_like(student)
        for (place, at), (state, safe, infinite) in zip(parts(index, rows), states, strict=True):
            z_s, z_t = student[at].to(dtype), teacher[at].to(dtype)
            scaled = (z_s, z_t) if temperature == 1 else (z_s / temperature, z_t / temperature)
            chunk = chunk_of(*scaled, norm[place], teacher_norm[place], infinite, policy)
            found = logit_gradient(divergence, chunk, total[place], state, safe)
            found.mul_((of_value[place] / temperature)[:, None])
            if hard:
                found.addcmul_(torch.exp(z_s - plain[place, None]), of_norm[place, None])
                if labels is not None:
                    found.scatter_add_(1, labels[place, None], of_label[place, None])
            gradient[at] = found.to(student.dtype)
        return (gradient, *(None,) * 7)


@torch.compiler.disable
def _apply(*arguments: Any) -> Any:
    return _TokenTerms.apply(*arguments)
