"""How well the relevant labels of a sample rank among all labels: TKPR and the measures at K that it stands between.

    TKPR@K = 1/(α K)  Σ_{c relevant}  max(0, K − r_c)          r_c: how many other labels score at least s_c

With α = n, the number of relevant labels, it is the mean over k = 1..K of recall@k, the area under that curve, and for
n = 1 AUTKC@K; its maximum is then below 1 where n > 1. α = 1 gives the mean of k · precision@k, and the ideal α makes a
perfect ranking score 1.

The measures beside it (precision, recall, average precision, NDCG at K; ranking loss, coverage, one-error) come from
the same top K, under one tie rule: among equal scores irrelevant labels come first ("pessimistic", "strict") or last
("optimistic"). scikit-learn's ranking loss counts ties as errors too, but gives samples without a pair 0 and keeps them
in the mean; here they are left out. Its NDCG averages over the orders of ties.

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
from torchmetrics import Metric

from equipoise.core.curves.roc import RocCurve
from equipoise.core.signature import checked
from equipoise.core.types import Count, LabelScores, Real, SampleWeight, Scalar
from equipoise.core.validate import warn_once
from equipoise.openworld.multilabel.labels import (
    LabelMask,
    LabelMatrix,
    Labels,
    Normalizer,
    normalizer_values,
    pack,
    read_labels,
)
from equipoise.openworld.topk.metrics import check_list_length, list_lengths

Ties: TypeAlias = Literal["half", "optimistic", "pessimistic", "strict"]
Order: TypeAlias = Literal["pessimistic", "strict", "optimistic"]
EmptyTarget: TypeAlias = Literal["skip", "raise"]
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
    empty_target: EmptyTarget = "skip",
    mask: LabelMask | None = None,
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """Mean over samples of how far above the end of the top K their relevant labels stand.

    Args:
        scores: (n, C) finite scores, higher for more relevant.
        target: (n, C) in {0, 1}.
        k: K, from 1 to C.
        normalizer: α: "one" (range 0 to m (2K + 1 − m)/(2K), m = min(n, K)), "num_relevant" (the mean of recall@1 to
            recall@K) or "ideal" (1 for a perfect ranking).
        ties: "strict" or "pessimistic": a tie counts against the model; "half": half a place; "optimistic": not at all.
        empty_target: what to do with a sample without relevant labels: "skip", or "raise".
        mask: (n, C), True where the label is known; other labels take no part.
        sample_weight: (n,) non-negative weights of the samples.

    Returns:
        The weighted mean over samples with a relevant label, float64; NaN without any (warned once).

    Raises:
        ValueError: on a bad argument, by name; k may not exceed C; on a sample without relevant labels with
            `empty_target="raise"`.

    >>> tkpr(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=3)
    tensor(0.6667, dtype=torch.float64)
    """
    values = tkpr_per_sample(scores, target, k, normalizer=normalizer, ties=ties, mask=mask)
    return _means({"tkpr": values}, sample_weight, empty_target)["tkpr"]


@checked
def tkpr_per_sample(
    scores: LabelScores,
    target: LabelMatrix,
    k: Count,
    *,
    normalizer: Normalizer = "num_relevant",
    ties: Ties = "strict",
    mask: LabelMask | None = None,
) -> Float[Tensor, " n"]:
    """TKPR@K of every sample, float64; NaN where nothing is relevant. Arguments as in `tkpr`.

    >>> tkpr_per_sample(torch.tensor([[0.9, 0.5], [0.9, 0.5]]), torch.tensor([[0, 1], [0, 0]]), k=2)
    tensor([0.5000,    nan], dtype=torch.float64)
    """
    scores, labels = scores.detach(), read_labels(target, mask)
    check_list_length(k, scores.shape[1])
    observed = scores.masked_fill(~(labels.relevant | labels.irrelevant), -torch.inf)
    # Beyond the first K + 1, only a midrank asks how many labels tie.
    kept = observed.topk(scores.shape[1] if ties == "half" else min(k + 1, scores.shape[1]), dim=1).values
    relevant = pack(labels.relevant)
    mine = -scores.gather(1, relevant.columns)
    above = torch.searchsorted(-kept, mine)
    upto = torch.searchsorted(-kept, mine, right=True) - 1
    offset = {"optimistic": above, "half": (above + upto).double() / 2}.get(ties, upto)
    num_relevant = labels.relevant.sum(1)
    places = ((k - offset).clamp_min(0) * relevant.valid).sum(1).double()
    values = places / (normalizer_values(num_relevant, k, normalizer) * k)
    return values.masked_fill(num_relevant == 0, torch.nan)


@checked
def multilabel_recall_curve(
    scores: LabelScores, target: LabelMatrix, k: Count, *, ties: Order = "pessimistic", mask: LabelMask | None = None
) -> Float[Tensor, " k"]:
    """Recall@1 to recall@K, means over samples with a relevant label, float64; their mean is `tkpr` without ties.

    >>> multilabel_recall_curve(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=3)
    tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    scores, labels = scores.detach(), read_labels(target, mask)
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
    empty_target: EmptyTarget = "skip",
    full: bool = True,
    mask: LabelMask | None = None,
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
        target: (n, C) in {0, 1}.
        k: K, from 1 to C, or several: the names of the first four then end in "@K". Where a mask leaves fewer than K
            labels, precision still divides by K.
        ties: which of equal scores comes first: an irrelevant label ("pessimistic", "strict") or a relevant one
            ("optimistic"). The ranking loss has its own two names.
        empty_target: as in `tkpr`.
        full: whether the last four, which need all labels sorted, are wanted.
        mask: as in `tkpr`.
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
    values = ranking_per_sample(scores, target, k, ties=ties, full=full, mask=mask)
    return _means(values, sample_weight, empty_target)


