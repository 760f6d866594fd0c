"""How well embeddings find their own kind: mean average precision and recall at k, each sample a query.

Items of equal similarity share one threshold in the average precision, as in scikit-learn. For recall, items of other
classes come first among equals, so that a tie is never a hit by luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.validate import check_choice, check_finite
from equipoise.ranking.precision.retrieval import unit_embeddings

SIMILARITIES = ("cosine", "dot", "euclidean")
NO_POSITIVE = ("skip", "error")

# Similarities that are held at once.
_TABLE = 1 << 24


def retrieval_metrics(
    embeddings: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    *,
    recall_at: Sequence[int] = (1,),
    similarity: str = "cosine",
    no_positive: str = "skip",
    gallery: Float[Tensor, "m d"] | None = None,
    gallery_target: Int[Tensor, " m"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Mean average precision and recall@k over all queries.

    Args:
        embeddings: (n, d) queries, and the gallery too where none is given; a query is then left out of its own.
        target: (n,) class of each.
        recall_at: the k of recall@k: the share of queries with a hit among the first k.
        similarity: "cosine", "dot" or "euclidean" (nearest first).
        no_positive: "skip" leaves out queries whose class is not in the gallery; "error" raises.
        gallery: (m, d) items to be ranked.
        gallery_target: (m,) class of each.

    Returns:
        {"mAP", "recall@k", ...}, float64 scalars. Similarities are computed in blocks of rows, never all at once.

    Raises:
        ValueError: on shapes that do not fit, embeddings that are not finite or have no direction, k below 1, or where
            no query has anything to find.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.6]])
    >>> retrieval_metrics(x, torch.tensor([0, 0, 1, 0]))
    {'mAP': tensor(0.8611, dtype=torch.float64), 'recall@1': tensor(0.6667, dtype=torch.float64)}
    """
    check_choice("similarity", similarity, SIMILARITIES)
    check_choice("no_positive", no_positive, NO_POSITIVE)
    if not recall_at or min(recall_at) < 1:
        raise ValueError(f"recall_at={list(recall_at)} must name at least one k, each of at least 1")
    if (gallery is None) != (gallery_target is None):
        raise ValueError("gallery and gallery_target must be given together")
    alone = gallery is None
    gallery = embeddings if gallery is None else gallery
    gallery_target = target if gallery_target is None else gallery_target
    queries, items = (
        _prepared(name, x, y, similarity)
        for name, x, y in (("embeddings", embeddings, target), ("gallery", gallery, gallery_target))
    )
    if queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions and the gallery {items.shape[1]}")

    precisions, first_hits = [], []
    step = max(1, _TABLE // max(1, len(items)))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        closeness = -torch.cdist(block, items) if similarity == "euclidean" else block @ items.T
        relevant = target[start : start + step, None] == gallery_target
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
        precisions.append(_average_precisions(closeness, relevant))
        best = torch.where(relevant, closeness, -torch.inf).amax(1, keepdim=True)
        first_hits.append(((closeness >= best) & ~relevant & closeness.isfinite()).sum(1))
    precision, ahead = torch.cat(precisions), torch.cat(first_hits)
    if not len(precision):
        raise ValueError("no query has anything of its class to find")
    return {"mAP": precision.mean()} | {f"recall@{k}": (ahead < k).double().mean() for k in recall_at}


def _prepared(name: str, x: Tensor, y: Tensor, similarity: str) -> Tensor:
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"{name} and its target must have shapes (n, d) and (n,), got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    check_finite(name, x)
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    return unit_embeddings(wide) if similarity == "cosine" else wide


def _average_precisions(closeness: Tensor, relevant: Tensor) -> Tensor:
    """Of each row: the mean over relevant items of #(relevant as close) / #(items as close)."""
    ordered, order = closeness.sort(1, descending=True)
    hits = relevant.gather(1, order)
    places = torch.arange(closeness.shape[1], device=closeness.device)
    last = torch.ones_like(hits)
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    # The place where a block of equals ends, for each of them.
    ends = torch.where(last, places, closeness.shape[1]).flip(1).cummin(1).values.flip(1)
    precision = hits.cumsum(1).gather(1, ends).double() / (ends + 1)
    return (precision * hits).sum(1) / hits.sum(1)
