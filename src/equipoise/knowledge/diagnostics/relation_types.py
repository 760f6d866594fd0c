"""Whether a relation leads to one answer or to many, in each direction."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive
from equipoise.data.triples.known import check_triples

RelationType: TypeAlias = Literal["1-1", "1-N", "N-1", "N-N"]
RELATION_TYPES: tuple[RelationType, ...] = ("1-1", "1-N", "N-1", "N-N")


@checked
def relation_types(
    triples: Integer[Tensor, "n 3"], num_relations: Count, *, many: Positive = 1.5
) -> tuple[RelationType | None, ...]:
    """The kind of each relation, by its mean number of tails per head and of heads per tail.

    Bordes et al., "Translating Embeddings for Modeling Multi-relational Data", NIPS 2013, section 4: a side counts as N
    from a mean of 1.5 on.

    Args:
        triples: (n, 3), usually those of training; repeated ones count once.
        num_relations: M.
        many: from which mean on a side counts as N.

    Returns:
        M of "1-1", "1-N" (many tails per head), "N-1" and "N-N"; None for a relation without a triple.

    Raises:
        ValueError: on a bad argument, by name.
        IndexError: if a relation is out of range.

    >>> import torch
    >>> relation_types(torch.tensor([[0, 0, 1], [0, 0, 2], [3, 1, 1]]), 3)
    ('1-N', '1-1', None)
    """
    rows = triples.detach().cpu().long()
    check_triples("triples", rows, max(int(rows[:, ::2].max()) + 1, 1), num_relations)
    heads, relations, tails = np.unique(rows.numpy(), axis=0).T
    counts = np.bincount(relations, minlength=num_relations)
    sides = [
        np.bincount(np.unique(np.stack([relations, side], 1), axis=0)[:, 0], minlength=num_relations)
        for side in (heads, tails)
    ]
    per_head, per_tail = (counts / np.maximum(distinct, 1) >= many for distinct in sides)
    return tuple(
        RELATION_TYPES[int(tails_many) + 2 * int(heads_many)] if count else None
        for tails_many, heads_many, count in zip(per_head, per_tail, counts, strict=True)
    )
