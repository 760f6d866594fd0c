"""The graph of compared items: each direction of each pair once, with the number of people who gave it.

An edge belongs to an attribute, so that two questions about the same two items never meet. Both directions of a pair
may be there: that is where annotators disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.crowd.columns import as_comparisons
from equipoise.crowd.robust_pairs.outliers import as_signs
from equipoise.data.comparisons.answers import Comparisons
from equipoise.data.comparisons.pair_counts import PairCounts

Ties: TypeAlias = Literal["refuse", "drop", "half"]


class MajorityVote(NamedTuple):
    """What `majority_vote` returns, a row per attribute and pair that was compared, in their order.

    Attributes:
        pair_i: (pairs,) the smaller index.
        pair_j: (pairs,) the larger index.
        label: (pairs,) 1 where pair_i has more votes, −1 where pair_j has, 0 for a drawn vote.
        attribute: (pairs,).
        minority_votes: votes against the larger side of their pair; of a drawn pair, half.
        total_votes: all votes.
    """

    pair_i: Tensor
    pair_j: Tensor
    label: Tensor
    attribute: Tensor
    minority_votes: float
    total_votes: float


@dataclass(frozen=True, eq=False)
class ComparisonGraph:
    """Directed edges between items: who was preferred, how often, and by which attribute.

    Build it with `of` or `from_edges`.

    Attributes:
        item_i: (edges,) int64, the smaller index of each pair.
        item_j: (edges,) int64.
        y: (edges,) int64: 1 where item_i was preferred, −1 where item_j was.
        strength: (edges,) float64, how often.
        attribute: (edges,) int64.
        num_items: items there are, compared or not.
        num_attributes: attributes there are.
        edge_of: (answers,) the edge of every answer that it was built from; −1 for a tie.
        item_names: names, or None.

    >>> graph = ComparisonGraph.from_edges(torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1]), torch.tensor([1, -1, -1]))
    >>> graph.item_i.tolist(), graph.y.tolist(), graph.strength.tolist(), graph.edge_of.tolist()
    ([0, 0], [1, -1], [2.0, 1.0], [0, 0, 1])
    """

    item_i: Int[Tensor, " edges"]
    item_j: Int[Tensor, " edges"]
    y: Int[Tensor, " edges"]
    strength: Float[Tensor, " edges"]
    attribute: Int[Tensor, " edges"]
    num_items: int
    num_attributes: int
    edge_of: Int[Tensor, " answers"]
    item_names: tuple[str, ...] | None = None

    @classmethod
    @checked
    def of(
        cls, comparisons: Comparisons, attribute: Integer[Tensor, " answers"] | None = None, *, ties: Ties = "refuse"
    ) -> ComparisonGraph:
        """The graph of comparisons.

        Args:
            comparisons: who preferred what; weights are added up.
            attribute: (n,) the attribute that each was asked about; one for all by default.
            ties: what becomes of them: "refuse", "drop", or "half" of the weight to each direction.

        Raises:
            ValueError: if there are ties and nothing is said of them, no edge is left, or attributes are not one for
                each comparison, or negative.
        """
        asked = torch.zeros_like(comparisons.label) if attribute is None else attribute.long()
        if asked.shape != comparisons.label.shape:
            raise ValueError(f"attribute has {len(asked)} rows, there are {len(comparisons)} comparisons")
        if int(asked.min()) < 0:
            raise ValueError(f"attribute holds {int(asked.min())}; attributes count from 0")
        if ties == "refuse" and comparisons.ties:
            raise ValueError(
                f"comparisons hold {comparisons.ties} ties, which this model has not; say ties='drop' or ties='half'"
            )
        parts, edge_of, size = [], torch.full_like(asked, -1), 0
        for number in asked.unique().tolist():
            rows = (asked == number).nonzero().squeeze(1)
            edges, place = _edges(comparisons.take(rows), number, ties)
            edge_of[rows] = torch.where(place < 0, place, place + size)
            size += len(edges[0])
            parts.append(edges)
        if not size:
            raise ValueError("comparisons are all ties, and ties='drop' leaves no edge")
        item_i, item_j, y, strength, group = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(
            item_i,
            item_j,
            y.long(),
            strength,
            group.long(),
            comparisons.num_items,
            int(asked.max()) + 1,
            edge_of,
            comparisons.item_names,
        )

    @classmethod
    @checked
    def from_edges(
        cls,
        item_i: Integer[Tensor, " n"],
        item_j: Integer[Tensor, " n"],
        y: Integer[Tensor, " n"] | Bool[Tensor, " n"],
        strength: Float[Tensor, " n"] | Integer[Tensor, " n"] | None = None,
        attribute: Integer[Tensor, " n"] | None = None,
        *,
        num_items: Count | None = None,
        binary: bool = False,
    ) -> ComparisonGraph:
        """The graph of edges, of which equal ones are added up.

        Args:
            item_i: (n,) left items.
            item_j: (n,) right items.
            y: (n,) 1 where left was preferred, −1 where right was.
            strength: (n,) how often, above 0; 1 by default.
            attribute: (n,) 0 by default.
            num_items: one more than the largest index by default.
            binary: whether y holds 0 for right instead of −1.

        Raises:
            ValueError: on a bad argument, by name: no edges, an item beside itself, an index out of range, a label
                that is none, a strength that is not finite and positive.
        """
        return cls.of(as_edges(item_i, item_j, y, strength, num_items, binary), attribute)

    def __len__(self) -> int:
        return len(self.y)

    def counts(self, attribute: int = 0) -> PairCounts:
        """The edges of an attribute by pair."""
        inside = self.attribute == attribute
        if not bool(inside.any()):
            raise ValueError(f"attribute={attribute} has no edges")
        return PairCounts.of(
            Comparisons.from_columns(
                None,
                self.item_i[inside],
                self.item_j[inside],
                self.y[inside],
                self.strength[inside],
                num_items=self.num_items,
            )
        )

    def components(self, attribute: int = 0) -> Int[Tensor, " items"]:
        """Which items an attribute's edges link, as `Comparisons.components`; scores compare within a component."""
        return self.counts(attribute).components()

    def both_directions(self) -> Bool[Tensor, " edges"]:
        """Whether the opposite direction of the same pair is an edge as well: there annotators disagree."""
        key = (self.attribute * self.num_items + self.item_i) * self.num_items + self.item_j
        _, place, count = torch.unique(key, return_inverse=True, return_counts=True)
        return (count > 1)[place]

    def majority(self) -> MajorityVote:
        """`majority_vote` of the edges."""
        return majority_vote(self.item_i, self.item_j, self.y, self.strength, self.attribute)


