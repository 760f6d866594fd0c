"""Which answers the scores of everybody contradict, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.crowd.robust_pairs.graph import ComparisonGraph
from equipoise.crowd.robust_pairs.outliers import OutlierModel, outlier_gamma

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class OutlierTable:
    """Every edge of a graph with its outlier term.

    Attributes:
        graph: the edges.
        score_diff: (edges,) score of item_i less that of item_j.
        gamma: (edges,) outlier terms.
        is_outlier: (edges,) whether the answer needs the term, as in `outlier_gamma`: one that only tames too sure a
            score is none.

    >>> graph = ComparisonGraph.from_edges(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([1, -1]))
    >>> table = OutlierTable.at(graph, torch.tensor([[2.0], [0.0]]), 0.5, "logistic")
    >>> table.is_outlier.tolist(), table.contradicted.tolist(), table.ratio
    ([False, True], [False, True], 0.5)
    """

    graph: ComparisonGraph
    score_diff: Float[Tensor, " edges"]
    gamma: Float[Tensor, " edges"]
    is_outlier: Bool[Tensor, " edges"]

    @classmethod
    @checked
    def at(
        cls, graph: ComparisonGraph, scores: Float[Tensor, "items attributes"], lambda1: float, model: OutlierModel
    ) -> OutlierTable:
        """The table at scores (items, attributes)."""
        if scores.shape != (graph.num_items, graph.num_attributes):
            raise ValueError(
                f"scores must have shape {(graph.num_items, graph.num_attributes)}, got {tuple(scores.shape)}"
            )
        difference = scores[graph.item_i, graph.attribute] - scores[graph.item_j, graph.attribute]
        found = outlier_gamma(difference, graph.y, lambda1, model)
        return cls(graph, difference, found.gamma, found.is_outlier)

    @property
    def ratio(self) -> float:
        """Share of all answers, by strength, that are outliers."""
        strength = self.graph.strength
        return float((strength * self.is_outlier).sum() / strength.sum())

    @property
    def suspicion(self) -> Float[Tensor, " edges"]:
        """−y·s, by which edges are ranked: high where the scores contradict the answer."""
        return -self.graph.y * self.score_diff

    @property
    def contradicted(self) -> Bool[Tensor, " edges"]:
        """Whether the scores prefer the other item, whatever the price; a low price flags more than these."""
        return self.suspicion > 0

    def answers(self) -> Bool[Tensor, " answers"]:
        """Whether each of the answers that the graph was built from is an outlier; a tie is none."""
        place = self.graph.edge_of
        return self.is_outlier[place.clamp_min(0)] & (place >= 0)

    def per_annotator(self, annotator: Int[Tensor, " answers"]) -> Float[Tensor, " annotators"]:
        """Share of each annotator's answers that are outliers; NaN for one without answers.

        Args:
            annotator: (answers,) index of who gave each, such as `Comparisons.annotator`.
        """
        flagged = self.answers()
        if annotator.shape != flagged.shape:
            raise ValueError(f"annotator has {len(annotator)} rows, the graph was built from {len(flagged)} answers")
        return torch.bincount(annotator, flagged.double()) / torch.bincount(annotator)

    def frame(self) -> pd.DataFrame:
        """A table with a row per edge, the most suspicious first, items by name where they have names."""
        import pandas as pd

        graph, names = self.graph, self.graph.item_names
        items = {
            name: column.tolist() if names is None else [names[k] for k in column.tolist()]
            for name, column in (("item_i", graph.item_i), ("item_j", graph.item_j))
        }
        numbers = {
            "attribute": graph.attribute,
            "y": graph.y,
            "strength": graph.strength,
            "score_diff": self.score_diff,
            "gamma": self.gamma,
            "is_outlier": self.is_outlier,
        }
        columns = {name: column.numpy() for name, column in numbers.items()}
        order = self.suspicion.argsort(descending=True, stable=True)
        return pd.DataFrame({**items, **columns}).iloc[order.numpy()].reset_index(drop=True)
