r"""Elo ratings, one comparison after the other.

    r_i ← r_i + k w (a − 1 / (1 + 10^((r_j − r_i) / scale)))        a = 1, ½, 0 for a win, a tie, a loss of i

The result depends on the order of the comparisons: the last ones count most. Where the order means nothing, use
`bradley_terry_mle`, of which this is a stochastic gradient step. Elo, "The Rating of Chessplayers", 1978, from memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Real
from equipoise.crowd.columns import Answer, Item, PositiveWeight, as_comparisons


@checked
def elo_ratings(
    item_i: Item,
    item_j: Item,
    y: Answer,
    weight: PositiveWeight | None = None,
    *,
    k: Positive = 32.0,
    scale: Positive = 400.0,
    initial: Real = 1000.0,
    num_items: Count | None = None,
) -> Float[Tensor, " items"]:
    """Ratings (items,) after all comparisons, in the order given; float64.

    Args:
        item_i: (n,) left items.
        item_j: (n,) right items.
        y: (n,) 1 where left was preferred, −1 where right was, 0 for a tie.
        weight: (n,) factors of k, above 0; 1 by default.
        k: most that a comparison moves a rating.
        scale: difference of ratings at which the better one is ten times as likely to win.
        initial: rating of every item at first.
        num_items: one more than the largest index by default.

    Raises:
        ValueError: on a bad argument, by name.

    >>> elo_ratings(torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    tensor([1016.,  984.], dtype=torch.float64)
    """
    said = as_comparisons(item_i, item_j, y, weight, num_items)
    ratings = [initial] * said.num_items
    # Each step needs the ratings of the one before, so that there is nothing to do at once.
    columns = (said.left, said.right, (said.label + 1) / 2, k * said.weight)
    for one, other, won, step in zip(*(column.tolist() for column in columns), strict=True):
        odds = (ratings[other] - ratings[one]) / scale
        chance = 1 / (1 + 10.0**odds) if odds < 300 else 0.0
        moved = step * (won - chance)
        ratings[one] += moved
        ratings[other] -= moved
    return torch.tensor(ratings, dtype=torch.float64)
