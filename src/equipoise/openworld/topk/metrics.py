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

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Count, MayBeInfinite, SampleWeight, Scalar
from equipoise.openworld.types import Ties

RankedClassScores: TypeAlias = Annotated[Float[Tensor, "n classes"], MayBeInfinite()]


@checked
def true_label_rank(
    scores: RankedClassScores, target: ClassTarget, *, ties: Ties = "strict"
) -> Int[Tensor, " n"] | Float[Tensor, " n"]:
    """How many other labels stand before the true one.

    Args:
        scores: (n, C) scores; infinities allowed.
        target: (n,) class indices.
        ties: "strict": every label that scores as high counts (the paper's); "half": a tied label counts one half.

    Returns:
        (n,) int64 ranks from 0 for "strict", float64 for "half".

    Raises:
        ValueError: on a bad argument, by name.

    >>> true_label_rank(torch.tensor([[0.1, 0.7, 0.7], [0.9, 0.0, 0.1]]), torch.tensor([1, 0]))
    tensor([1, 0])
    """
    own = scores.gather(1, target[:, None])
    # Booleans are summed as int32: as int64 they would first be copied to eight bytes each.
    reached = (scores >= own).sum(1, dtype=torch.int32).long() - 1
    if ties == "strict":
        return reached
    above = (scores > own).sum(1, dtype=torch.int32).long()
    return (above + reached).double() / 2


@checked
def topk_accuracy(
    scores: RankedClassScores,
    target: ClassTarget,
    k: Count,
    *,
    ties: Ties = "strict",
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """Share of samples whose true label is among the first k, float64.

    Args:
        scores: (n, C).
        target: (n,).
        k: from 1 to C.
        ties: "strict": a tied label counts as standing before the true one; "half": the mean over orders of the ties.
        sample_weight: (n,) non-negative, how often each sample counts; not all may be 0.

    Raises:
        ValueError: as `true_label_rank`, if no sample has a weight, or if k is not in [1, C].

    >>> topk_accuracy(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]]), torch.tensor([2, 0]), 1)
    tensor(0.5000, dtype=torch.float64)
    """
    return top_k_accuracies(scores, target, k, ties=ties, sample_weight=sample_weight)[-1]


@checked
def autkc(
    scores: RankedClassScores,
    target: ClassTarget,
    k: Count,
    *,
    ties: Ties = "strict",
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """AUTKC@K: the normalised area under the top-k curve for k = 1..K, float64 in [0, 1].

    Args:
        scores: (n, C).
        target: (n,).
        k: K, from 1 to C.
        ties: as in `topk_accuracy`.
        sample_weight: as in `topk_accuracy`.

    Raises:
        ValueError: as `topk_accuracy`.

    >>> autkc(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]), 2)
    tensor(0.5000, dtype=torch.float64)
    """
    return top_k_accuracies(scores, target, k, ties=ties, sample_weight=sample_weight).mean()


@checked
def top_k_accuracies(
    scores: RankedClassScores,
    target: ClassTarget,
    k: Count | None = None,
    *,
    ties: Ties = "strict",
    sample_weight: SampleWeight | None = None,
) -> Float[Tensor, " k"]:
    """Top-k accuracy for k = 1..K, float64; the mean of its first K values is AUTKC@K.

    Args:
        scores: (n, C).
        target: (n,).
        k: K, from 1 to C; C if absent.
        ties: as in `topk_accuracy`.
        sample_weight: as in `topk_accuracy`.

    Raises:
        ValueError: as `topk_accuracy`.

    >>> top_k_accuracies(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]]), torch.tensor([2, 0]))
    tensor([0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    num_classes = scores.shape[1]
    k = num_classes if k is None else k
    check_list_length(k, num_classes)
    weight = torch.ones_like(target, dtype=torch.float64) if sample_weight is None else sample_weight.double()
    if not float(weight.sum()) > 0:
        raise ValueError("sample_weight is 0 for every sample; at least one must count")
    last = true_label_rank(scores, target)
    if ties == "strict":
        return torch.bincount(last, weight, minlength=num_classes).cumsum(0)[:k] / weight.sum()
    first = (scores > scores.gather(1, target[:, None])).sum(1)
    # With a labels above and t tied ones, the label is among the first k in (k − a) of the t + 1 orders.
    places = torch.arange(1, k + 1, device=scores.device)
    tied = (last - first + 1).double()
    share = ((places - first[:, None]).clamp_min(0) / tied[:, None]).clamp_max(1)
    return weight @ share / weight.sum()


class AUTKC(WholeMetric):
    """AUTKC@K and top-K accuracy over all samples seen, for several K at once; one count per length, no scores kept.

    Args:
        k: the values of K, or one of them.
        ties: "strict" or "half", as in `autkc`.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: on a bad setting, by name.

    >>> metric = AUTKC(k=(1, 2))
    >>> metric.update(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]]), torch.tensor([2, 0]))
    >>> {name: float(value) for name, value in metric.compute().items()}
    {'autkc@1': 0.5, 'top_1_accuracy': 0.5, 'autkc@2': 0.75, 'top_2_accuracy': 1.0}
    """

    is_differentiable = False
    higher_is_better = True

    hits: Tensor
    samples: Tensor

    @checked
    def __init__(self, k: Count | Sequence[Count] = 5, *, ties: Ties = "strict", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k, self.ties = list_lengths(k), ties
        self.add_state("hits", default=torch.zeros(max(self.k), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name((name for one in self.k for name in self._names(one)), self.device)

    def update(self, scores: RankedClassScores, target: ClassTarget) -> None:
        """Take a batch of scores (n, C) and class indices (n,).

        Raises:
            ValueError: as `autkc`; also if a K is larger than C.
        """
        self.hits += top_k_accuracies(scores, target, max(self.k), ties=self.ties) * len(target)
        self.samples += len(target)

    def curve(self) -> Tensor:
        """Top-k accuracy for k = 1 to the largest K, float64.

        Raises:
            ValueError: before the first `update`.
        """
        if not self.samples:
            raise ValueError("AUTKC has seen no samples; call update(scores, target) first")
        return self.hits / self.samples

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars "autkc@K" and "top_K_accuracy" for every K."""
        curve = self.curve()
        found: dict[str, Tensor] = {}
        for one in self.k:
            found |= zip(self._names(one), (curve[:one].mean(), curve[one - 1]), strict=True)
        return found

    def _names(self, one: int) -> tuple[str, str]:
        return f"autkc@{one}", f"top_{one}_accuracy"


def list_lengths(k: int | Sequence[int]) -> tuple[int, ...]:
    """One K or several as several; `ValueError` if there is none."""
    several = (k,) if isinstance(k, int) else tuple(k)
    if not several:
        raise ValueError("k holds no value; give at least one K")
    return several


def check_list_length(k: int, num_classes: int) -> None:
    """Raise `ValueError` if a list is longer than there are classes to stand in it."""
    if k > num_classes:
        raise ValueError(f"k={k} must be at most {num_classes}")
