"""How well the relevant labels of a sample rank among all labels: TKPR and the measures at K that it stands between.

    TKPR@K = 1/(α K)  Σ_{c relevant}  max(0, K − r_c)          r_c: how many other labels score at least s_c

With α = n, the number of relevant labels, it is the mean over k = 1..K of recall@k, the area under that curve, and for
n = 1 AUTKC@K; its maximum is then below 1 where n > 1. α = 1 gives the mean of k · precision@k, and the ideal α makes a
perfect ranking score 1.

The measures beside it (precision, recall, average precision, NDCG at K; ranking loss, coverage, one-error) come from
the same top K, under one tie rule: among equal scores irrelevant labels come first ("pessimistic", "strict") or last
("optimistic"). scikit-learn's ranking loss counts ties as errors too, but gives samples without a pair 0 and keeps them
in the mean; here they are left out. Its NDCG averages over the orders of ties.

The mean of measures is over samples. `average="micro"` is the ratio of sums instead: a sample counts by the divisor of
its measure, such as its n relevant labels for the recall. Labels are unknown where the target is NaN or `ignore_index`,
or the mask is False.

A sample without a relevant label has no ranking to judge: it is skipped, and `MultilabelRankingMetrics` counts it.

Wang et al., "Top-K Pairwise Ranking: Bridging the Gap Among Ranking-Based Measures for Multi-Label Classification",
IJCV 2024; reconstructed from the abstract and the authors' AUTKC, the three α included. The definitions of the other
measures are fixed here, AP@K with the divisor min(n, K) of code by the same group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.labels import LabelMask, LabelMatrix, Labels, read_labels
from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import Count, LabelScores, SampleWeight, Scalar
from equipoise.core.validate import warn_once
from equipoise.openworld.multilabel.labels import (
    Normalizer,
    normalizer_values,
    pack,
)
from equipoise.openworld.topk.metrics import check_list_length, list_lengths

Ties: TypeAlias = Literal["half", "optimistic", "pessimistic", "strict"]
Order: TypeAlias = Literal["pessimistic", "strict", "optimistic"]
EmptyTarget: TypeAlias = Literal["skip", "raise"]
Average: TypeAlias = Literal["samples", "micro"]
Judged: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""Name → the values of a measure, NaN where it is undefined, and their divisors."""
_AT_K = ("precision", "recall", "average_precision", "ndcg")
_FULL = ("ranking_loss", "ranking_loss_half_ties", "coverage", "one_error")


