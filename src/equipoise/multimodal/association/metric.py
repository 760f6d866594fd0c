"""What the metrics of association share: they keep both sides and their identities, and judge them as a whole."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.metrics import SampleMetric
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex

QueryIndex: TypeAlias = Annotated[Integer[Tensor, " q"] | Bool[Tensor, " q"], ClassIndex(None)]
GalleryIndex: TypeAlias = Annotated[Integer[Tensor, " g"] | Bool[Tensor, " g"], ClassIndex(None)]


class AssociationMetric(SampleMetric):
    """Keeps queries and gallery of all batches and processes; every query is compared with the whole gallery."""

    kept = ("query", "gallery", "query_identity", "gallery_identity", "query_group", "gallery_group")

    @checked
    def update(
        self,
        query: Float[Tensor, "q d"],
        gallery: Float[Tensor, "g d"],
        query_identity: QueryIndex,
        gallery_identity: GalleryIndex,
        query_group: QueryIndex | None = None,
        gallery_group: GalleryIndex | None = None,
    ) -> None:
        """Take embeddings (q, d) of one modality and (g, d) of the other, with identities and perhaps groups.

        Groups are of identities; a batch without groups is of group 0.

        Raises:
            ValueError: if there are groups on one side only.
        """
        if (query_group is None) != (gallery_group is None):
            missing = "query_group" if query_group is None else "gallery_group"
            raise ValueError(f"{missing} is missing; groups are needed on both sides or on neither")
        groups = (
            torch.zeros_like(identity) if group is None else group
            for identity, group in ((query_identity, query_group), (gallery_identity, gallery_group))
        )
        self.keep(query, gallery, query_identity, gallery_identity, *groups)
