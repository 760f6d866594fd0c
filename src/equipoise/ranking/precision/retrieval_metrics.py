"""How well embeddings find their own kind: mean average precision and recall at k, each sample a query.

Items of equal similarity share one threshold in the average precision, as in scikit-learn. For recall, items of other
classes come first among equals, so that a tie is never a hit by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.curves.average_precisions import average_precisions
from equipoise.core.metrics import SampleMetric, nan_by_name
from equipoise.core.pairs.means import wide
from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.ranking.precision.retrieval import Embeddings, unit_embeddings

Similarity: TypeAlias = Literal["cosine", "dot", "euclidean"]
NoPositive: TypeAlias = Literal["skip", "error"]
Labels: TypeAlias = Integer[Tensor, " n"] | Bool[Tensor, " n"]

# Similarities that are held at once.
_TABLE = 1 << 24


@checked
def retrieval_metrics(
    embeddings: Embeddings,
    target: Labels,
    *,
    recall_at: Sequence[Count] = (1,),
    similarity: Similarity = "cosine",
    no_positive: NoPositive = "skip",
    gallery: Float[Tensor, "m d"] | None = None,
    gallery_target: Integer[Tensor, " m"] | Bool[Tensor, " m"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Mean average precision and recall@k over all queries.

    Args:
        embeddings: (n, d) queries, and the gallery too where none is given; a query is then left out of its own.
        target: (n,) class of each, any whole numbers.
        recall_at: the k of recall@k: the share of queries with a hit among the first k.
        similarity: "cosine", "dot" or "euclidean" (nearest first).
        no_positive: "skip" leaves out queries whose class is not in the gallery; "error" raises.
        gallery: (m, d) items to be ranked.
        gallery_target: (m,) class of each.

    Returns:
        {"mAP", "recall@k", ...}, float64 scalars. Similarities are computed in blocks of rows, never all at once.

    Raises:
        ValueError: if an embedding has no direction, no k is named, or no query has anything to find.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.6]])
    >>> retrieval_metrics(x, torch.tensor([0, 0, 1, 0]))
    {'mAP': tensor(0.8611, dtype=torch.float64), 'recall@1': tensor(0.6667, dtype=torch.float64)}
    """
    check_recall_at(recall_at)
    if (gallery is None) != (gallery_target is None):
        raise ValueError("gallery and gallery_target must be given together")
    alone = gallery is None
    queries, items = (
        unit_embeddings(x.detach()) if similarity == "cosine" else x.detach()
        for x in (embeddings, embeddings if gallery is None else gallery)
    )
    labels = target if gallery_target is None else gallery_target

    precisions, first_hits = [], []
    step = max(1, _TABLE // max(1, len(items)))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        if similarity == "euclidean":
            # Differences, not inner products, whose digits an offset of the embeddings takes.
            closeness = -torch.cdist(block, items, compute_mode="donot_use_mm_for_euclid_dist")
        else:
            # Rounded once, so that equal items tie wherever they stand; float64 is left alone by autocast.
            closeness = (block.to(wide(block)) @ items.to(wide(items)).T).to(block.dtype)
        relevant = target[start : start + step, None] == labels
        if alone:
            rows = torch.arange(len(block), device=block.device)
            # Last, whatever else is there, and counted as nothing.
            closeness[rows, start + rows] = -torch.inf
            relevant[rows, start + rows] = False
        found = relevant.any(1)
        if no_positive == "error" and not bool(found.all()):
            query = start + int((~found).nonzero()[0])
            raise ValueError(f"query {query} has nothing of its class to find; no_positive='skip' leaves it out")
        closeness, relevant = closeness[found], relevant[found]
        precisions.append(average_precisions(closeness, relevant))
        best = torch.where(relevant, closeness, -torch.inf).amax(1, keepdim=True)
        first_hits.append(((closeness >= best) & ~relevant & closeness.isfinite()).sum(1))
    precision, ahead = torch.cat(precisions), torch.cat(first_hits)
    if not len(precision):
        raise ValueError("no query has anything of its class to find")
    return {"mAP": precision.mean()} | {f"recall@{k}": (ahead < k).double().mean() for k in recall_at}


def check_recall_at(recall_at: Sequence[int]) -> None:
    """Raise `ValueError` if no k is named."""
    if not len(recall_at):
        raise ValueError("recall_at is empty; name at least one k, such as recall_at=(1,)")


class RetrievalMetrics(SampleMetric):
    """Mean average precision and recall@k over embeddings, each a query; see `equipoise.ranking.retrieval_metrics`.

    Args:
        recall_at: as in `retrieval_metrics`.
        similarity: as in `retrieval_metrics`.
        no_positive: as in `retrieval_metrics`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = RetrievalMetrics(recall_at=(1,))
    >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> metric.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]))
    >>> metric.compute()
    {'mAP': tensor(1., dtype=torch.float64), 'recall@1': tensor(1., dtype=torch.float64)}
    """

    kept = ("embeddings", "target")

    @checked
    def __init__(
        self,
        recall_at: Sequence[Count] = (1,),
        *,
        similarity: Similarity = "cosine",
        no_positive: NoPositive = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_recall_at(recall_at)
        self.recall_at, self.similarity, self.no_positive = tuple(recall_at), similarity, no_positive

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name(("mAP", *(f"recall@{k}" for k in self.recall_at)), self.device)

    @checked
    def update(self, embeddings: Embeddings, target: Labels) -> None:
        """Take a batch of embeddings (n, d) and classes (n,)."""
        self.keep(embeddings, target)

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all that was seen."""
        embeddings, target = self.samples()
        return retrieval_metrics(
            embeddings,
            target,
            recall_at=self.recall_at,
            similarity=self.similarity,
            no_positive=self.no_positive,
        )
