"""What every relation of a graph looks like, and which geometry that speaks for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Whole
from equipoise.data.triples.graph import PARTS, KGDataset, Part
from equipoise.knowledge.diagnostics.curvature import GraphCurvature, graph_curvature
from equipoise.knowledge.diagnostics.relation_types import RelationType, relation_types

if TYPE_CHECKING:
    import pandas as pd

Geometry: TypeAlias = Literal["hyperbolic", "euclidean", "spherical"]


@dataclass(frozen=True)
class RelationProfile:
    """One relation.

    Attributes:
        relation: its number.
        name: its name, or its number as text.
        triples: how many there are in the parts looked at.
        entities: distinct heads and tails.
        tails_per_head: mean.
        heads_per_tail: mean.
        type: "1-1", "1-N", "N-1" or "N-N"; None for a relation without a triple.
        symmetry: share of the links between two entities that go both ways; NaN without such a link.
        hierarchy: Krackhardt score, see `krackhardt_hierarchy`; NaN without a triple.
        curvature: mean of sampled triangles in the undirected graph of the relation, see `triangle_curvature`; NaN if
            no three entities hang together.
        triangles: how many were sampled.
        components: connected parts of that graph.
        largest: entities of the largest of them.
        geometry: what the curvature points to; None where it is NaN.
        train: triples in training.
        validation: triples in validation.
        test: triples in test.
        weight: Σ N³ over components of N entities.
    """

    relation: int
    name: str
    triples: int
    entities: int
    tails_per_head: float
    heads_per_tail: float
    type: RelationType | None
    symmetry: float
    hierarchy: float
    curvature: float
    triangles: int
    components: int
    largest: int
    geometry: Geometry | None
    train: int
    validation: int
    test: int
    weight: float


@dataclass(frozen=True)
class RelationTable(Sequence[RelationProfile]):
    """The relations of a graph, row r being relation r.

    Attributes:
        relations: one profile each.
    """

    relations: tuple[RelationProfile, ...]

    def __len__(self) -> int:
        return len(self.relations)

    def __getitem__(self, relation: Any) -> Any:
        return self.relations[relation]

    def __iter__(self) -> Iterator[RelationProfile]:
        return iter(self.relations)

    @property
    def curvature(self) -> float:
        """The mean of all relations, weighed by Σ N³; NaN where no relation has one."""
        known = [each for each in self.relations if not math.isnan(each.curvature)]
        total = sum(each.weight for each in known)
        return sum(each.weight * each.curvature for each in known) / total if total else math.nan

    def rows(self) -> list[dict[str, Any]]:
        """Each relation as a dictionary."""
        return [dataclasses.asdict(each) for each in self.relations]

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame with a row per relation."""
        import pandas as pd

        return pd.DataFrame(self.rows())


@checked
def relation_profile(
    graph: KGDataset,
    *,
    parts: Sequence[Part] = ("train",),
    triangles: Count = 1000,
    flat: NonNegative = 0.1,
    seed: Whole = 0,
) -> RelationTable:
    """Look at every relation: to how many it leads, whether it is symmetric or a hierarchy, and how it is curved.

    Needs SciPy, which `pip install equipoise[sklearn]` brings.

    Args:
        graph: the data set.
        parts: whose triples are looked at. What a model is chosen by should not be seen in the test.
        triangles: how many are sampled for each relation.
        flat: a curvature between −flat and flat speaks for no curved space.
        seed: of the triangles.

    Raises:
        ValueError: on a bad argument, by name, or if the parts hold no triple.

    >>> from equipoise.data import make_tree_ring_graph
    >>> graph = make_tree_ring_graph(fractions=(1, 0, 0))
    >>> for each in relation_profile(graph, triangles=200):
    ...     print(each.name, each.type, each.hierarchy, f"{each.curvature:.1f}", each.geometry)
    ancestor of N-N 1.0 -0.8 hyperbolic
    1 on in the ring 1-1 1.0 0.3 spherical
    2 on in the ring 1-1 1.0 0.2 spherical
    5 on in the ring 1-1 1.0 0.4 spherical
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"parts={tuple(parts)} must be some of {', '.join(map(repr, PARTS))}")
    triples = torch.cat([getattr(graph, part) for part in dict.fromkeys(parts)]).unique(dim=0)
    if not len(triples):
        raise ValueError(f"parts={tuple(parts)} hold no triple")
    kinds = relation_types(triples, graph.num_relations)
    counts = {part: torch.bincount(getattr(graph, part)[:, 1], minlength=graph.num_relations) for part in PARTS}
    names = graph.relation_names or tuple(map(str, range(graph.num_relations)))
    found = []
    for relation, name in enumerate(names):
        pairs = triples[triples[:, 1] == relation][:, ::2]
        curved = graph_curvature(pairs.numpy(), triangles, seed)
        distinct = [max(len(side.unique()), 1) for side in pairs.unbind(1)]
        symmetry, hierarchy = _returned(pairs, graph.num_entities)
        found.append(
            RelationProfile(
                relation,
                name,
                len(pairs),
                len(pairs.unique()),
                len(pairs) / distinct[0],
                len(pairs) / distinct[1],
                kinds[relation],
                symmetry,
                hierarchy,
                curved.mean,
                curved.triangles,
                len(curved.sizes),
                int(curved.sizes.max(initial=0)),
                _geometry(curved, flat),
                int(counts["train"][relation]),
                int(counts["validation"][relation]),
                int(counts["test"][relation]),
                curved.weight,
            )
        )
    return RelationTable(tuple(found))


def _geometry(curved: GraphCurvature, flat: float) -> Geometry | None:
    if math.isnan(curved.mean):
        return None
    return "euclidean" if abs(curved.mean) <= flat else "spherical" if curved.mean > 0 else "hyperbolic"


def _returned(pairs: Tensor, num_entities: int) -> tuple[float, float]:
    """Symmetry, without links to oneself, and hierarchy, in which such a link is its own return."""
    heads, tails = pairs.numpy().T
    back = np.isin(heads * num_entities + tails, tails * num_entities + heads)
    between = heads != tails
    symmetry = float(back[between].mean()) if between.any() else math.nan
    return symmetry, 1 - float(back.mean()) if len(back) else math.nan
