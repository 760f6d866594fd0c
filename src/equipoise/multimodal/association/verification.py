"""Verification: does a pair of two modalities belong to one identity? The area under the ROC curve over all pairs.

    AUC = #(positive pair scores higher than a negative pair) / #(positive, negative), ties one half

over all pairs of a query and an item: pairs are pooled, not averaged by query. With groups the negative pairs are those
inside a group. The negatives are never held at once: each block of them is sorted, and the positives look up their
place in it.

Wen et al., "Seeking the Shape of Sound: An Adaptive Framework for Learning Voice-Face Association", CVPR 2021: their
protocol, over all pairs in place of a list of them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.ranks import sort_values
from equipoise.core.signature import checked
from equipoise.multimodal.association.metric import AssociationMetric, GalleryIndex, QueryIndex
from equipoise.multimodal.association.pairs import PositivePairs, Sides, positive_pairs, sides


@checked
def verification_auc(
    query: Float[Tensor, "q d"],
    gallery: Float[Tensor, "g d"],
    query_identity: QueryIndex,
    gallery_identity: GalleryIndex,
    query_group: QueryIndex | None = None,
    gallery_group: GalleryIndex | None = None,
) -> Float[Tensor, ""]:
    """The area under the ROC curve over all pairs of a query and an item.

    Args:
        query: (q, d) embeddings of one modality; scores are cosines.
        gallery: (g, d) of the other.
        query_identity: (q,) whole numbers.
        gallery_identity: (g,).
        query_group: (q,) so that only pairs inside a group are compared; a group belongs to an identity.
        gallery_group: (g,).

    Returns:
        A float64 scalar.

    Raises:
        ValueError: if there is no positive or no negative pair, or an identity has two groups.

    >>> face, voice = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> verification_auc(face, voice, torch.arange(2), torch.arange(2))
    tensor(0.8750, dtype=torch.float64)
    """
    both = sides(query, gallery, query_identity, gallery_identity, query_group, gallery_group)
    return area_of_pairs(both, positive_pairs(both))


def area_of_pairs(both: Sides, pairs: PositivePairs) -> Float[Tensor, ""]:
    """The area, from the positive pairs that were found and another pass over the scores."""
    positive = sort_values(pairs.score)
    twice = torch.zeros(len(positive), dtype=torch.long)
    total = 0
    for block in both.blocks():
        ordered = sort_values(block.scores.flatten())
        total += len(ordered)
        twice += torch.searchsorted(ordered, positive) + torch.searchsorted(ordered, positive, right=True)
    # All pairs were counted; the positive ones are taken out again.
    twice -= torch.searchsorted(positive, positive) + torch.searchsorted(positive, positive, right=True)
    return twice.sum().double() / (2 * len(positive) * (total - len(positive)))


class VerificationAUC(AssociationMetric):
    """The area under the ROC curve over all pairs; see `equipoise.multimodal.verification_auc`.

    Args:
        kwargs: of `torchmetrics.Metric`.

    >>> metric = VerificationAUC()
    >>> metric.update(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3))
    >>> metric.compute()
    tensor(1., dtype=torch.float64)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def compute(self) -> Tensor:
        """The area over all that was seen."""
        return verification_auc(*self.samples())
