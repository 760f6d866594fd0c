"""The samples of an identity that belong together, when some of them show somebody else.

    d = 1 − cosine        ε = 1 − θ        DBSCAN(d, ε, min_samples), of which the largest cluster is kept

With min_samples = 2 these are the components of the graph d ≤ ε, so that one spanning tree answers every threshold. The
threshold of an identity is moved until the kept share lies in a range. "Hybrid Generative Fusion", ICCV workshops 2025:
DBSCAN, its numbers and the greedy grouping as in the authors' code; the rule for the threshold is theirs with the
direction mended where too few are kept, and with the nearest share where none lies in the range. The exact mode is
added here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.models.two_tower import unit_rows
from equipoise.core.signature import checked
from equipoise.core.single_linkage import (
    Distances,
    SingleLinkage,
    cosine_distances,
    density_clusters,
    single_linkage,
)
from equipoise.core.types import Count, MayBeEmpty, OpenFraction, Positive, Probability

IdentityRows: TypeAlias = Annotated[Float[Tensor, "n d"], MayBeEmpty()]
_DIGITS = 10


class ThresholdedCluster(NamedTuple):
    """What `auto_threshold_cluster` keeps.

    Attributes:
        indices: (k,) the samples kept, in order.
        trace: (threshold, samples kept) of each threshold that was tried, in order.
        threshold: the one that was chosen; NaN where there is no sample.
    """

    indices: Int[Tensor, " k"]
    trace: tuple[tuple[float, int], ...]
    threshold: float


class _Clusters:
    """The largest cluster of one identity at any threshold."""

    def __init__(self, embeddings: Tensor, min_samples: int) -> None:
        unit = unit_rows("embeddings", embeddings.detach().double()) if len(embeddings) else embeddings
        self.size, self.min_samples = len(embeddings), min_samples
        self.distances: Distances = cosine_distances(unit.cpu().double().numpy())
        self.tree: SingleLinkage | None = single_linkage(self.distances) if min_samples <= 2 else None

    def largest(self, threshold: float) -> NDArray[np.int64]:
        if self.size < 2:  # one sample cannot have the neighbours that are asked for, and speaks for itself
            return np.arange(self.size)
        distance = 1 - threshold
        if self.tree is not None:
            return self.tree.largest(distance, self.min_samples)
        labels = density_clusters(self.distances, distance, self.min_samples)
        members = [np.flatnonzero(labels == number) for number in range(int(labels.max()) + 1)]
        return min(members, key=lambda part: (-len(part), int(part[0])), default=np.zeros(0, dtype=np.int64))

    def attainable(self, low: float, high: float) -> list[float]:
        """A threshold for each set of clusters that the bounds allow, strict ones first: those of the merges."""
        merges = [] if self.tree is None else np.unique(self.tree.step).tolist()
        # Exact: distances are 1 less a cosine, so that 1 less a distance is that cosine again.
        found = [1 - d for d in merges]
        return [high, *(t for t in found if low < t < high), low]


@checked
def largest_consistent_cluster(
    embeddings: IdentityRows, threshold: OpenFraction = 0.6, min_samples: Count = 2
) -> Int[Tensor, " k"]:
    """The samples of the largest cluster of one identity, which may be none.

    Args:
        embeddings: (n, d) of any length; a single sample is kept, and n may be 0.
        threshold: cosine from which two samples are neighbours, in (0, 1).
        min_samples: neighbours, itself among them, that make a sample the core of a cluster.

    Returns:
        Their indices in order; of equal clusters those of the one whose first member comes first.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> largest_consistent_cluster(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]))
    tensor([0, 2])
    """
    found = _Clusters(embeddings, min_samples).largest(threshold)
    return torch.from_numpy(found).to(embeddings.device)


@checked
def auto_threshold_cluster(
    embeddings: IdentityRows,
    initial_threshold: OpenFraction = 0.6,
    min_fraction: Probability = 0.5,
    max_fraction: Probability = 0.8,
    step: Positive = 0.02,
    max_iter: Count = 10,
    bounds: Sequence[float] = (0.3, 0.9),
    mode: Literal["grid", "exact"] = "grid",
    *,
    min_samples: Count = 2,
) -> ThresholdedCluster:
    """The largest cluster of one identity at a threshold that keeps a wanted share of the samples.

    A share above `max_fraction` asks for a stricter threshold: the default assumes that a fifth of every identity, or
    more, is somebody else. Where the source is clean, `max_fraction=1.0` is the better choice.

    Args:
        embeddings: (n, d) of any length; a single sample is kept, and n may be 0.
        initial_threshold: cosine to begin with, in (0, 1).
        min_fraction: least share to keep.
        max_fraction: largest share to keep.
        step: by which the threshold is moved, above 0.
        max_iter: thresholds to try at most.
        bounds: least and largest threshold to move to.
        mode: "grid" moves the threshold step by step; "exact" chooses among all clusters that any threshold within the
            bounds gives, and of their thresholds the strictest.
        min_samples: as in `largest_consistent_cluster`; at most 2 for "exact".

    Returns:
        The samples whose share is nearest to the range, of those the most; the thresholds tried; the chosen one.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> found = auto_threshold_cluster(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]))
    >>> found.indices.tolist(), found.trace
    ([0, 2], ((0.6, 2),))
    """
    low, high = _checked_bounds(bounds)
    if min_fraction > max_fraction:
        raise ValueError(f"min_fraction={min_fraction:g} is above max_fraction={max_fraction:g}; swap them")
    if mode == "exact" and min_samples > 2:
        raise ValueError(f"min_samples={min_samples} has no exact mode; set it to 2, or mode='grid'")
    n = len(embeddings)
    if not n:
        return ThresholdedCluster(torch.zeros(0, dtype=torch.long, device=embeddings.device), (), float("nan"))
    clusters = _Clusters(embeddings, min_samples)

    def gap(kept: NDArray[np.int64]) -> float:
        share = len(kept) / n
        return max(min_fraction - share, share - max_fraction, 0.0)

    tried: dict[float, NDArray[np.int64]] = {}
    if mode == "exact":
        tried = {threshold: clusters.largest(threshold) for threshold in clusters.attainable(low, high)}
    else:
        threshold = round(initial_threshold, _DIGITS)
        while threshold not in tried and len(tried) < max_iter:
            tried[threshold] = kept = clusters.largest(threshold)
            if gap(kept) == 0:
                break
            # Too few are kept: looser. Too many: stricter.
            moved = threshold - step if len(kept) / n < min_fraction else threshold + step
            threshold = round(min(max(moved, low), high), _DIGITS)
    chosen = min(tried, key=lambda each: (gap(tried[each]), -len(tried[each])))
    trace = tuple((threshold, len(kept)) for threshold, kept in tried.items())
    return ThresholdedCluster(torch.from_numpy(tried[chosen]).to(embeddings.device), trace, chosen)


@checked
def greedy_cluster(embeddings: IdentityRows, threshold: OpenFraction = 0.6) -> Int[Tensor, " k"]:
    """The largest group of the authors' greedy grouping, kept for comparison: it depends on the order of the samples.

    The first sample that is in no group yet opens one, and every later sample in none that is more similar to it than
    the threshold joins.

    Args:
        embeddings: (n, d); n may be 0.
        threshold: cosine above which a sample joins, in (0, 1).

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> greedy_cluster(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]))
    tensor([0, 2])
    """
    distances = _Clusters(embeddings, 2).distances
    free = np.ones(len(embeddings), dtype=bool)
    largest = np.zeros(0, dtype=np.int64)
    for first in range(len(embeddings)):
        if not free[first]:
            continue
        joins = free & (distances[first] < 1 - threshold)
        joins[: first + 1] = False
        joins[first] = True
        free &= ~joins
        if joins.sum() > len(largest):
            largest = np.flatnonzero(joins)
    return torch.from_numpy(largest).to(embeddings.device)


def _checked_bounds(bounds: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(each) for each in bounds)
    except (TypeError, ValueError):
        raise ValueError(f"bounds={bounds!r} must be two numbers, the least and the largest threshold") from None
    if not 0 < low <= high < 1:
        raise ValueError(f"bounds={bounds!r} must be two numbers with 0 < least <= largest < 1")
    return low, high
