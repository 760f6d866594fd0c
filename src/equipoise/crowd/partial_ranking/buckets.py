"""Rankings in which items may be tied."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def tied_buckets(scores: Float[Tensor, " items"], threshold: float, known: Bool[Tensor, " items"]) -> list[list[int]]:
    """Items in buckets, the best first; items of a bucket are all tied with each other.

    A tie does not carry over: a with b and b with c do not tie a with c. A bucket is opened by its best item and takes
    those within the threshold of it, so that the last of one and the first of the next may be tied as well.

    Args:
        scores: (items,) of all.
        threshold: how near two tied items may be.
        known: (items,) which ones to rank.

    >>> import torch
    >>> tied_buckets(torch.tensor([0.0, 0.9, 2.0, 1.5]), 1.0, torch.tensor([True, True, True, True]))
    [[2, 3], [1, 0]]
    """
    buckets: list[list[int]] = []
    best = 0.0
    for place in scores.argsort(descending=True, stable=True).tolist():
        if not known[place]:
            continue
        score = float(scores[place])
        if not buckets or best - score > threshold:
            buckets.append([])
            best = score
        buckets[-1].append(place)
    return buckets
