"""Retrieval across modalities: how early the items of a query's identity stand in a ranking of the gallery.

Mean average precision over the queries that have something to find; items of equal score share one threshold, as in
scikit-learn. With groups a query ranks the items of its own group. Within one modality use
`equipoise.ranking.retrieval_metrics`.

Wen et al., "Seeking the Shape of Sound: An Adaptive Framework for Learning Voice-Face Association", CVPR 2021: their
protocol.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.multimodal.association.metric import AssociationMetric, GalleryIndex, QueryIndex
from equipoise.multimodal.association.pairs import PositivePairs, positive_pairs, sides


@checked
def cross_modal_retrieval_map(
    query: Float[Tensor, "q d"],
    gallery: Float[Tensor, "g d"],
    query_identity: QueryIndex,
    gallery_identity: GalleryIndex,
    query_group: QueryIndex | None = None,
    gallery_group: GalleryIndex | None = None,
) -> Float[Tensor, ""]:
    """Mean average precision of finding the items of each query's identity.

    Args:
        query: (q, d) embeddings of one modality; scores are cosines.
        gallery: (g, d) of the other.
        query_identity: (q,) whole numbers; queries without an item of their identity are skipped.
        gallery_identity: (g,).
        query_group: (q,) so that only items of the same group are ranked; a group belongs to an identity.
        gallery_group: (g,).

    Returns:
        A float64 scalar.

    Raises:
        ValueError: if no query has a positive or none a negative, or an identity has two groups.

    >>> face, voice = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.9, 0.1]])
    >>> cross_modal_retrieval_map(face, voice, torch.arange(2), torch.tensor([0, 1, 1]))
    tensor(1., dtype=torch.float64)
    """
    both = sides(query, gallery, query_identity, gallery_identity, query_group, gallery_group)
    return precision_of_pairs(positive_pairs(both))


def precision_of_pairs(pairs: PositivePairs) -> Float[Tensor, ""]:
    """Mean average precision from the counts of the positive pairs."""
    return pairs.mean_of_queries(pairs.reached.double() / (pairs.reached + pairs.above + pairs.tied))


class CrossModalRetrievalMAP(AssociationMetric):
    """Mean average precision across modalities; see `equipoise.multimodal.cross_modal_retrieval_map`.

    Args:
        kwargs: of `torchmetrics.Metric`.

    >>> metric = CrossModalRetrievalMAP()
    >>> metric.update(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3))
    >>> metric.compute()
    tensor(1., dtype=torch.float64)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def compute(self) -> Tensor:
        """The mean over all that was seen."""
        return cross_modal_retrieval_map(*self.samples())
