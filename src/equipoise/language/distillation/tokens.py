"""The tokens of a batch that count, and how their losses are put together."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.reduction import attached_zero
from equipoise.core.types import InParts, MayBeEmpty, Range

TokenLogits: TypeAlias = Annotated[Float[Tensor, "*batch _vocabulary"], InParts(), MayBeEmpty()]
"""Logits over a vocabulary, in any precision; they are worked through a few rows at a time."""
TokenLabels: TypeAlias = Annotated[Integer[Tensor, "*batch"], MayBeEmpty()]
TokenWeights: TypeAlias = Annotated[Float[Tensor, "*batch"], Range(0), MayBeEmpty()]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
Items: TypeAlias = int | Integer[Tensor, ""] | None
"""How many tokens there are in all batches of a step, as transformers' `Trainer` counts them."""


class Tokens(NamedTuple):
    """The tokens of a batch that count.

    Attributes:
        shape: of the batch.
        places: (R,) their places in the flattened batch.
        labels: (R,) their labels; None where none were given.
    """

    shape: torch.Size
    places: Tensor
    labels: Tensor | None


def same_vocabulary(student: Tensor, teacher: Tensor, *, allow_crop: bool) -> tuple[Tensor, Tensor]:
    """Both logits, flattened to (N, V), over one vocabulary.

    Raises:
        ValueError: if the batches differ in shape, or the vocabularies in size and a crop is not allowed.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student_logits {tuple(student.shape)} and teacher_logits {tuple(teacher.shape)} differ in their tokens"
        )
    own, other = student.shape[-1], teacher.shape[-1]
    if own != other and not allow_crop:
        raise ValueError(
            f"the student's vocabulary has {own} entries, the teacher's {other}; if both encode alike and only padding "
            "differs, pass allow_vocab_crop=True to compare the first "
            f"{min(own, other)}, else the models cannot be compared token by token"
        )
    common = min(own, other)
    check_vocabulary(common)
    return student[..., :common].reshape(-1, common), teacher[..., :common].reshape(-1, common)


def check_vocabulary(size: int) -> None:
    """Raise `ValueError` for logits over no tokens at all."""
    if size < 1:
        raise ValueError("the logits are over a vocabulary of 0 entries, wanted at least one in their last dimension")


def valid_tokens(
    batch: torch.Size, labels: Tensor | None, ignore_index: int, vocabulary: int, device: torch.device
) -> Tokens:
    """The tokens whose label is not `ignore_index`; all of them where there are no labels.

    Raises:
        ValueError: if a label that counts is no entry of the vocabulary, or that is empty.
    """
    check_vocabulary(vocabulary)
    if labels is None:
        return Tokens(batch, torch.arange(batch.numel(), device=device), None)
    flat = labels.reshape(-1).long()
    index = (flat != ignore_index).nonzero()[:, 0]
    kept = flat[index]
    if len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < vocabulary:
        bad = int(kept.min()) if int(kept.min()) < 0 else int(kept.max())
        raise ValueError(
            f"labels hold {bad}, wanted classes from 0 to {vocabulary - 1}, or ignore_index={ignore_index} for tokens "
            "that do not count"
        )
    return Tokens(batch, index, kept)


def reduce_tokens(
    losses: Tensor,
    tokens: Tokens,
    reduction: Reduction,
    *,
    weight: Tensor | None = None,
    num_items: Items = None,
    attach: Tensor,
) -> Tensor:
    """Put the losses of tokens together.

    Args:
        losses: (R,) of the tokens that count.
        tokens: of the batch.
        reduction: "mean" over the tokens that count, "sum", or "none" for the batch's shape with 0 elsewhere.
        weight: of every token of the batch; a mean still divides by the number of tokens.
        num_items: divide the sum by this number instead, so that the loss and its gradient do not depend on how the
            tokens of a step are cut into batches.
        attach: logits whose graph the zero of an empty batch hangs on.

    Returns:
        A scalar, or the batch's shape.

    Raises:
        ValueError: if `num_items` is given without "mean", or is not positive.
    """
    if num_items is not None:
        if reduction != "mean":
            raise ValueError(f"num_items_in_batch divides a mean, it has no meaning with reduction={reduction!r}")
        if int(num_items) < 1:
            raise ValueError(f"num_items_in_batch={int(num_items)} must be at least 1")
    if weight is not None:
        losses = losses * weight.reshape(-1)[tokens.places].to(losses.dtype)
    if reduction == "none":
        return losses.new_zeros(tokens.shape.numel()).index_put((tokens.places,), losses).view(tokens.shape)
    if not len(losses):
        return attached_zero(attach).to(losses.dtype)
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / (len(losses) if num_items is None else num_items)
