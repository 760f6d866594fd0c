"""Clusters of a few hundred points at every threshold, from one spanning tree.

Prim's algorithm visits a connected component of the graph d ≤ ε to its end before it crosses a longer edge, whatever ε
is. So the order of its visits, and the length of the edge that led to each, hold the components at all thresholds: they
are the runs of that order between edges longer than ε. O(n²) once, O(n) for a threshold.

With min_samples = 2, components of at least two points are the clusters of DBSCAN (Ester et al., KDD 1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Distances: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class SingleLinkage:
    """The components at every threshold.

    Attributes:
        order: (n,) points as Prim's algorithm visits them.
        step: (n − 1,) length of the edge that led to each point but the first.

    >>> tree = single_linkage(np.array([[0.0, 0.1, 0.9], [0.1, 0.0, 0.8], [0.9, 0.8, 0.0]]))
    >>> tree.labels(0.5, least=2), tree.largest(0.5)
    (array([ 0,  0, -1]), array([0, 1]))
    """

    order: NDArray[np.int64]
    step: NDArray[np.float64]

    def runs(self, distance: float) -> NDArray[np.int64]:
        """(runs + 1,) where the components at a distance begin in `order`, and its end."""
        if not len(self.order):
            return np.zeros(1, dtype=np.int64)
        cuts = np.flatnonzero(self.step > distance) + 1
        return np.concatenate([[0], cuts, [len(self.order)]])

    def labels(self, distance: float, least: int = 1) -> Labels:
        """(n,) the component of each point, numbered by the first point; −1 in those of fewer than `least` points."""
        ends = self.runs(distance)
        sizes = np.diff(ends)
        found = np.full(len(self.order), -1, dtype=np.int64)
        if not len(sizes):
            return found
        kept = np.flatnonzero(sizes >= least)
        number = np.full(len(sizes), -1, dtype=np.int64)
        number[kept[np.argsort(np.minimum.reduceat(self.order, ends[:-1])[kept])]] = np.arange(len(kept))
        found[self.order] = np.repeat(number, sizes)
        return found

    def largest(self, distance: float, least: int = 2) -> NDArray[np.int64]:
        """The points of the largest component, in order; of equal ones that with the first point.

        Empty where none has `least` points.
        """
        ends = self.runs(distance)
        sizes = np.diff(ends)
        if not len(sizes) or (most := int(sizes.max())) < least:
            return np.zeros(0, dtype=np.int64)
        parts = [self.order[ends[k] : ends[k + 1]] for k in np.flatnonzero(sizes == most)]
        return np.sort(min(parts, key=lambda part: int(part.min())))


def single_linkage(distances: Distances) -> SingleLinkage:
    """The tree of least length over a symmetric matrix of distances, as Prim's algorithm finds it.

    >>> single_linkage(np.array([[0.0, 3.0, 1.0], [3.0, 0.0, 2.0], [1.0, 2.0, 0.0]])).step
    array([1., 2.])
    """
    n = len(distances)
    order = np.zeros(n, dtype=np.int64)
    step = np.zeros(max(n - 1, 0))
    if n < 2:
        return SingleLinkage(order, step)
    # Points that have been visited are infinitely far, so that they are never the nearest.
    away = distances[0].copy()
    visited = np.zeros(n)
    away[0] = visited[0] = np.inf
    for k in range(1, n):
        nearest = int(away.argmin())
        order[k], step[k - 1] = nearest, away[nearest]
        np.minimum(away, distances[nearest], out=away)
        visited[nearest] = np.inf
        np.maximum(away, visited, out=away)
    return SingleLinkage(order, step)


def density_clusters(distances: Distances, distance: float, min_samples: int) -> Labels:
    """(n,) clusters of DBSCAN, numbered by their first core point; −1 for noise.

    A core point has at least `min_samples` points within the distance, itself among them. Core points within it of one
    another share a cluster; a point beside cores of several clusters goes to the first.

    >>> density_clusters(np.array([[0.0, 0.1, 0.9], [0.1, 0.0, 0.8], [0.9, 0.8, 0.0]]), 0.5, 2)
    array([ 0,  0, -1])
    """
    within = distances <= distance
    core = np.flatnonzero(within.sum(1) >= min_samples)
    found = np.full(len(distances), -1, dtype=np.int64)
    if not len(core):
        return found
    number = single_linkage(distances[np.ix_(core, core)]).labels(distance)
    found[core] = number
    border = np.setdiff1d(np.flatnonzero(within[:, core].any(1)), core)
    if len(border):
        reached = np.where(within[np.ix_(border, core)], number, len(core))
        found[border] = reached.min(1)
    return found


def cosine_distances(unit: NDArray[np.float64]) -> Distances:
    """1 − cosine of all pairs of unit rows, in [0, 2], and exactly 0 from a row to itself.

    >>> cosine_distances(np.eye(2))
    array([[0., 1.],
           [1., 0.]])
    """
    distances = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    return distances
