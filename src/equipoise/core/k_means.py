"""Clusters by Lloyd's algorithm, started by greedy k-means++ several times.

Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole


class Clusters(NamedTuple):
    """What `k_means` found.

    Attributes:
        assignment: (n,) cluster of each row.
        centres: (k, d).
        inertia: sum of square distances to the centres.
    """

    assignment: Int[Tensor, " n"]
    centres: Float[Tensor, "k d"]
    inertia: float


@checked
def k_means(rows: Float[Tensor, "n d"], k: Count, seed: Whole = 0, starts: Count = 10, rounds: Count = 100) -> Clusters:
    """The best of several clusterings.

    Args:
        rows: (n, d); computed in float64 on their device.
        k: how many clusters, at most n.
        seed: of the starts, which are drawn on the CPU.
        starts: how many.
        rounds: most steps of each.

    Raises:
        ValueError: if there are fewer rows than clusters.

    >>> found = k_means(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2)
    >>> bool(found.assignment[0] == found.assignment[1]), round(found.inertia, 3)
    (True, 0.01)
    """
    if len(rows) < k:
        raise ValueError(f"rows has {len(rows)} samples, fewer than the k={k} clusters; use more samples")
    data, generator = rows.detach().double(), Generator().manual_seed(seed)
    # Distances come from products, which cancel far from the origin.
    middle = data.mean(0)
    data = data - middle
    found = [_lloyd(data, _start(data, k, generator), rounds) for _ in range(starts)]
    best = min(found, key=lambda each: each.inertia)
    return best._replace(centres=(best.centres + middle).to(rows.dtype))


def _start(rows: Tensor, k: int, generator: Generator) -> Tensor:
    """Centres among the rows, each drawn in proportion to the square distance from those before it."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    nearest = (rows - rows[chosen[0]]).square().sum(1)
    tries = 2 + int(math.log(k))
    while len(chosen) < k:
        weight = nearest.cpu()
        if not float(weight.sum()) > 0:  # fewer different rows than clusters
            weight = torch.ones_like(weight)
        drawn = torch.multinomial(weight, tries, replacement=True, generator=generator).to(rows.device)
        # Of several candidates the one that leaves the least distance, as in scikit-learn.
        then = torch.minimum(nearest, torch.cdist(rows[drawn], rows).square())
        best = int(then.sum(1).argmin())
        chosen.append(int(drawn[best]))
        nearest = then[best]
    return rows[chosen].clone()


def _lloyd(rows: Tensor, centres: Tensor, rounds: int) -> Clusters:
    before = None
    for _ in range(rounds):
        distance = torch.cdist(rows, centres).square()
        least, assignment = distance.min(1)
        if before is not None and assignment.equal(before):
            break
        before = assignment
        counts = torch.bincount(assignment, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, assignment, rows)
        centres = sums / counts.clamp_min(1)[:, None].to(sums)
        # A cluster that lost its rows begins again at the row that is farthest from its centre.
        for empty in (counts == 0).nonzero().flatten().tolist():
            far = int(least.argmax())
            centres[empty] = rows[far]
            least[far] = 0.0
    distance = torch.cdist(rows, centres).square()
    least, assignment = distance.min(1)
    return Clusters(assignment, centres, float(least.sum()))
