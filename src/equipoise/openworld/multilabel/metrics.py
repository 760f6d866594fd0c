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

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from equipoise.core.curves.ranks import TIES
from equipoise.core.curves.roc import RocCurve
from equipoise.core.validate import check_choice, check_finite, check_weights, warn_once
from equipoise.openworld.multilabel.labels import (
    NORMALIZERS,
    LabelMatrix,
    Labels,
    check_k,
    normalizer_values,
    pack,
    read_labels,
)

ORDERS = ("pessimistic", "strict", "optimistic")
EMPTY_TARGET = ("skip", "raise")
_AT_K = ("precision", "recall", "average_precision", "ndcg")
_FULL = ("ranking_loss", "ranking_loss_half_ties", "coverage", "one_error")

Scores = Num[Tensor, "n c"]
Mask = Bool[Tensor, "n c"] | None
Weight = Float[Tensor, " n"] | None


def tkpr(
    scores: Scores,
    target: LabelMatrix,
    k: int,
    *,
    normalizer: str = "num_relevant",
    ties: str = "strict",
    empty_target: str = "skip",
    mask: Mask = None,
    sample_weight: Weight = None,
) -> Float[Tensor, ""]:
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
        The weighted mean over samples with a relevant label; NaN without any (warned once).

    Raises:
        ValueError: on wrong shapes, scores that are not finite, targets other than 0 and 1, k outside 1..C, an unknown
            choice, or a sample without relevant labels where `empty_target="raise"`.

    >>> tkpr(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=3)
    tensor(0.6667)
    """
    values = tkpr_per_sample(scores, target, k, normalizer=normalizer, ties=ties, mask=mask)
    return weighted_mean(values, sample_weight, "tkpr", empty_target).to(_dtype(scores))


def tkpr_per_sample(
    scores: Scores,
    target: LabelMatrix,
    k: int,
    *,
    normalizer: str = "num_relevant",
    ties: str = "strict",
    mask: Mask = None,
) -> Float[Tensor, " n"]:
    """TKPR@K of every sample, float64; NaN where nothing is relevant. Arguments as in `tkpr`.

    >>> tkpr_per_sample(torch.tensor([[0.9, 0.5], [0.9, 0.5]]), torch.tensor([[0, 1], [0, 0]]), k=2)
    tensor([0.5000,    nan], dtype=torch.float64)
    """
    check_choice("normalizer", normalizer, NORMALIZERS)
    check_choice("ties", ties, TIES)
    scores, labels = _read(scores, target, mask)
    check_k(k, scores.shape[1])
    observed = scores.masked_fill(~(labels.relevant | labels.irrelevant), -torch.inf)
    # Beyond the first K + 1, only a midrank asks how many labels tie.
    kept = observed.topk(scores.shape[1] if ties == "half" else min(k + 1, scores.shape[1]), dim=1).values
    relevant = pack(labels.relevant)
    mine = -scores.gather(1, relevant.columns)
    above = torch.searchsorted(-kept, mine)
    upto = torch.searchsorted(-kept, mine, right=True) - 1
    offset = {"optimistic": above, "half": (above + upto) / 2}.get(ties, upto)
    num_relevant = labels.relevant.sum(1)
    places = ((k - offset).clamp_min(0) * relevant.valid).sum(1).double()
    values = places / (normalizer_values(num_relevant, k, normalizer) * k)
    return values.masked_fill(num_relevant == 0, torch.nan)


def multilabel_recall_curve(
    scores: Scores, target: LabelMatrix, k: int, *, ties: str = "pessimistic", mask: Mask = None
) -> Float[Tensor, " k"]:
    """Recall@1 to recall@K, means over samples with a relevant label; their mean is `tkpr` where no scores tie.

    >>> multilabel_recall_curve(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=3)
    tensor([0.5000, 0.5000, 1.0000])
    """
    check_choice("ties", ties, ORDERS)
    scores, labels = _read(scores, target, mask)
    check_k(k, scores.shape[1])
    num_relevant = labels.relevant.sum(1)
    recall = _top_hits(scores, labels, k, ties).cumsum(1) / num_relevant.clamp_min(1)[:, None]
    some = num_relevant > 0
    if not bool(some.any()):
        warn_once("the recall curve is undefined: no sample has a relevant label; it is NaN")
    return recall[some].mean(0).to(_dtype(scores))


def multilabel_ranking_metrics(
    scores: Scores,
    target: LabelMatrix,
    k: int | Sequence[int],
    *,
    ties: str = "pessimistic",
    empty_target: str = "skip",
    full: bool = True,
    mask: Mask = None,
    sample_weight: Weight = None,
) -> dict[str, Float[Tensor, ""]]:
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
        The measures by name. Samples without a relevant label are left out, and for the ranking loss those without an
        irrelevant one. NaN (warned once) where no sample is left.

    Raises:
        ValueError: as `tkpr`.

    >>> found = multilabel_ranking_metrics(torch.tensor([[0.9, 0.5, 0.1, 0.0]]), torch.tensor([[1, 0, 1, 0]]), k=2)
    >>> found["precision"], found["average_precision"], found["ranking_loss"]
    (tensor(0.5000), tensor(0.5000), tensor(0.2500))
    """
    values = ranking_per_sample(scores, target, k, ties=ties, full=full, mask=mask)
    return {
        name: weighted_mean(
            value,
            sample_weight,
            name,
            # Without an irrelevant label there is no pair, which is not the fault of an empty target.
            "skip" if name.startswith("ranking_loss") else empty_target,
        ).to(_dtype(scores))
        for name, value in values.items()
    }


