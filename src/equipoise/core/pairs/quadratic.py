"""The all-pairs square loss of a linear scorer as a quadratic form: the pairs are never listed.

    L(w) = 1/(n₊ n₋) Σ_p Σ_q ½ (1 − w·(x_p − x_q))² = ½ wᵀ A w − cᵀ w + ½

with class means m, class covariances S (divided by n), c = m₊ − m₋ and A = S₊ + S₋ + c cᵀ. So it is a least squares
problem in n + 1 rows: every sample less the mean of its class, over √n of the class, with the response 0, and the row
c with the response 1. Rows are what is kept where there are fewer of them than columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget


class QuadraticForm(NamedTuple):
    """L(w) = ½ wᵀ A w − cᵀ w + ½ for one scorer.

    Attributes:
        A: (d, d).
        c: (d,).
    """

    A: Tensor
    c: Tensor


class PairRows(NamedTuple):
    """The least squares problems of several owners, row after row: ½ Σ_r (rows_r · w_owner − response_r)².

    Attributes:
        rows: (m, d).
        response: (m,).
        owner: (m,) whose row it is.
        both: (owners,) who have both classes; the others have no pairs and no rows.
    """

    rows: Tensor
    response: Tensor
    owner: Tensor
    both: Tensor


@checked
def auc_quadratic_form(features: Float[Tensor, "n d"], target: BinaryTarget) -> QuadraticForm:
    """The all-pairs square AUC loss of a linear scorer, ½ (1 − difference)² per pair, as a quadratic form.

    Args:
        features: (n, d).
        target: (n,) in {0, 1}, both classes present.

    Returns:
        (A, c), in float64.

    Raises:
        ValueError: if a class is absent.

    >>> form = auc_quadratic_form(torch.tensor([[1.0], [0.0], [0.5]]), torch.tensor([1, 0, 0]))
    >>> form.c
    tensor([0.7500], dtype=torch.float64)
    """
    positive = target == 1
    if not bool(positive.any()) or bool(positive.all()):
        raise ValueError("the target holds one class only, so that there is no pair; leave this user out")
    pos, neg = features[positive].double(), features[~positive].double()
    c = pos.mean(0) - neg.mean(0)
    centred = [(side - side.mean(0)) / math.sqrt(len(side)) for side in (pos, neg)]
    return QuadraticForm(sum(side.T @ side for side in centred) + torch.outer(c, c), c)


def pairwise_square_rows(
    features: Tensor, target: Tensor, owner: Tensor, owners: int, weight: Tensor | None = None
) -> PairRows:
    """The all-pairs square losses of several owners as least squares problems, see the module.

    Args:
        features: (n, d) in float64.
        target: (n,) in {0, 1}.
        owner: (n,) whose sample it is, from 0.
        owners: how many they are.
        weight: (n,) non-negative; a pair weighs the product of its samples' weights.

    >>> found = pairwise_square_rows(torch.eye(2), torch.tensor([1, 0]), torch.tensor([0, 0]), 1)
    >>> found.rows[-1], found.response[-1]
    (tensor([ 1., -1.]), tensor(1.))
    """
    segment = owner * 2 + target
    weight = features.new_ones(len(features)) if weight is None else weight
    total = torch.bincount(segment, weight, minlength=2 * owners).to(features)
    both = (total.view(owners, 2) > 0).all(1)
    kept = both[owner]
    x, segment = features[kept], segment[kept]
    # Of every row in the mean of its class of its owner.
    share = weight[kept] / total[segment]
    means = features.new_zeros(2 * owners, features.shape[1]).index_add_(0, segment, x * share[:, None])
    spread = (x - means[segment]) * share[:, None].sqrt()
    rows = torch.cat([spread, (means[1::2] - means[::2])[both]])
    response = torch.cat([x.new_zeros(len(x)), x.new_ones(int(both.sum()))])
    return PairRows(rows, response, torch.cat([owner[kept], both.nonzero().squeeze(1)]), both)
