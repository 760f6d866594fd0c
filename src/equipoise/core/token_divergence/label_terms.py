"""The terms of hard labels alone: log-normaliser and logit of the label of each row, and their gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from equipoise.core.token_divergence.chunks import accumulation_dtype, log_normalizer, parts, rows_of


class LabelTerms(NamedTuple):
    """What a loss of hard labels is made of, for each row asked for.

    Attributes:
        log_normalizer: (rows,) log Σ exp of the logits.
        label_logit: (rows,) the logit of the label.
    """

    log_normalizer: Tensor
    label_logit: Tensor


def label_terms(
    logits: Tensor, labels: Tensor, *, name: str = "logits", index: Tensor | None = None, chunk_rows: int | None = None
) -> LabelTerms:
    """Log-normaliser and label logit of rows, a few rows at a time, without a copy of the logits.

    Args:
        logits: (N, V), any floating dtype.
        labels: (R,) classes of the rows asked for.
        name: of the logits in errors.
        index: (R,) numbers of the rows to look at; all of them if None. The others get no gradient.
        chunk_rows: rows at a time; what is quick and small if None.

    Returns:
        The terms, float32, or float64 for such logits.

    Raises:
        ValueError: if a row holds NaN or +∞, or nothing but −∞.

    >>> norm, logit = label_terms(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1, 1]))
    >>> norm - logit
    tensor([0.3133, 2.1269])
    """
    if index is None:
        index = torch.arange(len(logits), device=logits.device)
    return LabelTerms(*_apply(logits, index, labels, name, rows_of(logits.shape[1], logits.device, chunk_rows)))


class _LabelTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, labels: Tensor, name: str, rows: int) -> tuple[Tensor, Tensor]:
        norm = torch.empty(len(index), dtype=accumulation_dtype(logits), device=logits.device)
        label = torch.empty_like(norm)
        for place, at in parts(index, rows):
            z = logits[at].to(norm.dtype)
            norm[place], _ = log_normalizer(z, name, at)
            label[place] = z.gather(1, labels[place, None])[:, 0]
        ctx.save_for_backward(logits, index, labels, norm)
        ctx.rows = rows
        return norm.clone(), label

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_norm: Tensor, of_label: Tensor) -> tuple[Tensor | None, ...]:
        logits, index, labels, norm = ctx.saved_tensors
        gradient = torch.empty_like(logits) if len(index) == len(logits) else torch.zeros_like(logits)
        for place, at in parts(index, ctx.rows):
            found = torch.exp(logits[at].to(norm.dtype) - norm[place, None]).mul_(of_norm[place, None])
            found.scatter_add_(1, labels[place, None], of_label[place, None])
            gradient[at] = found.to(logits.dtype)
        return gradient, None, None, None, None


@torch.compiler.disable
def _apply(*arguments: Any) -> Any:
    return _LabelTerms.apply(*arguments)
