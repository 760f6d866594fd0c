"""How certain a model is of its next token, row by row, in a few rows of extra memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.core.token_divergence.chunks import accumulation_dtype, log_normalizer, parts, rows_of
from equipoise.core.token_divergence.families import entropy


class Certainty(NamedTuple):
    """What is known of each row's distribution p.

    Attributes:
        largest: (rows,) max p.
        token: (rows,) the token that has it, the first of equal ones.
        entropy: (rows,) −Σ p log p, in nats.
        power_sum: (rows,) Σ p^γ.
        support: (rows,) number of tokens with p > 0.
        label_probability: (rows,) p of the label; NaN without labels.
    """

    largest: Tensor
    token: Tensor
    entropy: Tensor
    power_sum: Tensor
    support: Tensor
    label_probability: Tensor


@torch.no_grad()
def certainty(
    logits: Tensor,
    *,
    name: str = "teacher_logits",
    index: Tensor | None = None,
    labels: Tensor | None = None,
    power: float = 0.1,
    chunk_rows: int | None = None,
) -> Certainty:
    """Certainty of rows of logits, without gradient.

    Args:
        logits: (N, V), any floating dtype.
        name: of the logits in errors.
        index: (R,) numbers of the rows to look at; all of them if None.
        labels: (R,) tokens whose probability is asked for.
        power: γ of the power sum.
        chunk_rows: rows at a time; what is quick and small if None.

    Returns:
        Each (R,), float32, or float64 for such logits.

    Raises:
        ValueError: if a row holds NaN or +∞, or nothing but −∞.

    >>> certainty(torch.zeros(1, 4)).entropy
    tensor([1.3863])
    """
    if index is None:
        index = torch.arange(len(logits), device=logits.device)
    dtype = accumulation_dtype(logits)
    found = []
    for place, at in parts(index, rows_of(logits.shape[1], logits.device, chunk_rows)):
        z = logits[at].to(dtype)
        log_p = z - log_normalizer(z, name, at)[0][:, None]
        p, token = log_p.max(dim=1)
        label = torch.full_like(p, torch.nan)
        if labels is not None:
            label = log_p.gather(1, labels[place, None])[:, 0].exp()
        support = (log_p > -torch.inf).sum(1)
        found.append((p.exp(), token, entropy(log_p), torch.exp(power * log_p).sum(1), support, label))
    if not found:
        none = torch.empty(0, dtype=dtype, device=logits.device)
        return Certainty(none, none.long(), none, none, none.long(), none)
    return Certainty(*(torch.cat(each) for each in zip(*found, strict=True)))
