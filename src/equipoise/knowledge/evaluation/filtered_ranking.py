"""Where the true answer of a query stands among all entities, other true answers left out."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from equipoise.core.curves.list_ranks import list_ranks
from equipoise.core.signature import checked
from equipoise.core.types import MayBeInfinite, Values

_KNOWN = Values(((0, "not known"), (1, "known to be true")))
KnownMask = Annotated[Integer[Tensor, "n entities"] | Bool[Tensor, "n entities"] | Float[Tensor, "n entities"], _KNOWN]


class FilteredRanks(NamedTuple):
    """Ranks from 1 of the true answers.

    Attributes:
        optimistic: 1 + how many candidates score higher.
        pessimistic: 1 + how many others score at least as high.
        realistic: the mean of both, the expected rank if equal scores are put in a random order.
        candidates: how many were ranked, the answer among them.
    """

    optimistic: Int[Tensor, " n"]
    pessimistic: Int[Tensor, " n"]
    realistic: Float[Tensor, " n"]
    candidates: Int[Tensor, " n"]


@checked
def filtered_ranking(
    scores: Annotated[Float[Tensor, "n entities"], MayBeInfinite()],
    target: Integer[Tensor, " n"],
    known_true: KnownMask | None = None,
) -> FilteredRanks:
    """Rank the true answer of each query among all entities that are not known to be true as well.

    A model should not lose for putting another true answer first. Ranks are counts, without a sort, so that equal
    scores stay equal (Sun et al., "A Re-evaluation of Knowledge Graph Completion Methods", ACL 2020, on what becomes of
    a constant model otherwise).

    Args:
        scores: (n, entities), the higher the likelier; infinities allowed.
        target: (n,) the true answer of each query, in 0 to entities − 1.
        known_true: (n, entities) of 0 and 1: which answers are known to be true. The target itself always stays in the
            ranking, whether it is marked or not. None for raw ranks, against all entities.

    Raises:
        ValueError: if shapes do not fit or a score is NaN.
        IndexError: if a target is out of range.

    >>> ranks = filtered_ranking(torch.tensor([[0.9, 0.2, 0.7, 0.2]]), torch.tensor([1]), torch.tensor([[1, 0, 0, 0]]))
    >>> ranks.optimistic, ranks.pessimistic, ranks.realistic, ranks.candidates
    (tensor([2]), tensor([3]), tensor([2.5000], dtype=torch.float64), tensor([3]))
    """
    check_entities("target", target, scores.shape[1])
    wanted = target.long()
    offsets = torch.arange(len(target) + 1, device=scores.device)
    known = torch.zeros_like(scores, dtype=torch.bool) if known_true is None else known_true.bool()
    known_offsets = torch.cat([offsets[:1], known.sum(1).cumsum(0)])
    found = list_ranks(scores, offsets, wanted, known_offsets, known.nonzero()[:, 1])
    optimistic, pessimistic = 1 + found.above, 1 + found.above + found.tied
    others = known.sum(1) - known.gather(1, wanted[:, None]).squeeze(1).long()
    return FilteredRanks(optimistic, pessimistic, (optimistic + pessimistic).double() / 2, scores.shape[1] - others)


def check_entities(name: str, given: Tensor, entities: int) -> None:
    """Raise `IndexError` unless all entities are among those that are scored."""
    wrong = (given < 0) | (given >= entities)
    if bool(wrong.any()):
        raise IndexError(f"{name} holds the entity {int(given[wrong][0])}, wanted 0 to {entities - 1}")
