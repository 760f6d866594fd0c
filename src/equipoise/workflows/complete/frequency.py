"""The answers that a relation has most often, whoever is asked about: the least to compare a model with."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.data import KGDataset


class FrequentAnswers:
    """How often training has each entity as the tail of a relation, as a score.

    Args:
        graph: whose training part is counted; r + M counts heads.

    Attributes:
        num_relations: M.
    """

    def __init__(self, graph: KGDataset) -> None:
        self.num_relations, self._entities = graph.num_relations, graph.num_entities
        _, relations, tails = graph.with_inverse(graph.train).unbind(1)
        pairs, counts = (relations * self._entities + tails).unique(return_counts=True)
        self._tails, self._counts = pairs % self._entities, counts.double()
        bounds = torch.arange(2 * self.num_relations + 1) * self._entities
        self._bounds = torch.searchsorted(pairs, bounds).tolist()

    def score_t(self, heads: Tensor, relations: Tensor) -> Tensor:
        """(n, entities) counts."""
        asked, place = relations.unique(return_inverse=True)
        found = torch.zeros(len(asked), self._entities, dtype=torch.float64)
        for row, relation in zip(found, asked.tolist(), strict=True):
            held = slice(self._bounds[relation], self._bounds[relation + 1])
            row[self._tails[held]] = self._counts[held]
        return found[place]
