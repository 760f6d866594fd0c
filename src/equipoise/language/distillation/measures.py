"""What is said of tokens beside the loss: divergence and entropies, summed a few rows at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.core.token_divergence.certainty import certainty
from equipoise.core.token_divergence.chunks import accumulation_dtype, rows_of
from equipoise.core.token_divergence.families import FORWARD_KL
from equipoise.core.token_divergence.fused import LinearHead
from equipoise.core.token_divergence.kernel import token_terms
from equipoise.language.distillation.data import IGNORED


class TokenSums(NamedTuple):
    """Sums over the tokens that are learnt; all but the first are divided by it for means.

    Attributes:
        tokens: how many.
        forward_kl: KL(teacher‖student) on the prefixes of the batch, in nats.
        student_entropy: in nats.
        teacher_entropy: in nats.
        agreement: how often both models find the same token most likely.
    """

    tokens: Tensor
    forward_kl: Tensor
    student_entropy: Tensor
    teacher_entropy: Tensor
    agreement: Tensor


class TokenMeasures(NamedTuple):
    """The same of each token that is learnt, (R,), in the order of the batch."""

    forward_kl: Tensor
    student_entropy: Tensor
    teacher_entropy: Tensor
    agreement: Tensor


@torch.no_grad()
def token_measures(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    student_head: LinearHead | None = None,
    teacher_head: LinearHead | None = None,
) -> TokenMeasures:
    """Divergence and entropies of the tokens that `labels` (B, T) do not leave out.

    Args:
        student: (B, T, V) logits, or (B, T, H) hidden states if there is an output layer.
        teacher: likewise.
        labels: −100 where a token is left out.
        student_head: the student's output layer.
        teacher_head: the teacher's.

    Returns:
        Of each token, float32 or better.
    """
    places = (labels.reshape(-1) != IGNORED).nonzero()[:, 0]
    rows = rows_of((student if student_head is None else student_head.weight.T).shape[-1], student.device, None)
    found = []
    for part in places.split(rows):
        own, other = _logits(student, student_head, part), _logits(teacher, teacher_head, part)
        mine, theirs = certainty(own, name="student_logits"), certainty(other)
        kl = token_terms(own, other, FORWARD_KL, inf_policy="mask").divergence
        found.append(TokenMeasures(kl, mine.entropy, theirs.entropy, (mine.token == theirs.token).to(kl.dtype)))
    return TokenMeasures(*(torch.cat(each) for each in zip(*found, strict=True)))


def token_sums(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    student_head: LinearHead | None = None,
    teacher_head: LinearHead | None = None,
) -> TokenSums:
    """Sums of `token_measures`."""
    found = token_measures(student, teacher, labels, student_head=student_head, teacher_head=teacher_head)
    count = torch.tensor(float(len(found.forward_kl)), device=labels.device)
    return TokenSums(count, *(each.sum() for each in found))


def _logits(values: Tensor, head: LinearHead | None, part: Tensor) -> Tensor:
    rows = values.detach().reshape(-1, values.shape[-1])[part]
    return rows if head is None else head.logits(rows, slice(None), accumulation_dtype(rows))