@checked
def ranking_per_sample(
    scores: LabelScores,
    target: LabelMatrix,
    k: Count | Sequence[Count],
    *,
    ties: Order = "pessimistic",
    full: bool = True,
    mask: LabelMask | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """`multilabel_ranking_metrics` of every sample, float64; NaN where a measure is undefined.

    >>> ranking_per_sample(torch.tensor([[0.9, 0.5]]), torch.tensor([[0, 1]]), 1, full=False)["precision"]
    tensor([0.], dtype=torch.float64)
    """
    scores, labels = scores.detach(), read_labels(target, mask)
    several = list_lengths(k)
    check_list_length(max(several), scores.shape[1])
    n = labels.relevant.sum(1)
    some = n.clamp_min(1)
    hits = _top_hits(scores, labels, max(several), ties).double()
    places = torch.arange(1, max(several) + 1, device=scores.device).double()
    found = hits.cumsum(1)
    precisions = (hits * found / places).cumsum(1)
    discount = 1 / (places + 1).log2()
    gains, ideal = (hits * discount).cumsum(1), discount.cumsum(0)
    values = {}
    for one in several:
        shown = some.clamp_max(one)
        at_k = (
            found[:, one - 1] / one,
            found[:, one - 1] / some,
            precisions[:, one - 1] / shown,
            gains[:, one - 1] / ideal[shown - 1],
        )
        for name, value in zip(_AT_K, at_k, strict=True):
            values[name if isinstance(k, int) else f"{name}@{one}"] = value.masked_fill(n == 0, torch.nan)
    if full:
        values.update(zip(_FULL, _full_ranking(scores, labels, hits[:, 0], ties), strict=True))
    return values


@checked
def class_map(scores: LabelScores, target: LabelMatrix, *, mask: LabelMask | None = None) -> Scalar:
    """Class-wise mAP: the average precision of every label over the samples, averaged over labels.

    Not to be confused with mAP@K, which averages over samples. Equal scores share a step of the curve.

    Args:
        scores: (n, C) finite scores, comparable between samples.
        target: (n, C) in {0, 1}.
        mask: as in `tkpr`.

    Returns:
        The mean over labels that are relevant to some sample, float64; NaN without any (warned once).

    Raises:
        ValueError: as `tkpr`.

    >>> class_map(torch.tensor([[0.9, 0.5], [0.1, 0.6]]), torch.tensor([[1, 1], [0, 0]]))
    tensor(0.7500, dtype=torch.float64)
    """
    labels = read_labels(target, mask)
    values = []
    for column, relevant, irrelevant in zip(scores.T, labels.relevant.T, labels.irrelevant.T, strict=True):
        if bool(relevant.any()):
            known = relevant | irrelevant
            values.append(RocCurve.from_scores(column[known], relevant[known].long()).average_precision())
    if not values:
        warn_once("class_map is undefined: no label is relevant to any sample; it is NaN")
        return torch.full((), torch.nan, dtype=torch.float64, device=scores.device)
    return torch.stack(values).mean().to(scores.device)


@checked
def hamming_loss(
    scores: LabelScores, target: LabelMatrix, *, threshold: Real = 0.0, mask: LabelMask | None = None
) -> Scalar:
    """Share of known labels on the wrong side of a threshold, float64; a score at the threshold means relevant.

    >>> hamming_loss(torch.tensor([[2.0, -1.0, 0.5, -3.0]]), torch.tensor([[1, 0, 0, 0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    labels = read_labels(target, mask)
    chosen = scores >= threshold
    wrong = (chosen & labels.irrelevant) | (~chosen & labels.relevant)
    return wrong.sum().double() / (labels.relevant | labels.irrelevant).sum()


class _MeanOverSamples(Metric):
    """Means of what is judged in every sample, from sums over batches and processes; no scores are kept."""

    is_differentiable = False
    full_state_update = False

    total: Tensor
    weight: Tensor
    num_skipped: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = tuple(names)
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("total", default=zeros, dist_reduce_fx="sum")
        self.add_state("weight", default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("num_skipped", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add(self, values: Mapping[str, Tensor], sample_weight: Tensor | None) -> None:
        """Take the values of a batch; the first is NaN where a sample has no relevant label."""
        sums = [weighted_sums(values[name], sample_weight) for name in self.names]
        self.total += torch.stack([total for total, _ in sums])
        self.weight += torch.stack([weight for _, weight in sums])
        self.num_skipped += values[self.names[0]].isnan().sum()

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
        k: K.
        normalizer: "one", "num_relevant" or "ideal".
        ties: as in `tkpr`.
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
        self, k: Count = 5, normalizer: Normalizer = "num_relevant", *, ties: Ties = "strict", **kwargs: Any
    ) -> None:
        super().__init__(["tkpr"], **kwargs)
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
        values = tkpr_per_sample(scores, target, self.k, normalizer=self.normalizer, ties=self.ties, mask=mask)
        self.add({"tkpr": values}, sample_weight)

    def compute(self) -> Tensor:
        """The mean over samples with a relevant label; NaN without any (warned once)."""
        return self.means()["tkpr"]


class MultilabelRankingMetrics(_MeanOverSamples):
    """`equipoise.openworld.multilabel_ranking_metrics` over all samples seen, a dictionary as there.

    Attributes:
        num_skipped: how many samples had no relevant label.

    Args:
        k: the values of K, or one of them.
        full: whether the measures of the whole ranking are wanted too.
        ties: "pessimistic", "strict" or "optimistic".
        kwargs: of `torchmetrics.Metric`.

    >>> metric = MultilabelRankingMetrics(k=(1, 2), full=False)
    >>> metric.update(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1, 0, 0]]))
    >>> metric.compute()["precision@2"]
    tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    @checked
    def __init__(
        self, k: Count | Sequence[Count] = (3, 5), full: bool = True, *, ties: Order = "pessimistic", **kwargs: Any
    ) -> None:
        at_k = [name if isinstance(k, int) else f"{name}@{one}" for one in list_lengths(k) for name in _AT_K]
        super().__init__([*at_k, *(_FULL if full else ())], **kwargs)
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
        values = ranking_per_sample(scores, target, self.k, ties=self.ties, full=self.full, mask=mask)
        self.add(values, sample_weight)

    def compute(self) -> dict[str, Tensor]:
        """The means by name; NaN (warned once) without a relevant label, and the ranking loss without pairs."""
        return self.means()


def weighted_sums(values: Float[Tensor, " n"], weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weighted sum over values that are not NaN, and their weight."""
    mass = (torch.ones_like(values) if weight is None else weight.to(values.dtype)).masked_fill(values.isnan(), 0.0)
    return (values.nan_to_num(0.0) * mass).sum(), mass.sum()


def _means(values: Mapping[str, Tensor], weight: Tensor | None, empty_target: EmptyTarget) -> dict[str, Tensor]:
    """By name; the first is NaN where a sample has no relevant label."""
    empty = next(iter(values.values())).isnan()
    if empty_target == "raise" and bool(empty.any()):
        raise ValueError(
            f"{int(empty.sum())} sample(s) of target have no relevant label, the first at index "
            f"{int(empty.nonzero()[0])}; drop them, or pass empty_target='skip'"
        )
    found = {}
    for name, value in values.items():
        total, mass = weighted_sums(value, weight)
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
