"""The two sides of a binary batch: what every pairwise objective begins with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from equipoise.core.pairs.autograd import SplitClasses
from equipoise.core.types import BinaryTarget, SampleWeight, Scores
from equipoise.core.validate import check_probabilities, warn_once


class Sides(NamedTuple):
    """The scores of the positives and of the negatives, each in the order of the batch, and their weights.

    Attributes:
        pos: (n₊,) gradients flow back to the scores.
        neg: (n₋,).
        pos_weight: (n₊,) or None.
        neg_weight: (n₋,) or None.
    """

    pos: Tensor
    neg: Tensor
    pos_weight: Tensor | None
    neg_weight: Tensor | None

    @property
    def rankable(self) -> bool:
        """Whether there is a pair."""
        return self.pos.shape[0] > 0 and self.neg.shape[0] > 0


def binary_sides(
    scores: Scores, target: BinaryTarget, sample_weight: SampleWeight | None = None, *, objective: str
) -> Sides:
    """Split a batch into positives and negatives, and warn once where one of them is missing.

    Args:
        scores: (n,) checked scores.
        target: (n,) in {0, 1}.
        sample_weight: (n,) of each sample.
        objective: what is zero then, for the warning, such as "the AUC loss".

    >>> sides = binary_sides(torch.tensor([0.9, 0.1, 0.5]), torch.tensor([1, 0, 1]), objective="the loss")
    >>> sides.pos, sides.neg
    (tensor([0.9000, 0.5000]), tensor([0.1000]))
    """
    positive = target == 1
    pos, neg = SplitClasses.apply(scores, positive)
    if sample_weight is None:
        sides = Sides(pos, neg, None, None)
    else:
        sides = Sides(pos, neg, sample_weight[positive], sample_weight[~positive])
    if not sides.rankable:
        warn_once(
            f"{objective} is zero on a batch of {pos.shape[0]} positives and {neg.shape[0]} negatives; "
            "`equipoise.data.StratifiedBatchSampler` gives batches with both"
        )
    return sides


def as_probabilities(scores: Scores, from_logits: bool) -> Scores:
    """The sigmoid of logits, or scores that are said to be probabilities.

    Raises:
        ValueError: if these lie outside [0, 1].

    >>> as_probabilities(torch.tensor([0.0]), from_logits=True)
    tensor([0.5000])
    """
    if from_logits:
        return scores.sigmoid()
    check_probabilities("scores", scores)
    return scores
