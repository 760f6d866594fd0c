"""Which samples keep their labels."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Int, Integer
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Count, Whole


@checked
def split_labelled(
    target: Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex(None)], per_class: Count, seed: Whole = 0
) -> tuple[Int[Tensor, " some"], Int[Tensor, " rest"]]:
    """Indices of samples that keep their labels, as many of every class, and of those that do not, both ascending.

    Args:
        target: (n,) class indices.
        per_class: labels of each class that occurs.
        seed: of the draw.

    Raises:
        ValueError: if a class has fewer samples.

    >>> labelled, rest = split_labelled(torch.tensor([0, 0, 1, 1, 1]), 1)
    >>> len(labelled), len(rest)
    (2, 3)
    """
    order = torch.randperm(len(target), generator=Generator().manual_seed(seed)).to(target.device)
    kept = torch.zeros(len(target), dtype=torch.bool, device=target.device)
    for label in target.unique():
        members = order[target[order] == label]
        if len(members) < per_class:
            raise ValueError(f"per_class={per_class} is more than the {len(members)} samples of class {int(label)}")
        kept[members[:per_class]] = True
    return kept.nonzero().squeeze(1), (~kept).nonzero().squeeze(1)