@checked
def tkpr(
    scores: LabelScores,
    target: LabelMatrix,
    k: Count,
    *,
    normalizer: Normalizer = "num_relevant",
    ties: Ties = "strict",
    average: Average = "samples",
    empty_target: EmptyTarget = "skip",
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """Mean over samples of how far above the end of the top K their relevant labels stand.

    Args:
        scores: (n, C) finite scores, higher for more relevant.
        target: (n, C) in {0, 1}, NaN where unknown.
        k: K, from 1 to C; for several at once see `TKPR`.
        normalizer: α: "one" (range 0 to m (2K + 1 − m)/(2K), m = min(n, K)), "num_relevant" (the mean of recall@1 to
            recall@K) or "ideal" (1 for a perfect ranking).
        ties: "strict" or "pessimistic": a tie counts against the model; "half": half a place; "optimistic": not at all.
        average: "samples" for the mean over samples, "micro" for the ratio of sums: a sample counts by its α.
        empty_target: what to do with a sample without relevant labels: "skip", or "raise".
        mask: (n, C), True where the label is known; other labels take no part.
        ignore_index: what marks unknown labels in the target, such as −1.
        sample_weight: (n,) non-negative weights of the samples.

    Returns:
        The weighted mean over samples with a relevant label, float64; NaN without any (warned once).

    Raises:
        ValueError: on a bad argument, by name; k may not exceed C; on a sample without relevant labels with
            `empty_target="raise"`.

    >>> tkpr(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=3)
    tensor(0.6667, dtype=torch.float64)
    """
    judged = _tkpr(scores, read_labels(target, mask, ignore_index), (k,), normalizer, ties)
    return _means({"tkpr": judged[f"tkpr@{k}"]}, average, sample_weight, empty_target)["tkpr"]


@checked
def tkpr_per_sample(
    scores: LabelScores,
    target: LabelMatrix,
    k: Count,
    *,
    normalizer: Normalizer = "num_relevant",
    ties: Ties = "strict",
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
) -> Float[Tensor, " n"]:
    """TKPR@K of every sample, float64; NaN where nothing is relevant. Arguments as in `tkpr`.

    >>> tkpr_per_sample(torch.tensor([[0.9, 0.5], [0.9, 0.5]]), torch.tensor([[0, 1], [0, 0]]), k=2)
    tensor([0.5000,    nan], dtype=torch.float64)
    """
    return _tkpr(scores, read_labels(target, mask, ignore_index), (k,), normalizer, ties)[f"tkpr@{k}"][0]


def _tkpr(scores: Tensor, labels: Labels, several: Sequence[int], normalizer: Normalizer, ties: Ties) -> Judged:
    scores, longest = scores.detach(), max(several)
    check_list_length(longest, scores.shape[1])
    observed = scores.masked_fill(~(labels.relevant | labels.irrelevant), -torch.inf)
    # Beyond the first K + 1, only a midrank asks how many labels tie.
    kept = observed.topk(scores.shape[1] if ties == "half" else min(longest + 1, scores.shape[1]), dim=1).values
    relevant = pack(labels.relevant)
    mine = -scores.gather(1, relevant.columns)
    above = torch.searchsorted(-kept, mine)
    upto = torch.searchsorted(-kept, mine, right=True) - 1
    offset = {"optimistic": above, "half": (above + upto).double() / 2}.get(ties, upto)
    num_relevant = labels.relevant.sum(1)
    judged = {}
    for k in several:
        places = ((k - offset).clamp_min(0) * relevant.valid).sum(1).double()
        divisor = normalizer_values(num_relevant, k, normalizer)
        judged[f"tkpr@{k}"] = (places / (divisor * k)).masked_fill(num_relevant == 0, torch.nan), divisor
    return judged


@checked
def multilabel_recall_curve(
    scores: LabelScores,
    target: LabelMatrix,
    k: Count,
    *,
    ties: Order = "pessimistic",
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
) -> Float[Tensor, " k"]:
    """Recall@1 to recall@K, means over samples with a relevant label, float64; their mean is `tkpr` without ties.

    >>> multilabel_recall_curve(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=3)
    tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    scores, labels = scores.detach(), read_labels(target, mask, ignore_index)
    check_list_length(k, scores.shape[1])
    num_relevant = labels.relevant.sum(1)
    recall = _top_hits(scores, labels, k, ties).double().cumsum(1) / num_relevant.clamp_min(1)[:, None]
    some = num_relevant > 0
    if not bool(some.any()):
        warn_once("the recall curve is undefined: no sample has a relevant label; it is NaN")
    return recall[some].mean(0)


@checked
def multilabel_ranking_metrics(
    scores: LabelScores,
    target: LabelMatrix,
    k: Count | Sequence[Count],
    *,
    ties: Order = "pessimistic",
    average: Average = "samples",
    empty_target: EmptyTarget = "skip",
    full: bool = True,
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
    sample_weight: SampleWeight | None = None,
) -> dict[str, Scalar]:
    """The measures of a ranking of labels, means over samples, from one pass over the top K.

    With rel_k = 1 where the label at position k is relevant, n relevant and m irrelevant labels:

        precision            hits in the top K / K
        recall               hits in the top K / n
        average_precision    1/min(n, K) Σ_{k ≤ K} rel_k · precision@k          the mean over samples is mAP@K
        ndcg                 Σ_{k ≤ K} rel_k / log₂(k + 1), over the same of a perfect ranking
        ranking_loss         share of the n m pairs in which the irrelevant label scores at least as high
        ranking_loss_half_ties   the same, a tie counting one half
        coverage             how far down the ranking the last relevant label stands (1 is the top)
        one_error            share of samples whose first label is irrelevant

    Args:
        scores: (n, C) finite scores.
        target: as in `tkpr`.
        k: K, from 1 to C, or several: the names of the first four then end in "@K". Where a mask leaves fewer than K
            labels, precision still divides by K.
        ties: which of equal scores comes first: an irrelevant label ("pessimistic", "strict") or a relevant one
            ("optimistic"). The ranking loss has its own two names.
        average: as in `tkpr`. For "micro" a sample counts n times in the recall, min(n, K) times in the average
            precision, by the gain of a perfect ranking in NDCG, n m times in the ranking loss and once in the others.
        empty_target: as in `tkpr`.
        full: whether the last four, which need all labels sorted, are wanted.
        mask: as in `tkpr`.
        ignore_index: as in `tkpr`.
        sample_weight: as in `tkpr`.

    Returns:
        float64 by name. Samples without a relevant label are left out, and for the ranking loss those without an
        irrelevant one. NaN (warned once) where no sample is left.

    Raises:
        ValueError: as `tkpr`.

    >>> found = multilabel_ranking_metrics(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=2)
    >>> found["precision"], found["average_precision"], found["ranking_loss"]
    (tensor(0.5000, dtype=torch.float64), tensor(0.5000, dtype=torch.float64), tensor(0.2500, dtype=torch.float64))
    """
    return _means(
        _ranking(scores, read_labels(target, mask, ignore_index), k, ties, full), average, sample_weight, empty_target
    )


@checked
def ranking_per_sample(
    scores: LabelScores,
    target: LabelMatrix,
    k: Count | Sequence[Count],
    *,
    ties: Order = "pessimistic",
    full: bool = True,
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """`multilabel_ranking_metrics` of every sample, float64; NaN where a measure is undefined.

    >>> ranking_per_sample(torch.tensor([[0.9, 0.5]]), torch.tensor([[0, 1]]), 1, full=False)["precision"]
    tensor([0.], dtype=torch.float64)
    """
    judged = _ranking(scores, read_labels(target, mask, ignore_index), k, ties, full)
    return {name: values for name, (values, _) in judged.items()}


def _ranking(scores: Tensor, labels: Labels, k: int | Sequence[int], ties: Order, full: bool) -> Judged:
    scores, several = scores.detach(), list_lengths(k)
    check_list_length(max(several), scores.shape[1])
    n = labels.relevant.sum(1)
    some = n.clamp_min(1)
    once = torch.ones_like(n, dtype=torch.float64)
    hits = _top_hits(scores, labels, max(several), ties).double()
    places = torch.arange(1, max(several) + 1, device=scores.device).double()
    found = hits.cumsum(1)
    precisions = (hits * found / places).cumsum(1)
    discount = 1 / (places + 1).log2()
    gains, ideal = (hits * discount).cumsum(1), discount.cumsum(0)
    judged = {}
    for one in several:
        shown = some.clamp_max(one)
        at_k = (
            (found[:, one - 1] / one, once),
            (found[:, one - 1] / some, some),
            (precisions[:, one - 1] / shown, shown),
            (gains[:, one - 1] / ideal[shown - 1], ideal[shown - 1]),
        )
        for name, (value, divisor) in zip(_AT_K, at_k, strict=True):
            judged[name if isinstance(k, int) else f"{name}@{one}"] = value.masked_fill(n == 0, torch.nan), divisor
    if full:
        pairs = n * labels.irrelevant.sum(1)
        values = _full_ranking(scores, labels, hits[:, 0], ties)
        judged.update(zip(_FULL, zip(values, (pairs, pairs, once, once), strict=True), strict=True))
    return judged


class _MeanOverSamples(WholeMetric):
    """Means of what is judged in every sample, from sums over batches and processes; no scores are kept."""

    is_differentiable = False

    total: Tensor
    weight: Tensor
    num_skipped: Tensor

    def __init__(self, names: Sequence[str], average: Average, ignore_index: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names, self.average, self.ignore_index = tuple(names), average, ignore_index
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("total", default=zeros, dist_reduce_fx="sum")
        self.add_state("weight", default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("num_skipped", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add(self, judged: Judged, sample_weight: Tensor | None) -> None:
        """Take the values of a batch; the first is NaN where a sample has no relevant label."""
        sums = [
            weighted_sums(judged[name][0], _mass(judged[name][1], self.average, sample_weight)) for name in self.names
        ]
        self.total += torch.stack([total for total, _ in sums])
        self.weight += torch.stack([weight for _, weight in sums])
        self.num_skipped += judged[self.names[0]][0].isnan().sum()

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name(self.names, self.device)

    def means(self) -> dict[str, Tensor]:
        """By name."""
        if not bool(self.weight[0] > 0):
            warn_once(f"{type(self).__name__} is undefined: no sample has a relevant label; it is NaN")
        return dict(zip(self.names, self.total / self.weight, strict=True))


class TKPR(_MeanOverSamples):
    """TKPR@K over all samples seen; see `equipoise.openworld.tkpr`.

    Attributes:
        num_skipped: how many samples had no relevant label.

    Args:
        k: K, or several.
        normalizer: "one", "num_relevant" or "ideal".
        ties: as in `tkpr`.
        average: "samples" or "micro", as in `tkpr`.
        ignore_index: as in `tkpr`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = TKPR(k=2)
    >>> metric.update(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1, 0, 0]]))
    >>> metric.update(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0, 1, 0]]))
    >>> metric.compute()
    tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = True
    plot_lower_bound = 0.0

    @checked
    def __init__(
        self,
        k: Count | Sequence[Count] = 5,
        normalizer: Normalizer = "num_relevant",
        *,
        ties: Ties = "strict",
        average: Average = "samples",
        ignore_index: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__([f"tkpr@{one}" for one in list_lengths(k)], average, ignore_index, **kwargs)
        self.k, self.normalizer, self.ties = k, normalizer, ties

    @checked
    def update(
        self,
        scores: LabelScores,
        target: LabelMatrix,
        mask: LabelMask | None = None,
        sample_weight: SampleWeight | None = None,
    ) -> None:
        """Take a batch of scores (n, C) and targets (n, C); `mask` and `sample_weight` as in `tkpr`."""
        labels = read_labels(target, mask, self.ignore_index)
        self.add(_tkpr(scores, labels, list_lengths(self.k), self.normalizer, self.ties), sample_weight)

    def nothing(self) -> Any:
        """NaN, by name of several K."""
        return WholeMetric.nothing(self) if isinstance(self.k, int) else super().nothing()

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The mean over samples with a relevant label, NaN without any (warned once); "tkpr@K" → mean of several K."""
        means = self.means()
        return means[f"tkpr@{self.k}"] if isinstance(self.k, int) else means


class MultilabelRankingMetrics(_MeanOverSamples):
    """`equipoise.openworld.multilabel_ranking_metrics` over all samples seen, a dictionary as there.

    Attributes:
        num_skipped: how many samples had no relevant label.

    Args:
        k: the values of K, or one of them.
        full: whether the measures of the whole ranking are wanted too.
        ties: "pessimistic", "strict" or "optimistic".
        average: "samples" or "micro", as in `tkpr`.
        ignore_index: as in `tkpr`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = MultilabelRankingMetrics(k=(1, 2), full=False)
    >>> metric.update(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1, 0, 0]]))
    >>> metric.compute()["precision@2"]
    tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    @checked
    def __init__(
        self,
        k: Count | Sequence[Count] = (3, 5),
        full: bool = True,
        *,
        ties: Order = "pessimistic",
        average: Average = "samples",
        ignore_index: int | None = None,
        **kwargs: Any,
    ) -> None:
        at_k = [name if isinstance(k, int) else f"{name}@{one}" for one in list_lengths(k) for name in _AT_K]
        super().__init__([*at_k, *(_FULL if full else ())], average, ignore_index, **kwargs)
        self.k, self.full, self.ties = k, full, ties

    @checked
    def update(
        self,
        scores: LabelScores,
        target: LabelMatrix,
        mask: LabelMask | None = None,
        sample_weight: SampleWeight | None = None,
    ) -> None:
        """Take a batch of scores (n, C) and targets (n, C); `mask` and `sample_weight` as in `tkpr`."""
        labels = read_labels(target, mask, self.ignore_index)
        self.add(_ranking(scores, labels, self.k, self.ties, self.full), sample_weight)

    def compute(self) -> dict[str, Tensor]:
        """The means by name; NaN (warned once) without a relevant label, and the ranking loss without pairs."""
        return self.means()


