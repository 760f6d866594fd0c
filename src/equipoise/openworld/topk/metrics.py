"""How high does the true label stand in the list? Top-k accuracy for every k, and the area under it.

With r the number of other labels that score at least as high as the true one,

    top-k accuracy = mean 1[r < k]          AUTKC@K = 1/K Σ_{k=1..K} top-k accuracy = mean (1 − r/K)₊

Top-k accuracy asks only whether the label is in the list; AUTKC falls as the label moves down in it. Ties count against
the model, so a constant score gets nothing; "half" is the mean over all orders of the tied labels, our extension. A
rank is found by counting, without a sort, and a histogram of ranks holds the values for all k.

Wang et al., "Optimizing Partial Area Under the Top-k Curve: Theory and Practice", TPAMI 2023. The authors give
percentages, here are fractions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.validate import check_choice, check_not_nan

TIES = ("strict", "half")


def true_label_rank(
    scores: Float[Tensor, "n c"], target: Int[Tensor, " n"], *, ties: str = "strict"
) -> Int[Tensor, " n"] | Float[Tensor, " n"]:
    """How many other labels stand before the true one.

    Args:
        scores: (n, C) scores, C >= 2; infinities allowed.
        target: (n,) class indices.
        ties: "strict": every label that scores as high counts (the paper's); "half": a tied label counts one half.

    Returns:
        (n,) int64 ranks from 0 for "strict", float64 for "half".

    Raises:
        TypeError: if the target is not of an integer type.
        ValueError: on wrong shapes, no samples, NaN scores, labels outside [0, C), or an unknown tie rule.

    >>> true_label_rank(torch.tensor([[0.1, 0.7, 0.7], [0.9, 0.0, 0.1]]), torch.tensor([1, 0]))
    tensor([1, 0])
    """
    check_choice("ties", ties, TIES)
    _check(scores, target)
    own = scores.gather(1, target[:, None])
    # Booleans are summed as int32: as int64 they would first be copied to eight bytes each.
    reached = (scores >= own).sum(1, dtype=torch.int32).long() - 1
    if ties == "strict":
        return reached
    above = (scores > own).sum(1, dtype=torch.int32).long()
    return (above + reached).double() / 2


def topk_accuracy(
    scores: Float[Tensor, "n c"], target: Int[Tensor, " n"], k: int, *, ties: str = "strict"
) -> Float[Tensor, ""]:
    """Share of samples whose true label is among the first k, float64.

    Args:
        scores: (n, C).
        target: (n,).
        k: from 1 to C.
        ties: "strict": a tied label counts as standing before the true one; "half": the mean over orders of the ties.

    Raises:
        ValueError: as `true_label_rank`, or if k is not in [1, C].

    >>> topk_accuracy(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]]), torch.tensor([2, 0]), 1)
    tensor(0.5000, dtype=torch.float64)
    """
    return top_k_accuracies(scores, target, k, ties=ties)[-1]


def autkc(
    scores: Float[Tensor, "n c"], target: Int[Tensor, " n"], k: int, *, ties: str = "strict"
) -> Float[Tensor, ""]:
    """AUTKC@K: the normalised area under the top-k curve for k = 1..K, float64 in [0, 1].

    Args:
        scores: (n, C).
        target: (n,).
        k: K, from 1 to C.
        ties: as in `topk_accuracy`.

    Raises:
        ValueError: as `topk_accuracy`.

    >>> autkc(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]), 2)
    tensor(0.5000, dtype=torch.float64)
    """
    return top_k_accuracies(scores, target, k, ties=ties).mean()


def top_k_accuracies(
    scores: Float[Tensor, "n c"], target: Int[Tensor, " n"], k: int | None = None, *, ties: str = "strict"
) -> Float[Tensor, " k"]:
    """Top-k accuracy for k = 1..K, float64; the mean of its first K values is AUTKC@K.

    Args:
        scores: (n, C).
        target: (n,).
        k: K, from 1 to C; C if absent.
        ties: as in `topk_accuracy`.

    Raises:
        ValueError: as `topk_accuracy`.

    >>> top_k_accuracies(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]]), torch.tensor([2, 0]))
    tensor([0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    check_choice("ties", ties, TIES)
    _check(scores, target)
    num_classes = scores.shape[1]
    k = num_classes if k is None else k
    check_list_length(k, num_classes)
    last = true_label_rank(scores, target)
    counts = torch.bincount(last, minlength=num_classes).double()
    if ties == "strict":
        return counts.cumsum(0)[:k] / len(target)
    first = (scores > scores.gather(1, target[:, None])).sum(1)
    # With a labels above and t tied ones, the label is among the first k in (k − a) of the t + 1 orders.
    places = torch.arange(1, k + 1, device=scores.device)
    tied = (last - first + 1).double()
    return ((places - first[:, None]).clamp_min(0) / tied[:, None]).clamp_max(1).mean(0)


def check_list_length(k: int, num_classes: int) -> None:
    """Raise `ValueError` unless k is a whole number in [1, num_classes]."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= num_classes:
        raise ValueError(f"k={k!r} must be in [1, C] = [1, {num_classes}]")


def _check(scores: Tensor, target: Tensor) -> None:
    if scores.ndim != 2 or target.shape != scores.shape[:1] or not len(target):
        raise ValueError(
            f"scores and target must be (n, C) and (n,) with n >= 1, got {tuple(scores.shape)}, {tuple(target.shape)}"
        )
    if scores.shape[1] < 2:
        raise ValueError(f"k must be in [1, C] with C >= 2 classes, got C = {scores.shape[1]}")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target must hold class indices, got {target.dtype}; convert with `.long()`")
    low, high = (int(x) for x in target.aminmax())
    if low < 0 or high >= scores.shape[1]:
        raise ValueError(f"target holds {low if low < 0 else high}; classes are 0 to {scores.shape[1] - 1}")
    check_not_nan("scores", scores)
