r"""Thurstone–Mosteller scores: the chance that i is preferred to j is Φ(s_i − s_j).

    min_s  − Σ_n w_n log Φ(y_n (s_i − s_j)) + ridge/2 ‖s‖²        a tie is half an answer each way

The difference of two items' qualities has variance 1 (Thurstone's case V up to a factor √2). From memory.
"""

from __future__ import annotations

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative
from equipoise.crowd.columns import Answer, Item, PositiveWeight, as_comparisons
from equipoise.crowd.consensus.likelihood import LikelihoodFit, greatest_likelihood
from equipoise.data.comparisons.pair_counts import PairCounts


@checked
def thurstone_mle(
    item_i: Item,
    item_j: Item,
    y: Answer,
    weight: PositiveWeight | None = None,
    *,
    ridge: NonNegative = 0.0,
    num_items: Count | None = None,
) -> LikelihoodFit:
    """Thurstone–Mosteller scores of greatest likelihood, in standard deviations of a difference.

    Args:
        item_i: (n,) left items.
        item_j: (n,) right items.
        y: (n,) 1 where left was preferred, −1 where right was, 0 for a tie, which counts as half of each.
        weight: (n,) how often each answer was given, above 0; 1 by default.
        ridge: price of scores; above 0 there is always one solution.
        num_items: one more than the largest index by default.

    Raises:
        ValueError: on a bad argument, by name; without a ridge, if some items never lost or never won against the
            rest of their component, naming them.

    >>> i, j, y = torch.tensor([0, 0, 0, 0]), torch.tensor([1, 1, 1, 1]), torch.tensor([1, 1, 1, -1])
    >>> found = thurstone_mle(i, j, y)
    >>> round(float(found.score[0] - found.score[1]), 4)  # the normal quantile of .75
    0.6745
    """
    return greatest_likelihood(PairCounts.of(as_comparisons(item_i, item_j, y, weight, num_items)), "normal", ridge)
