r"""AUC within each user, which is what a ranking of a user's own list is about: differences between users say nothing.

    GAUC = Σ_u n_u AUC_u / Σ_u n_u        over users with both classes, n_u = rows of user u

A tied pair counts one half. One sort by (user, score) gives all midranks, so that it takes O(n log n). It is the usual
measure of deep interest networks (Zhou et al., KDD 2018); from memory.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.metrics import SampleMetric
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Probability, RankedScores
from equipoise.core.validate import warn_once

Groups: TypeAlias = Integer[Tensor, " n"]
OnUndefined: TypeAlias = Literal["nan", "raise"]


@checked
def grouped_auc(
    group: Groups, scores: RankedScores, target: BinaryTarget, *, on_undefined: OnUndefined = "nan"
) -> Float[Tensor, ""]:
    """Mean of the AUC of each group, weighted by its number of rows.

    Args:
        group: (n,) any whole numbers, such as user numbers; in any order.
        scores: (n,) the higher the better.
        target: (n,) in {0, 1}.
        on_undefined: where no group has both classes, "nan" (warned once) or "raise".

    Returns:
        A float64 scalar. Groups of one class are left out, with their rows.

    Raises:
        ValueError: on a bad argument, by name; if no group has both classes and `on_undefined` is "raise".

    >>> group = torch.tensor([7, 7, 7, 2, 2, 4])
    >>> grouped_auc(group, torch.tensor([0.9, 0.5, 0.1, 0.3, 0.3, 0.8]), torch.tensor([1, 0, 1, 1, 0, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    order = torch.argsort(scores, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    ordered, values, positive = group[order], scores[order], (target[order] == 1).long()
    place = torch.arange(len(group), device=group.device)
    new_group = torch.ones_like(positive, dtype=torch.bool)
    new_group[1:] = ordered[1:] != ordered[:-1]
    new_block = new_group.clone()
    new_block[1:] |= values[1:] != values[:-1]
    of_group, of_block = new_group.cumsum(0) - 1, new_block.cumsum(0) - 1
    start = new_group.nonzero().squeeze(1)
    first = new_block.nonzero().squeeze(1)
    last = torch.cat([first[1:] - 1, place[-1:]])
    # Twice the midrank within the group is a whole number, so that all sums are exact.
    twice = (first + last)[of_block] - 2 * start[of_group] + 2
    sums = torch.zeros(len(start), dtype=torch.int64, device=group.device)
    rows = torch.bincount(of_group)
    pos = sums.index_add(0, of_group, positive)
    wins = sums.index_add(0, of_group, twice * positive) - pos * (pos + 1)
    mixed = (pos > 0) & (pos < rows)
    if not bool(mixed.any()):
        sentence = "no group has both classes, so the grouped AUC is undefined"
        if on_undefined == "raise":
            raise ValueError(sentence)
        warn_once(sentence)
        return torch.full((), torch.nan, dtype=torch.float64, device=group.device)
    areas = wins[mixed].double() / (2 * pos * (rows - pos))[mixed]
    return (areas * rows[mixed]).sum() / rows[mixed].sum()


class GroupedAUC(SampleMetric):
    """`grouped_auc` over batches: GAUC.

    Args:
        on_undefined: as in `grouped_auc`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = GroupedAUC()
    >>> metric.update(torch.tensor([1, 1]), torch.tensor([0.2, 0.7]), torch.tensor([0, 1]))
    >>> metric.update(torch.tensor([1, 2]), torch.tensor([0.9, 0.5]), torch.tensor([0, 1]))
    >>> float(metric.compute())
    0.5
    """

    kept = ("groups", "scores", "targets")

    @checked
    def __init__(self, *, on_undefined: OnUndefined = "nan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_undefined: OnUndefined = on_undefined

    @checked
    def update(self, group: Groups, scores: RankedScores, target: BinaryTarget) -> None:
        """Take a batch; a group may be spread over several.

        Raises:
            ValueError: on a bad argument, by name.
        """
        self.keep(group.long(), scores, target.long())

    def compute(self) -> Tensor:
        """The value over all batches, a float64 scalar."""
        return grouped_auc(*self.samples(), on_undefined=self.on_undefined)


@checked
def relative_improvement(auc: Probability, base: Probability) -> float:
    """How much further an AUC is from chance than that of a baseline, in percent: ((auc − ½)/(base − ½) − 1) · 100.

    Args:
        auc: of the model.
        base: of the baseline.

    Raises:
        ValueError: if the baseline is at chance, 0.5.

    >>> round(relative_improvement(0.66, 0.65), 3)
    6.667
    """
    if base == 0.5:
        raise ValueError("base=0.5 is the AUC of chance, beside which no improvement can be expressed")
    return ((auc - 0.5) / (base - 0.5) - 1) * 100
