"""All pairs of queries and gallery items, counted a block at a time: what every metric of association is made of.

Of each positive pair (a query and an item of its identity) it is enough to know how many of the query's negatives
score higher and how many the same. Scores are cosines, computed in float64 and rounded to multiples of 2⁻²⁴, so that
equal items tie wherever they stand; an embedding of norm 0 scores 0 with everything.

With groups (of gender, of nationality) the negatives of a query are those of its own group, and a query's list holds
no others. A group belongs to an identity, so that positives are always among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.contrastive import inverse_norms
from equipoise.core.curves.list_ranks import counts_among, list_counts

# Scores that are held at once.
_TABLE = 1 << 22
_GRID = float(1 << 24)


@dataclass(frozen=True)
class Sides:
    """Queries and gallery of one task, on the CPU.

    Attributes:
        query: (q, d) unit embeddings, float64.
        gallery: (g, d).
        query_identity: (q,) codes from 0.
        gallery_identity: (g,) codes from 0.
        query_group: (q,) codes from 0; all 0 where there are no groups.
        gallery_group: (g,).
        group_names: the number that each code of a group stands for.
    """

    query: Float[Tensor, "q d"]
    gallery: Float[Tensor, "g d"]
    query_identity: Int[Tensor, " q"]
    gallery_identity: Int[Tensor, " g"]
    query_group: Int[Tensor, " q"]
    gallery_group: Int[Tensor, " g"]
    group_names: tuple[int, ...]

    @property
    def num_identities(self) -> int:
        """How many codes of identities there are."""
        return 1 + int(torch.maximum(self.query_identity.max(), self.gallery_identity.max()))

    def blocks(self) -> Iterator[Block]:
        """Queries of a group, so many at a time, with the gallery of their group."""
        by_identity = self.gallery_identity.argsort(stable=True)
        for group in range(len(self.group_names)):
            rows = (self.query_group == group).nonzero().squeeze(1)
            columns = by_identity[self.gallery_group[by_identity] == group]
            if not len(rows) or not len(columns):
                continue
            items = self.gallery[columns].T.contiguous()
            for part in rows.split(max(1, _TABLE // len(columns))):
                same = self.query_identity[part, None] == self.gallery_identity[columns]
                yield Block(part, columns, on_grid(self.query[part] @ items), same)


def on_grid(cosines: Tensor) -> Tensor:
    """Cosines as float32 multiples of 2⁻²⁴; a plain cast would leave what is 0 but for rounding apart from 0.

    >>> on_grid(torch.tensor([1e-17, 0.5 + 1e-9], dtype=torch.float64))
    tensor([0.0000, 0.5000])
    """
    return (cosines.double() * _GRID).round_().div_(_GRID).float()


@dataclass(frozen=True)
class Block:
    """Some queries of one group, and the whole gallery of it.

    Attributes:
        rows: (r,) numbers of the queries.
        columns: (c,) numbers of the items.
        scores: (r, c) float32.
        same: (r, c) whether the identity is the same.
    """

    rows: Int[Tensor, " r"]
    columns: Int[Tensor, " c"]
    scores: Float[Tensor, "r c"]
    same: Bool[Tensor, "r c"]


@dataclass(frozen=True)
class PositivePairs:
    """The positive pairs of all queries, p of them.

    Attributes:
        query: (p,) number of the query.
        score: (p,) float32.
        above: (p,) negatives of the query that score higher.
        tied: (p,) negatives that score the same.
        reached: (p,) positives of the query that score as high, itself among them.
        positives: (p,) positives of the query.
        negatives: (p,) negatives of the query.
    """

    query: Int[Tensor, " p"]
    score: Float[Tensor, " p"]
    above: Int[Tensor, " p"]
    tied: Int[Tensor, " p"]
    reached: Int[Tensor, " p"]
    positives: Int[Tensor, " p"]
    negatives: Int[Tensor, " p"]

    def mean_of_queries(self, values: Float[Tensor, " p"], kept: Bool[Tensor, " p"] | None = None) -> Tensor:
        """The mean over queries of the mean over their positives, of pairs that are kept."""
        share = values.double() / self.positives
        if kept is not None:
            share, query = share[kept], self.query[kept]
        else:
            query = self.query
        # A query's pairs are kept or left out together.
        return share.sum() / len(query.unique())


def sides(
    query: Tensor,
    gallery: Tensor,
    query_identity: Tensor,
    gallery_identity: Tensor,
    query_group: Tensor | None = None,
    gallery_group: Tensor | None = None,
) -> Sides:
    """Both sides with codes for identities and groups.

    Raises:
        ValueError: if there are groups on one side only, an identity has two groups, or nothing can be compared.
    """
    if (query_group is None) != (gallery_group is None):
        missing = "query_group" if query_group is None else "gallery_group"
        raise ValueError(f"{missing} is missing; groups are needed on both sides or on neither")
    cpu = [each.detach().cpu() for each in (query_identity, gallery_identity)]
    identity = torch.cat(cpu).unique(return_inverse=True)[1]
    names, group = (0,), torch.zeros_like(identity)
    if query_group is not None and gallery_group is not None:
        held = torch.cat([each.detach().cpu().long() for each in (query_group, gallery_group)])
        known, group = held.unique(return_inverse=True)
        names = tuple(known.tolist())
        least, most = (
            torch.zeros(int(identity.max()) + 1, dtype=torch.long).scatter_reduce(
                0, identity, group, how, include_self=False
            )
            for how in ("amin", "amax")
        )
        if bool((least != most).any()):
            which = torch.cat(cpu)[identity == int((least != most).nonzero()[0])][0]
            raise ValueError(f"identity {int(which)} has two groups; query_group and gallery_group are of identities")
    n = len(query)
    units = [each.detach().cpu().double() for each in (query, gallery)]
    units = [each * inverse_norms(each)[:, None] for each in units]
    return Sides(units[0], units[1], identity[:n], identity[n:], group[:n], group[n:], names)


def positive_pairs(both: Sides) -> PositivePairs:
    """Count the negatives before each positive pair, exactly.

    Raises:
        ValueError: if no query has a positive, or none has a negative.
    """
    found: list[tuple[Tensor, ...]] = []
    some_negative = False
    for block in both.blocks():
        row, wanted = block.same.nonzero(as_tuple=True)
        some_negative = some_negative or len(row) < block.same.numel()
        positives = block.same.sum(1)
        offsets = torch.cat([positives.new_zeros(1), positives.cumsum(0)])
        counts = list_counts(block.scores, offsets, wanted)
        score = block.scores[row, wanted]
        own = counts_among(score, row, score, row)
        above = counts.above - own.above
        tied = counts.reached - counts.above - (own.reached - own.above)
        negatives = block.same.shape[1] - positives
        found.append((block.rows[row], score, above, tied, own.reached, positives[row], negatives[row]))
    if not any(len(each[0]) for each in found):
        raise ValueError("no query has an item of its identity in the gallery; check query_identity, gallery_identity")
    if not some_negative:
        raise ValueError("no query has an item of another identity to be compared with; add identities to the gallery")
    return PositivePairs(*(torch.cat(each) for each in zip(*found, strict=True)))
