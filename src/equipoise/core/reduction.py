"""Reductions that every loss shares, and the zero of a batch on which a loss is undefined."""

from __future__ import annotations

from typing import Literal, TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

Reduction: TypeAlias = Literal["none", "mean", "sum"]


def attached_zero(*tensors: Tensor) -> Tensor:
    """A scalar zero that is attached to the graph of all tensors, whatever they hold.

    The sum of no elements: unlike `x.sum() * 0` it neither overflows in half precision nor turns infinity into NaN.

    >>> import torch
    >>> scores = torch.tensor([torch.inf], requires_grad=True)
    >>> attached_zero(scores).backward()
    >>> scores.grad
    tensor([0.])
    """
    zero, *more = (tensor.reshape(-1)[:0].sum() for tensor in tensors)
    for other in more:
        zero = zero + other
    return zero


def reduce_losses(
    losses: Float[Tensor, "*shape"],
    reduction: Reduction = "mean",
    *,
    weight: Float[Tensor, "*shape"] | None = None,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Tensor:
    """Reduce losses of samples: "none" leaves them, "mean" is over what the mask keeps, "sum" adds.

    Args:
        losses: any shape.
        reduction: "none", "mean" or "sum".
        weight: of each; the mean divides by the number of losses kept, not by the sum of weights.
        mask: which count; the others are 0 under "none".

    Returns:
        The losses, or a scalar; zero, attached to the graph, where nothing is kept.

    >>> import torch
    >>> reduce_losses(torch.tensor([1.0, 3.0]), mask=torch.tensor([True, False]))
    tensor(1.)
    """
    if weight is not None:
        losses = losses * weight
    if mask is not None:
        losses = losses.masked_fill(~mask, 0.0)
    if reduction == "none":
        return losses
    kept = losses.numel() if mask is None else int(mask.sum())
    if kept == 0:
        return attached_zero(losses)
    return losses.sum() / kept if reduction == "mean" else losses.sum()
