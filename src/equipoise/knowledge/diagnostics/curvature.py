"""The curvature of a graph from its triangles: positive in rings, zero in lines, negative in trees."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Range

# Nodes of search trees that are kept.
_KEPT = 1 << 22

Distances = Annotated[Float[Tensor, "*n"], Range(0)]
Apart = Annotated[Float[Tensor, "*n"], Range(0, low_open=True)]


@checked
def triangle_curvature(d_am: Apart, d_bc: Distances, d_ab: Distances, d_ac: Distances) -> Float[Tensor, "*n"]:
    """How much farther a corner is from the middle of the opposite side than it would be in a plane.

        ξ = ( d(a, m)² + d(b, c)² / 4 − (d(a, b)² + d(a, c)²) / 2 ) / ( 2 d(a, m) )

    Gu et al., "Learning Mixed-Curvature Representations in Product Spaces", ICLR 2019; in this form in the supplement
    of "Geometry Interaction Knowledge Graph Embeddings", AAAI 2022. In a plane the parallelogram law makes it zero.

    Args:
        d_am: of any shape, distance of the corner a from m, the middle of the side from b to c; above 0.
        d_bc: length of that side.
        d_ab: distance of a from b.
        d_ac: distance of a from c.

    Returns:
        float64 of the same shape, in the unit of the distances: positive on a sphere, negative in a tree.

    Raises:
        ValueError: on a bad argument, by name; also where a is the middle itself.

    >>> triangle_curvature(*(torch.tensor([each]) for each in (1.0, 2.0, 2.0, 2.0)))
    tensor([-1.], dtype=torch.float64)
    """
    middle, side, one, other = (each.double() for each in (d_am, d_bc, d_ab, d_ac))
    return (middle**2 + side**2 / 4 - (one**2 + other**2) / 2) / (2 * middle)


class GraphCurvature(NamedTuple):
    """An estimate for an undirected graph.

    Attributes:
        mean: over triangles; NaN where none could be drawn.
        triangles: how many there were.
        weight: Σ N³ over the connected components of N nodes, the triples of nodes that there are.
        sizes: nodes of each component, descending.
    """

    mean: float
    triangles: int
    weight: float
    sizes: NDArray[np.int64]


def graph_curvature(pairs: NDArray[np.int64], triangles: int, seed: int) -> GraphCurvature:
    """The mean `triangle_curvature` of random triangles of nodes, in every component as many as its share of Σ N³.

    Corners are distinct nodes, drawn alike; sides are shortest paths. The middle of a path of odd length lies on an
    edge, half a step from either end of it. A corner that is the middle itself is left out.

    Args:
        pairs: (n, 2) links between nodes of any numbers; direction, repetition and links to oneself do not count.
        triangles: how many to draw in all.
        seed: of the choice.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    if not len(pairs):
        return GraphCurvature(math.nan, 0, 0.0, np.zeros(0, dtype=np.int64))
    nodes, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    both = np.concatenate([ends, ends[:, ::-1]])
    both = np.unique(both[both[:, 0] != both[:, 1]], axis=0)
    graph = csr_array((np.ones(len(both), dtype=np.int8), tuple(both.T)), shape=(len(nodes),) * 2)
    _, label = connected_components(graph, directed=False)
    sizes = np.bincount(label)
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])
    generator = np.random.default_rng(seed)

    # In small components the same node is the root again and again; what is kept is at most 16 MiB.
    @lru_cache(max(_KEPT // len(nodes), 2))
    def toward(root: int) -> Any:
        return breadth_first_order(graph, root, directed=True, return_predecessors=True)[1]

    found: list[tuple[float, ...]] = []
    for component, count in zip(members, _shares(sizes, triangles, generator), strict=True):
        for _ in range(count):
            triangle = _triangle(toward, component[generator.choice(len(component), 3, replace=False)])
            if triangle[0]:
                found.append(triangle)
    mean = math.nan
    if found:
        mean = float(triangle_curvature(*torch.tensor(found, dtype=torch.float64).unbind(1)).mean())
    return GraphCurvature(mean, len(found), float((sizes.astype(np.float64) ** 3).sum()), np.sort(sizes)[::-1])


def _shares(sizes: NDArray[np.int64], triangles: int, generator: np.random.Generator) -> list[int]:
    """Triangles of each component in proportion to N³, what remains after rounding down drawn at random."""
    cubes = np.where(sizes >= 3, sizes.astype(np.float64) ** 3, 0.0)
    if not cubes.any():
        return [0] * len(sizes)
    exact = triangles * cubes / cubes.sum()
    whole = np.floor(exact).astype(np.int64)
    rest, left = exact - whole, triangles - int(whole.sum())
    if left:
        whole += generator.multinomial(left, rest / rest.sum())
    return [int(count) for count in whole]


def _triangle(toward: Callable[[int], Any], corners: NDArray[np.int64]) -> tuple[float, float, float, float]:
    """d(a, m), d(b, c), d(a, b) and d(a, c) of nodes a, b, c.

    Args:
        toward: root → the next node of each node on a shortest path to it.
        corners: a, b and c.
    """
    a, b, c = (int(corner) for corner in corners)
    side = _path(toward(b), c)
    length = len(side) - 1
    home = toward(a)
    # Of an odd path, the two nodes around the middle; of an even one, twice the same.
    around = side[length // 2], side[(length + 1) // 2]
    middle = min(len(_path(home, node)) - 1 for node in around) + (length % 2) / 2
    return middle, float(length), float(len(_path(home, b)) - 1), float(len(_path(home, c)) - 1)


def _path(toward: Any, start: int) -> list[int]:
    """The nodes from `start` to the root."""
    path = [start]
    while (following := int(toward[path[-1]])) >= 0:
        path.append(following)
    return path
