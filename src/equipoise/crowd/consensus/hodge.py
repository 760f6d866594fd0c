r"""HodgeRank: scores whose differences are nearest to the answers, and what no scores can explain.

    min_s  Σ_e w_e (s_i − s_j − y_e)²        s = L⁺ div(w y),   inconsistency = residual energy / Σ_e w_e y_e²

The residual is made of disagreement about single pairs, of cycles of three items (curl) and of longer cycles around
holes of the graph (harmonic). The parts are orthogonal, so their energies add up.

Jiang, Lim, Yao, Ye, "Statistical ranking and combinatorial Hodge theory", Mathematical Programming 2011, from memory.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Range
from equipoise.crowd.columns import Item, check_items
from equipoise.crowd.laplacian import EdgeGraph, Index, Vector
from equipoise.data.comparisons.pair_counts import PairCounts


class HodgeRank(NamedTuple):
    """What `hodge_rank` returns.

    Attributes:
        score: (items,) float64 of mean 0 in each component; 0 for an item that was not compared.
        inconsistency: share of the answers' energy that no scores explain, in [0, 1]; 0 where all answers are ties.
        component: (items,) scores compare within a component, the largest is 0.
    """

    score: Tensor
    inconsistency: float
    component: Tensor


class HodgeParts(NamedTuple):
    """What `hodge_decomposition` returns: flows of each pair that was compared, and their energies.

    Attributes:
        score: (items,) as of `hodge_rank`.
        pair_i: (pairs,) the smaller index.
        pair_j: (pairs,) the larger index.
        flow: (pairs,) mean answer, positive where pair_i is preferred; the sum of the three that follow.
        gradient: (pairs,) what scores explain.
        curl: (pairs,) cycles of three items.
        harmonic: (pairs,) longer cycles.
        energy: total, gradient, disagreement, curl and harmonic, by name; total is the sum of the others.
    """

    score: Tensor
    pair_i: Tensor
    pair_j: Tensor
    flow: Tensor
    gradient: Tensor
    curl: Tensor
    harmonic: Tensor
    energy: dict[str, float]


@checked
def hodge_rank(
    item_i: Item,
    item_j: Item,
    y: Float[Tensor, " n"],
    weight: Annotated[Float[Tensor, " n"], Range(0)] | None = None,
    *,
    num_items: Count | None = None,
) -> HodgeRank:
    """Least-squares scores of items; of many solutions that of least norm.

    Args:
        item_i: (n,) left items.
        item_j: (n,) right items.
        y: (n,) by how much left is better: 1, 0 and −1, or any amounts.
        weight: (n,) at least 0; 1 by default. An answer of weight 0 is none.
        num_items: one more than the largest index by default.

    Raises:
        ValueError: on a bad argument, by name.

    >>> found = hodge_rank(torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2]), torch.tensor([1.0, 1.0, 2.0]))
    >>> [round(float(each), 6) + 0.0 for each in found.score], round(found.inconsistency, 6)
    ([1.0, 0.0, -1.0], 0.0)
    """
    graph, answer, weights = _read(item_i, item_j, y, weight, num_items)
    score = graph.solve(weights, graph.gathered(weights * answer))
    residual = answer - graph.difference(score)
    return HodgeRank(
        torch.from_numpy(score),
        _share(float(weights @ residual**2), float(weights @ answer**2)),
        torch.from_numpy(graph.component),
    )


@checked
def hodge_decomposition(
    item_i: Item,
    item_j: Item,
    y: Float[Tensor, " n"],
    weight: Annotated[Float[Tensor, " n"], Range(0)] | None = None,
    *,
    num_items: Count | None = None,
    max_triangles: Count = 2_000_000,
) -> HodgeParts:
    """The answers as scores, disagreement, cycles of three and longer cycles.

    Args:
        item_i: (n,) left items.
        item_j: (n,) right items.
        y: (n,) by how much left is better.
        weight: (n,) at least 0; 1 by default.
        num_items: one more than the largest index by default.
        max_triangles: triples of items, compared all with each other, to go on with.

    Raises:
        ValueError: on a bad argument, by name; if there are more triples.

    >>> parts = hodge_decomposition(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), torch.ones(3))
    >>> {name: round(value, 6) for name, value in parts.energy.items()}
    {'total': 3.0, 'gradient': 0.0, 'disagreement': 0.0, 'curl': 3.0, 'harmonic': 0.0}
    """
    graph, answer, weights = _read(item_i, item_j, y, weight, num_items)
    keys, place = np.unique(
        np.minimum(graph.one, graph.other) * graph.size + np.maximum(graph.one, graph.other), return_inverse=True
    )
    turned = np.where(graph.one < graph.other, answer, -answer)
    strength = np.bincount(place, weights).astype(np.float64, copy=False)
    flow = np.bincount(place, weights * turned) / strength
    pairs = EdgeGraph(keys // graph.size, keys % graph.size, graph.size)
    score = pairs.solve(strength, pairs.gathered(strength * flow))
    gradient = pairs.difference(score)
    curl = _curl(pairs, keys, flow - gradient, strength, max_triangles)
    harmonic = flow - gradient - curl
    total = float(weights @ answer**2)
    energy = {
        "total": total,
        "gradient": float(strength @ gradient**2),
        "disagreement": float(weights @ (turned - flow[place]) ** 2),
        "curl": float(strength @ curl**2),
        "harmonic": float(strength @ harmonic**2),
    }
    return HodgeParts(
        torch.from_numpy(score),
        torch.from_numpy(pairs.one),
        torch.from_numpy(pairs.other),
        torch.from_numpy(flow),
        torch.from_numpy(gradient),
        torch.from_numpy(curl),
        torch.from_numpy(harmonic),
        energy,
    )


def hodge_of_counts(counts: PairCounts) -> HodgeRank:
    """`hodge_rank` of answers 1, 0 and −1 that were counted."""
    graph = EdgeGraph(counts.first.numpy(), counts.second.numpy(), counts.num_items)
    won, lost, tied = (each.numpy() for each in (counts.first_wins, counts.second_wins, counts.ties))
    score = graph.solve(won + lost + tied, graph.gathered(won - lost))
    gap = graph.difference(score)
    residual = float(won @ (1 - gap) ** 2 + lost @ (1 + gap) ** 2 + tied @ gap**2)
    share = _share(residual, float(won.sum() + lost.sum()))
    return HodgeRank(torch.from_numpy(score), share, torch.from_numpy(graph.component))


def _share(residual: float, total: float) -> float:
    return min(residual / total, 1.0) if total > 0 else 0.0


def _read(
    item_i: Tensor, item_j: Tensor, y: Tensor, weight: Tensor | None, num_items: int | None
) -> tuple[EdgeGraph, Vector, Vector]:
    check_items(item_i, item_j, num_items)
    size = num_items or int(torch.maximum(item_i.max(), item_j.max())) + 1
    one, other = (each.long().numpy() for each in (item_i, item_j))
    answer = y.detach().double().numpy()
    weights = np.ones(len(answer)) if weight is None else weight.detach().double().numpy()
    kept = weights > 0
    if not kept.any():
        raise ValueError("weight is 0 for every answer; nothing is left to rank by")
    return EdgeGraph(one[kept], other[kept], size), answer[kept], weights[kept]


def _curl(pairs: EdgeGraph, keys: Index, residual: Vector, strength: Vector, most: int) -> Vector:
    """The part of a residual flow that cycles of three carry: its projection, pairs weighed by their strength."""
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import lsmr

    sides = _triangles(pairs, keys, most)
    count = sides.shape[1]
    if not count:
        return np.zeros_like(residual)
    root = np.sqrt(strength)
    # Around i → j → k → i the pair i-k is passed from its larger end.
    signs = np.repeat([1.0, 1.0, -1.0], count)
    rows, columns = sides.reshape(-1), np.tile(np.arange(count), 3)
    around = coo_array((signs / root[rows], (rows, columns)), shape=(len(keys), count)).tocsr()
    circulation = lsmr(around, root * residual, atol=1e-14, btol=1e-14, conlim=0, maxiter=20_000)[0]
    return np.asarray(around @ circulation) / root


def _triangles(pairs: EdgeGraph, keys: Index, most: int) -> NDArray[np.int64]:
    """Places (3, triangles) among the pairs of i-j, j-k and i-k, for all i < j < k that were compared all around."""
    begin = np.searchsorted(pairs.one, np.arange(pairs.size + 1))
    fan = (begin[1:] - begin[:-1])[pairs.other]
    found, total = [], 0
    # Pieces of paths i-j-k, so that memory follows the triangles and not the paths.
    cuts = np.searchsorted(np.cumsum(fan), np.arange(0, int(fan.sum()) + 1, 5_000_000)[1:])
    for part in np.split(np.arange(len(keys)), cuts):
        first = np.repeat(part, fan[part])
        start = np.cumsum(fan[part]) - fan[part]
        second = np.arange(len(first)) - np.repeat(start, fan[part]) + begin[pairs.other[first]]
        wanted = pairs.one[first] * pairs.size + pairs.other[second]
        third = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        closed = keys[third] == wanted
        total += int(closed.sum())
        if total > most:
            raise ValueError(f"max_triangles={most} are exceeded; raise it, or use hodge_rank, which needs none")
        found.append(np.stack([first[closed], second[closed], third[closed]]))
    return np.concatenate(found, 1)