def ranking_per_sample(
    scores: Scores,
    target: LabelMatrix,
    k: int | Sequence[int],
    *,
    ties: str = "pessimistic",
    full: bool = True,
    mask: Mask = None,
) -> dict[str, Float[Tensor, " n"]]:
    """`multilabel_ranking_metrics` of every sample, float64; NaN where a measure is undefined.

    >>> ranking_per_sample(torch.tensor([[0.9, 0.5]]), torch.tensor([[0, 1]]), 1, full=False)["precision"]
    tensor([0.], dtype=torch.float64)
    """
    check_choice("ties", ties, ORDERS)
    scores, labels = _read(scores, target, mask)
    several = [k] if isinstance(k, int) else list(k)
    if not several:
        raise ValueError("k holds no value; give at least one K")
    for one in several:
        check_k(one, scores.shape[1])
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


def class_map(scores: Scores, target: LabelMatrix, *, mask: Mask = None) -> Float[Tensor, ""]:
    """Class-wise mAP: the average precision of every label over the samples, averaged over labels.

    Not to be confused with mAP@K, which averages over samples. Equal scores share a step of the curve.

    Args:
        scores: (n, C) finite scores, comparable between samples.
        target: (n, C) in {0, 1}.
        mask: as in `tkpr`.

    Returns:
        The mean over labels that are relevant to some sample; NaN without any (warned once).

    Raises:
        ValueError: as `tkpr`.

    >>> class_map(torch.tensor([[0.9, 0.5], [0.1, 0.6]]), torch.tensor([[1, 1], [0, 0]]))
    tensor(0.7500)
    """
    scores, labels = _read(scores, target, mask)
    values = []
    for column, relevant, irrelevant in zip(scores.T, labels.relevant.T, labels.irrelevant.T, strict=True):
        if bool(relevant.any()):
            known = relevant | irrelevant
            values.append(RocCurve.from_scores(column[known], relevant[known].long()).average_precision())
    if not values:
        warn_once("class_map is undefined: no label is relevant to any sample; it is NaN")
        return torch.full((), torch.nan, dtype=_dtype(scores), device=scores.device)
    return torch.stack(values).mean().to(_dtype(scores)).to(scores.device)


def hamming_loss(
    scores: Scores, target: LabelMatrix, *, threshold: float = 0.0, mask: Mask = None
) -> Float[Tensor, ""]:
    """Share of known labels on the wrong side of a threshold; a score at the threshold is taken for relevant.

    >>> hamming_loss(torch.tensor([[2.0, -1.0, 0.5, -3.0]]), torch.tensor([[1, 0, 0, 0]]))
    tensor(0.2500)
    """
    check_finite("threshold", torch.tensor(float(threshold)))
    scores, labels = _read(scores, target, mask)
    chosen = scores >= threshold
    wrong = (chosen & labels.irrelevant) | (~chosen & labels.relevant)
    return (wrong.sum() / (labels.relevant | labels.irrelevant).sum()).to(_dtype(scores))


def weighted_mean(
    values: Float[Tensor, " n"], weight: Weight, name: str, empty_target: str = "skip"
) -> Float[Tensor, ""]:
    """The mean over values that are not NaN."""
    check_choice("empty_target", empty_target, EMPTY_TARGET)
    defined = ~values.isnan()
    if empty_target == "raise" and not bool(defined.all()):
        rows = (~defined).nonzero()
        raise ValueError(
            f"{len(rows)} sample(s) have no relevant label, the first at index {int(rows[0])}; drop them, or pass "
            "empty_target='skip'"
        )
    total, mass = weighted_sums(values, weight)
    if not bool(mass > 0):
        warn_once(f"{name} is undefined: no sample has the labels that it compares; it is NaN")
    return total / mass


def weighted_sums(values: Float[Tensor, " n"], weight: Weight) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The weighted sum over values that are not NaN, and their weight."""
    if weight is None:
        weight = torch.ones_like(values)
    check_weights("sample_weight", weight, values)
    mass = torch.where(values.isnan(), 0.0, weight.to(values.dtype))
    return (values.nan_to_num(0.0) * mass).sum(), mass.sum()


def _read(scores: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Labels]:
    scores = scores.detach()
    if scores.dtype != torch.float64:
        # Whole numbers of more than 24 bits would tie in float32.
        scores = scores.double() if not scores.is_floating_point() else scores.float()
    return scores, read_labels(scores, target, mask)


def _dtype(scores: Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def _top_hits(scores: Tensor, labels: Labels, k: int, ties: str) -> Tensor:
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


def _full_ranking(scores: Tensor, labels: Labels, first_hit: Tensor, ties: str) -> tuple[Tensor, ...]:
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
