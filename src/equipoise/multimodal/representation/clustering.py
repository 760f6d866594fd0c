"""How well clusters of embeddings are the classes, without a label in training: what an encoder tells apart by itself.

    accuracy   share of samples in the class that their cluster is matched with, the best matching of one to one
    NMI        2 I(clusters; classes) / (H(clusters) + H(classes))
    ARI        share of pairs on which both agree, 0 on average for random clusters of these sizes, 1 at best

Conventions as in scikit-learn: NMI and ARI of one cluster beside one class are 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.assignment import assign
from equipoise.core.k_means import k_means
from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole


class ClusteringScores(NamedTuple):
    """Agreement of clusters with classes.

    Attributes:
        accuracy: in [0, 1].
        nmi: in [0, 1].
        ari: at most 1, about 0 by chance.
    """

    accuracy: float
    nmi: float
    ari: float


@checked
def clustering_scores(
    assignment: Integer[Tensor, " n"] | Bool[Tensor, " n"], label: Integer[Tensor, " n"] | Bool[Tensor, " n"]
) -> ClusteringScores:
    """The agreement of clusters with classes, in float64.

    Args:
        assignment: (n,) cluster of each sample, any whole numbers.
        label: (n,) class of each sample; there need not be as many as clusters.

    Raises:
        ValueError: if the lengths differ or there is no sample.

    >>> clustering_scores(torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 1]))
    ClusteringScores(accuracy=1.0, nmi=1.0, ari=1.0)
    """
    clusters, rows = assignment.unique(return_inverse=True)
    classes, columns = label.to(assignment.device).unique(return_inverse=True)
    cells = torch.bincount(rows * len(classes) + columns, minlength=len(clusters) * len(classes))
    table = cells.reshape(len(clusters), len(classes)).double().cpu()
    n = len(assignment)
    matched = assign(table.numpy(), maximize=True)
    accuracy = float(table.numpy()[matched].sum() / n)
    share = table / n
    of_clusters, of_classes = share.sum(1), share.sum(0)
    information = float(torch.special.xlogy(share, share / (of_clusters[:, None] * of_classes)).sum())
    entropy = -float(
        torch.special.xlogy(of_clusters, of_clusters).sum() + torch.special.xlogy(of_classes, of_classes).sum()
    )
    nmi = 1.0 if len(clusters) == len(classes) == 1 else 2 * max(information, 0.0) / entropy
    return ClusteringScores(accuracy, min(nmi, 1.0), _ari(table, n))


def _ari(table: Tensor, n: int) -> float:
    """The adjusted Rand index from ordered pairs: together in both, in clusters only, in classes only, in neither."""
    both = float(table.square().sum()) - n
    only_clusters = float(table.sum(1).square().sum()) - n - both
    only_classes = float(table.sum(0).square().sum()) - n - both
    neither = float(n) * n - n - both - only_clusters - only_classes
    if only_clusters == 0 and only_classes == 0:
        return 1.0
    below = (both + only_clusters) * (only_clusters + neither) + (both + only_classes) * (only_classes + neither)
    return 2 * (both * neither - only_clusters * only_classes) / below


@checked
def cluster_embeddings(
    embeddings: Float[Tensor, "n d"],
    label: Integer[Tensor, " n"] | Bool[Tensor, " n"],
    clusters: Count | None = None,
    seed: Whole = 0,
    *,
    normalize: bool = True,
) -> ClusteringScores:
    """The agreement of k-means clusters of embeddings with classes: discriminative ability without a label.

    Args:
        embeddings: (n, d) of an image encoder.
        label: (n,) class of each image.
        clusters: how many; as many as there are classes by default.
        seed: of the starts of k-means, the best of ten.
        normalize: divide each embedding by its norm first, since what is compared by cosine should be clustered by it.

    Raises:
        ValueError: if there are fewer samples than clusters, or the lengths differ.

    >>> cluster_embeddings(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1])).nmi
    1.0
    """
    k = len(label.unique()) if clusters is None else clusters
    if len(embeddings) < k:
        raise ValueError(f"embeddings has {len(embeddings)} samples, fewer than the clusters={k}; use more samples")
    rows = torch.nn.functional.normalize(embeddings, dim=1) if normalize else embeddings
    return clustering_scores(k_means(rows, k, seed).assignment, label)
