"""Does a detector take rare labels for unknown? Its measures on the known samples without frequent labels.

With the classes ranked by how many of the known test samples hold them, drop every known sample that holds one of the j
most frequent, and judge what is left against all unknown samples. j = 0 is the usual protocol. A detector that lives on
the frequent labels falls off as j grows.

Li et al., "Unknown-aware Multi-label Learning by Energy Distribution Gap Expansion", AAAI 2025 (EDGE), by the protocol
of the authors' code. There the classes are ranked by hand, and the false-positive rate is taken at the recall closest
to 95 % rather than at the first that reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, MultilabelTarget, Range, RankedScores, Scores, Whole
from equipoise.core.validate import warn_once
from equipoise.openworld.outliers.detection import OOD_MEASURES, ood_metrics
from equipoise.openworld.types import Direction, UnknownScores


@checked
def head_classes(
    class_counts: Annotated[Integer[Tensor, " classes"], Range(0)], num_head: Whole
) -> Int[Tensor, " num_head"]:
    """The most frequent classes, from the first down; of equally frequent ones the lower index comes first.

    Args:
        class_counts: (C,) samples that hold each class.
        num_head: how many, from 0 to C.

    Raises:
        ValueError: on a bad argument, by name.

    >>> head_classes(torch.tensor([3, 5, 5, 1]), 2)
    tensor([1, 2])
    """
    if num_head > len(class_counts):
        raise ValueError(f"num_head={num_head} must be at most {len(class_counts)}, the number of classes")
    return class_counts.sort(descending=True, stable=True).indices[:num_head]


@checked
def tail_ood_metrics(
    id_scores: RankedScores,
    target: MultilabelTarget,
    ood_scores: UnknownScores,
    num_head: Whole,
    *,
    recall: Fraction = 0.95,
    higher_is: Direction = "in",
) -> dict[str, Any]:
    """`ood_metrics` on the known samples that hold none of the most frequent classes.

    Args:
        id_scores: (n,) scores of known samples.
        target: (n, C) their labels in {0, 1}. A sample without labels is kept.
        ood_scores: (m,) scores of unknown samples.
        num_head: j, how many of the most frequent classes to leave out, from 0 to C.
        recall: as in `ood_metrics`.
        higher_is: as in `ood_metrics`.

    Returns:
        `num_head`; `head_classes` (j,), from the most frequent down; `kept` (n,) booleans; `num_kept`; and what
        `ood_metrics` gives, or None for each where no known sample is left (warned once).

    Raises:
        ValueError: on a bad argument, by name.

    >>> labels = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 0]])
    >>> found = tail_ood_metrics(torch.tensor([3.0, 4.0, 1.0, 3.0]), labels, torch.tensor([2.0, 0.0]), num_head=1)
    >>> found["num_kept"], float(found["auroc"])
    (1, 0.5)
    """
    return tail_ood_profile(id_scores, target, ood_scores, [num_head], recall=recall, higher_is=higher_is)[0]


@checked
def tail_ood_profile(
    id_scores: RankedScores,
    target: MultilabelTarget,
    ood_scores: UnknownScores,
    num_heads: Sequence[Whole],
    *,
    recall: Fraction = 0.95,
    higher_is: Direction = "in",
) -> list[dict[str, Any]]:
    """`tail_ood_metrics` for several numbers of left-out classes: how a detector falls off towards the rare labels.

    Args:
        id_scores: as in `tail_ood_metrics`.
        target: as in `tail_ood_metrics`.
        ood_scores: as in `tail_ood_metrics`.
        num_heads: the j. The authors take 0 to 10, 20, 40 and 60 of 80 classes.
        recall: as in `ood_metrics`.
        higher_is: as in `ood_metrics`.

    Returns:
        The result of each j, in their order.

    >>> labels = torch.tensor([[1, 0], [1, 0], [0, 1]])
    >>> profile = tail_ood_profile(torch.tensor([3.0, 4.0, 1.0]), labels, torch.tensor([2.0, 0.0]), [0, 1])
    >>> [round(float(found["auroc"]), 3) for found in profile]
    [0.833, 0.5]
    """
    labels = target == 1
    ranked = head_classes(labels.sum(0), labels.shape[1])
    for num_head in num_heads:
        head_classes(labels.sum(0), num_head)
    # The rank of a sample's most frequent class says up to which j it is kept; C where it has no label.
    rank = torch.empty_like(ranked)
    rank[ranked] = torch.arange(len(ranked), device=ranked.device)
    first = torch.where(labels, rank, len(ranked)).amin(1)
    results = []
    for num_head in num_heads:
        kept = first >= num_head
        num_kept = int(kept.sum())
        found: dict[str, Any] = {
            "num_head": num_head,
            "head_classes": ranked[:num_head],
            "kept": kept,
            "num_kept": num_kept,
        }
        if num_kept:
            found |= ood_metrics(id_scores[kept], ood_scores, recall=recall, higher_is=higher_is)
        else:
            warn_once(f"every known sample holds one of the {num_head} most frequent classes: the metrics are None")
            found |= dict.fromkeys(OOD_MEASURES)
        results.append(found)
    return results


@checked
def class_score_histograms(
    scores: Scores, target: MultilabelTarget, *, bins: Count = 50
) -> tuple[Float[Tensor, " edges"], Int[Tensor, "classes bins"]]:
    """How the scores of the samples that hold a class are spread, one row per class, on common bins.

    Args:
        scores: (n,) finite scores.
        target: (n, C) labels in {0, 1}; a sample counts for each of its labels.
        bins: how many of equal width, from the least score to the highest.

    Returns:
        (bins + 1,) edges in float64, and (C, bins) counts.

    >>> class_score_histograms(torch.tensor([0.0, 1.0, 4.0]), torch.tensor([[1, 0], [1, 1], [0, 1]]), bins=2)[1]
    tensor([[2, 0],
            [1, 1]])
    """
    labels = target == 1
    values = scores.detach().double().cpu().numpy()
    edges = np.histogram_bin_edges(values, bins)
    # A sample in the bin to the left of the first edge above it; the highest score belongs to the last bin.
    place = torch.from_numpy(np.searchsorted(edges, values, side="right") - 1).clamp(0, bins - 1)
    counts = torch.zeros(labels.shape[1], bins, dtype=torch.int64)
    counts.index_add_(1, place, labels.T.cpu().long())
    return torch.from_numpy(edges), counts