def weighted_sums(values: Float[Tensor, " n"], weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weighted sum over values that are not NaN, and their weight."""
    mass = (torch.ones_like(values) if weight is None else weight.to(values.dtype)).masked_fill(values.isnan(), 0.0)
    return (values.nan_to_num(0.0) * mass).sum(), mass.sum()


def _mass(divisor: Tensor, average: Average, weight: Tensor | None) -> Tensor | None:
    """How much each sample counts; None for once."""
    if average == "samples":
        return weight
    return divisor.double() if weight is None else divisor * weight.double()


def _means(judged: Judged, average: Average, weight: Tensor | None, empty_target: EmptyTarget) -> dict[str, Tensor]:
    """By name; the first is NaN where a sample has no relevant label."""
    empty = next(iter(judged.values()))[0].isnan()
    if empty_target == "raise" and bool(empty.any()):
        raise ValueError(
            f"{int(empty.sum())} sample(s) of target have no relevant label, the first at index "
            f"{int(empty.nonzero()[0])}; drop them, or pass empty_target='skip'"
        )
    found = {}
    for name, (values, divisor) in judged.items():
        total, mass = weighted_sums(values, _mass(divisor, average, weight))
        found[name] = total / mass
    undefined = [name for name, value in found.items() if bool(value.isnan())]
    if undefined:
        warn_once(f"undefined, hence NaN, as no sample has the labels that they compare: {', '.join(undefined)}")
    return found


def _top_hits(scores: Tensor, labels: Labels, k: int, ties: Order) -> Tensor:
    """(n, k) whether the label at each position of the ranking is relevant."""
    sides = []
    for chosen in (labels.irrelevant, labels.relevant):
        best = scores.masked_fill(~chosen, -torch.inf).topk(k, dim=1).values
        sides.append((best, (best > -torch.inf) & (chosen is labels.relevant)))
    if ties == "optimistic":
        sides.reverse()
    # A stable sort of both sides' best K leaves equal scores in the order of the sides.
    best, hits = (torch.cat(parts, 1) for parts in zip(*sides, strict=True))
    return hits.gather(1, best.sort(dim=1, descending=True, stable=True).indices[:, :k])


def _full_ranking(scores: Tensor, labels: Labels, first_hit: Tensor, ties: Order) -> tuple[Tensor, ...]:
    n, m = labels.relevant.sum(1), labels.irrelevant.sum(1)
    relevant = pack(labels.relevant)
    others = scores.masked_fill(~labels.irrelevant, -torch.inf).sort(1).values
    mine = scores.gather(1, relevant.columns)
    at_least, above = (
        ((scores.shape[1] - torch.searchsorted(others, mine, right=right)) * relevant.valid).sum(1).double()
        for right in (False, True)
    )
    pairs = (n * m).double().masked_fill(n * m == 0, torch.nan)
    lowest = scores.masked_fill(~labels.relevant, torch.inf).amin(1, keepdim=True)
    ahead = (scores > lowest) if ties == "optimistic" else (scores >= lowest)
    # Relevant labels that tie with the lowest all stand before it, whichever tie rule holds.
    coverage = ((ahead & labels.irrelevant).sum(1) + n).double().masked_fill(n == 0, torch.nan)
    one_error = (1 - first_hit).masked_fill(n == 0, torch.nan)
    return at_least / pairs, (at_least + above) / 2 / pairs, coverage, one_error
