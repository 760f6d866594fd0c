"""What rankings of a consensus need of comparisons: how often each of two items was preferred, and how often neither.

Counts are added up, so parts of a log, or the shares of several processes, are counted apart and merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.distributed import Group, gather_rows
from equipoise.data.comparisons.answers import Comparisons, graph_components


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Weighted answers by pair of items, the one with the smaller index first.

    Attributes:
        first: (pairs,) int64, ascending with `second`.
        second: (pairs,) int64, greater than `first`.
        first_wins: (pairs,) float64.
        second_wins: (pairs,) float64.
        ties: (pairs,) float64.
        num_items: items there are.

    >>> said = Comparisons.from_columns(None, [0, 1, 2], [1, 0, 1], [1, 1, 0])
    >>> counts = PairCounts.of(said)
    >>> counts.first.tolist(), counts.first_wins.tolist(), counts.second_wins.tolist(), counts.ties.tolist()
    ([0, 1], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    first_wins: Float[Tensor, " pairs"]
    second_wins: Float[Tensor, " pairs"]
    ties: Float[Tensor, " pairs"]
    num_items: int

    @classmethod
    def of(cls, comparisons: Comparisons) -> PairCounts:
        """Count."""
        left, right = comparisons.left, comparisons.right
        label = torch.where(left < right, comparisons.label, -comparisons.label)
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        sides = torch.stack([comparisons.weight * (label == answer) for answer in (1, -1, 0)])
        return cls._added(low, high, sides, comparisons.num_items)

    def merged(self, *others: PairCounts) -> PairCounts:
        """The counts of all of them.

        Raises:
            ValueError: if they are not of the same items.
        """
        every = (self, *others)
        if len({counts.num_items for counts in every}) > 1:
            raise ValueError(f"the counts are of {sorted({counts.num_items for counts in every})} items")
        sides = [torch.stack([counts.first_wins, counts.second_wins, counts.ties]) for counts in every]
        low, high = (torch.cat([getattr(counts, name) for counts in every]) for name in ("first", "second"))
        return self._added(low, high, torch.cat(sides, 1), self.num_items)

    def gathered(self, group: Group = None) -> PairCounts:
        """The counts of all processes, in each of them; these counts themselves where there is one process."""
        low, high = gather_rows(self.first, group), gather_rows(self.second, group)
        sides = gather_rows(torch.stack([self.first_wins, self.second_wins, self.ties], 1), group)
        return self._added(low, high, sides.T, self.num_items)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def total(self) -> Float[Tensor, " pairs"]:
        """Answers to each pair."""
        return self.first_wins + self.second_wins + self.ties

    def components(self) -> Int[Tensor, " items"]:
        """As `Comparisons.components`."""
        return graph_components(self.first.numpy(), self.second.numpy(), self.num_items)

    def strong_components(self) -> Int[Tensor, " items"]:
        """Items that lead to each other by wins; between two components one side never wins, or nothing was compared.

        A tie counts as half a win of both. The number of its component for each item, the largest one first.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        beats = self.first_wins + self.ties > 0, self.second_wins + self.ties > 0
        rows = torch.cat([self.first[beats[0]], self.second[beats[1]]]).numpy()
        columns = torch.cat([self.second[beats[0]], self.first[beats[1]]]).numpy()
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(self.num_items, self.num_items))
        codes = connected_components(graph.tocsr(), directed=True, connection="strong")[1]
        order = np.argsort(-np.bincount(codes), kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return torch.from_numpy(rank[codes])

    @classmethod
    def _added(cls, low: Tensor, high: Tensor, sides: Tensor, num_items: int) -> PairCounts:
        keys, place = torch.unique(low * num_items + high, return_inverse=True)
        sums = torch.zeros(3, len(keys), dtype=torch.float64).index_add_(1, place, sides.double())
        return cls(keys // num_items, keys % num_items, sums[0], sums[1], sums[2], num_items)