@checked
def majority_vote(
    item_i: Integer[Tensor, " n"],
    item_j: Integer[Tensor, " n"],
    y: Integer[Tensor, " n"] | Bool[Tensor, " n"],
    strength: Float[Tensor, " n"] | Integer[Tensor, " n"] | None = None,
    attribute: Integer[Tensor, " n"] | None = None,
    *,
    binary: bool = False,
) -> MajorityVote:
    """The direction of each pair that more people gave: what is trained on where outliers are looked for pair by pair.

    Args:
        item_i: (n,) left items.
        item_j: (n,) right items.
        y: (n,) 1 where left was preferred, −1 where right was.
        strength: (n,) how often, above 0; 1 by default.
        attribute: (n,) votes on different attributes are counted apart; 0 by default.
        binary: whether y holds 0 for right instead of −1.

    Raises:
        ValueError: on a bad argument, by name.

    >>> vote = majority_vote(torch.tensor([2, 0, 0]), torch.tensor([0, 2, 1]), torch.tensor([1, 1, 1]))
    >>> vote.pair_i.tolist(), vote.pair_j.tolist(), vote.label.tolist(), vote.minority_votes
    ([0, 0], [1, 2], [1, 0], 1.0)
    """
    graph = ComparisonGraph.from_edges(item_i, item_j, y, strength, attribute, binary=binary)
    columns, minority, total = [], 0.0, 0.0
    for number in graph.attribute.unique().tolist():
        counts = graph.counts(number)
        label = (counts.first_wins - counts.second_wins).sign().long()
        columns.append((counts.first, counts.second, label, torch.full_like(label, number)))
        minority += float(torch.minimum(counts.first_wins, counts.second_wins).sum())
        total += float(counts.total.sum())
    pair_i, pair_j, label, group = (torch.cat(column) for column in zip(*columns, strict=True))
    return MajorityVote(pair_i, pair_j, label, group, minority, total)


def as_edges(
    item_i: Tensor, item_j: Tensor, y: Tensor, strength: Tensor | None, num_items: int | None, binary: bool
) -> Comparisons:
    """Edges, none merged, as comparisons; what they refuse is told by the names that edges have."""
    labels = as_signs(y, binary, torch.zeros(0, dtype=torch.float64)).long()
    if strength is not None and not bool((strength > 0).all()):
        raise ValueError(f"strength must be greater than 0, got {strength[~(strength > 0)][0].item():g}")
    return as_comparisons(item_i, item_j, labels, strength, num_items)


def _edges(said: Comparisons, attribute: int, ties: Ties) -> tuple[tuple[Tensor, ...], Tensor]:
    """The edges of one attribute, and the place among them of every comparison."""
    counts = PairCounts.of(said)
    half = counts.ties / 2 if ties == "half" else torch.zeros_like(counts.ties)
    strength = torch.stack([counts.first_wins + half, counts.second_wins + half], 1).reshape(-1)
    kept = strength > 0
    place = torch.where(kept, kept.cumsum(0) - 1, -1)
    item_i, item_j = (column.repeat_interleave(2)[kept] for column in (counts.first, counts.second))
    y = torch.tensor([1, -1]).repeat(len(counts))[kept]
    low, high = torch.minimum(said.left, said.right), torch.maximum(said.left, said.right)
    pair = torch.searchsorted(counts.first * said.num_items + counts.second, low * said.num_items + high)
    turned = torch.where(said.left < said.right, said.label, -said.label)
    edge_of = torch.where(said.label == 0, -1, place[2 * pair + (turned < 0).long()])
    return (item_i, item_j, y, strength[kept], torch.full_like(y, attribute)), edge_of
