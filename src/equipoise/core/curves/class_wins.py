"""Counts of pairs of samples of two classes that a column of scores ranks right: what a multiclass AUROC divides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.curves.ranks import block_ends, sort_labelled


def pair_wins(
    columns: Float[Tensor, "columns n"],
    target: Integer[Tensor, " n"],
    weight: Float[Tensor, " n"] | None = None,
    *,
    own: Sequence[int] | None = None,
    classes: int | None = None,
) -> Float[Tensor, "columns classes"]:
    """Entry (k, j): how many pairs of a sample of the column's class and one of class j column k ranks right.

    A tie counts one half, and with weights a pair counts as often as the product of its weights says. One sort a
    column: the samples of its class are counted while walking down.

    Args:
        columns: (columns, n), finite.
        target: (n,) class indices.
        weight: (n,) non-negative.
        own: the class of each column, whose own entry is 0; the column's number if absent.
        classes: how many classes there are; as many as columns if absent.

    Returns:
        float64.

    >>> pair_wins(torch.tensor([[0.9, 0.6, 0.2]]), torch.tensor([1, 0, 0]), own=[1], classes=2)
    tensor([[2., 0.]], dtype=torch.float64)
    """
    own = range(len(columns)) if own is None else own
    classes = len(columns) if classes is None else classes
    places = None if weight is None else torch.arange(len(target), device=target.device)
    columns = columns.detach().contiguous()
    wins = torch.zeros(len(columns), classes, dtype=torch.float64, device=columns.device)
    # Column by column: what is worked on then stays in the cache.
    for k, (column, positive) in enumerate(zip(columns, own, strict=True)):
        held = None
        if weight is None or places is None:
            ordered, labels = sort_labelled(column, target)
            above = (labels == positive).cumsum(0).double()
        else:
            ordered, order = sort_labelled(column, places)
            labels, held = target[order], weight.double()[order]
            above = (held * (labels == positive)).cumsum(0)
        ends = block_ends(ordered)
        if ends.shape[0] < ordered.shape[0]:
            # In a tie block each counts the mean of what stood above before the block and after it.
            after = above.index_select(0, ends)
            before = torch.cat([after.new_zeros(1), after[:-1]])
            block = torch.cat([ends.new_zeros(1), (ordered[1:] != ordered[:-1]).cumsum(0)])
            above = ((before + after) / 2).index_select(0, block)
        wins[k] = torch.bincount(labels, weights=above if held is None else above * held, minlength=classes)
        wins[k, positive] = 0
    return wins
