"""The square loss over all pairs of a positive and a negative pixel of a group, from moments: no pair is listed.

    A = 1 / (|P| |N|) Σ_{i∈P} Σ_{j∈N} (γ − (f_i − f_j))²  =  Var_P(f) + Var_N(f) + (γ − (mean_P f − mean_N f))²

with variances divided by |P| and |N|. The pairs form a complete bipartite graph, and the loss is a quadratic form of
its Laplacian, whose adjacency matrix has rank 2: hence O(pixels) for the value and the gradient.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.pairs.means import wide
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Positive, Range, Scores


class Moments(NamedTuple):
    """Of the values of each group; 0 where it has none.

    Attributes:
        number: (..., groups) of values.
        mean: (..., groups).
        var: (..., groups) divided by their number.
    """

    number: Tensor
    mean: Tensor
    var: Tensor


@checked
def bipartite_square_loss(
    scores: Scores,
    labels: BinaryTarget,
    gamma: Positive = 1.0,
    groups: Annotated[Integer[Tensor, " n"], Range(0)] | None = None,
) -> Float[Tensor, " groups"]:
    """The mean square loss over the pairs of a positive and a negative of each group.

    Args:
        scores: (n,) any real numbers.
        labels: (n,) in {0, 1}.
        gamma: the wanted difference of a positive and a negative.
        groups: (n,) index of each sample's group, from 0; all are one group if absent.

    Returns:
        (groups,) float64; 0, attached to the graph, for a group of one class only.

    >>> scores, labels = torch.tensor([0.9, 0.1, 0.4, 0.8]), torch.tensor([1, 0, 0, 1])
    >>> bipartite_square_loss(scores, labels)
    tensor([0.1850], dtype=torch.float64)

    Source: Li et al. (2025), SI-AUC with the pixel-level bipartite acceleration; reconstructed from its name and the
    algebra above.
    """
    group = torch.zeros_like(labels, dtype=torch.long) if groups is None else groups.long()
    count = 1 if groups is None else int(group.max()) + 1
    found = side_moments(scores, 2 * group + (labels == 1), 2 * count)
    neg, pos = (Moments(*(each.view(count, 2)[:, side] for each in found)) for side in (0, 1))
    return pair_loss(pos, neg, gamma)


def side_moments(values: Tensor, group: Tensor, groups: int) -> Moments:
    """Moments of (..., n) values by group (n,), around each group's own mean, in float64."""
    values = values.to(wide(values))
    count = torch.bincount(group, minlength=groups).to(values.dtype)
    members = count.clamp_min(1)

    def total(each: Tensor) -> Tensor:
        return each.new_zeros(*each.shape[:-1], groups).index_add(-1, group, each)

    mean = total(values) / members
    return Moments(count, mean, total((values - mean[..., group]) ** 2) / members)


def pair_loss(pos: Moments, neg: Moments, gamma: float) -> Tensor:
    """The loss of each group; 0 where a side has no member."""
    loss = pos.var + neg.var + (gamma - (pos.mean - neg.mean)) ** 2
    return torch.where((pos.number > 0) & (neg.number > 0), loss, 0.0)
