"""Ranking metrics as functions of scores and targets.

With s⁺ a positive's and s⁻ a negative's score, a tie counting one half:

    AUROC              P(s⁺ > s⁻)
    OPAUC(b)           area under the ROC curve over FPR ∈ [0, b]                    one-way partial AUC
    TPAUC(b, t)        area over FPR ≤ b that lies above TPR = t                     two-way partial AUC
    partial_auroc      P(s⁺ > s⁻) for the lowest-scored positives and highest-scored negatives only
    average precision  Σ (recall step) · precision
    MAUC               mean over ordered class pairs (i, j) of P(s_i(x) > s_i(x')), x of class i, x' of class j

The two ways to say "partial" differ. The area integrates the ROC polygon exactly. The papers select ⌊fraction · n⌋
samples of each class and take the AUROC of what is left, which drops the fractional sample; both agree, normalised,
where the counts are whole and no tie block is cut. A fraction `pos_frac` of positives kept is the region
TPR ≥ 1 − pos_frac.

Every function counts in whole numbers and float64, and returns float64 for float64 scores and float32 otherwise.

Hand and Till, "A simple generalisation of the area under the ROC curve for multiple class problems", 2001. McClish,
"Analyzing a portion of the ROC curve", 1989. Yang et al., "Learning with Multiclass AUC", TPAMI 2021. Yang et al.,
"When All We Need is a Piece of the Pie", ICML 2021, and its TPAMI extension.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.curves.ranks import TIES, block_ends, count_labelled_pairs, count_pairs, sort_labelled
from equipoise.core.curves.roc import NORMALIZATIONS, RocCurve
from equipoise.core.curves.selection import highest, keep_count, lowest
from equipoise.core.validate import (
    check_binary,
    check_choice,
    check_fraction,
    check_multiclass,
    check_multilabel,
    warn_once,
)

BinaryTarget = Int[Tensor, " n"] | Bool[Tensor, " n"]
Scores = Float[Tensor, " n"] | Float[Tensor, "n labels"]
Target = Int[Tensor, " n"] | Bool[Tensor, " n"] | Int[Tensor, "n labels"] | Bool[Tensor, "n labels"]
Value = Float[Tensor, ""] | Float[Tensor, " labels"]


def auroc(scores: Scores, target: Target, *, average: str = "macro", on_undefined: str = "nan") -> Value:
    """Area under the ROC curve; a tied pair counts one half.

    Args:
        scores: (n,) scores, higher means more positive, or (n, labels) for multi-label targets.
        target: (n,) or (n, labels) in {0, 1}.
        average: for multi-label input, "macro" for the mean over labels that have both classes or "none" for all.
        on_undefined: where only one class is present, "nan" (warned once) or "raise".

    Returns:
        A scalar, or (labels,) for `average="none"`.

    Raises:
        ValueError: on NaN or infinite scores, shapes that differ, targets other than 0 and 1, or an undefined result
            with `on_undefined="raise"`.

    >>> auroc(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 1, 0, 0]))
    tensor(0.8750)
    """
    return _by_label(scores, target, average, on_undefined, "AUROC", _binary_auroc)


def opauc(
    scores: Scores,
    target: Target,
    max_fpr: float,
    *,
    normalization: str = "normalized",
    average: str = "macro",
    on_undefined: str = "nan",
) -> Value:
    """One-way partial AUC: the area under the ROC curve over FPR ∈ [0, max_fpr].

    Args:
        scores: as in `auroc`.
        target: as in `auroc`.
        max_fpr: the false-positive budget b in (0, 1].
        normalization: which of three numbers in use for the area A.

            - "normalized": A / b, the mean TPR within the budget, from 0 to 1. A random ranking has b / 2.
            - "raw": A, from 0 to b.
            - "mcclish": ½ (1 + (A − b²/2) / (b − b²/2)), so that a random ranking has ½ and a perfect one 1. This is
              what scikit-learn returns for `roc_auc_score(max_fpr=b)`.
        average: as in `auroc`.
        on_undefined: as in `auroc`.

    Raises:
        ValueError: as `auroc`; or if `max_fpr` is out of range or the normalization unknown.

    >>> scores, target = torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0])
    >>> opauc(scores, target, max_fpr=0.5), opauc(scores, target, max_fpr=0.5, normalization="raw")
    (tensor(0.5000), tensor(0.2500))
    """
    return _partial(scores, target, max_fpr, 0.0, normalization, average, on_undefined, "OPAUC")


def tpauc(
    scores: Scores,
    target: Target,
    max_fpr: float,
    min_tpr: float,
    *,
    normalization: str = "normalized",
    average: str = "macro",
    on_undefined: str = "nan",
) -> Value:
    """Two-way partial AUC: the area under the ROC curve over FPR ∈ [0, max_fpr] that lies above TPR = min_tpr.

        A = ∫₀^b max(TPR(u) − t, 0) du

    Args:
        scores: as in `auroc`.
        target: as in `auroc`.
        max_fpr: the false-positive budget b in (0, 1].
        min_tpr: the least true-positive rate t in [0, 1), as a literal ROC coordinate. The papers' α, the fraction of
            positives kept, is 1 − t.
        normalization: "normalized" for A / ((1 − t) b), "raw" for A, "mcclish" for ½ (1 + (A − C) / ((1 − t) b − C))
            with C = max(b − t, 0)²/2 the area of a random ranking; see `opauc`.
        average: as in `auroc`.
        on_undefined: as in `auroc`.

    Raises:
        ValueError: as `opauc`; or if `min_tpr` is out of range.

    >>> tpauc(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 1, 0, 0]), max_fpr=0.5, min_tpr=0.5)
    tensor(1.)
    """
    return _partial(scores, target, max_fpr, min_tpr, normalization, average, on_undefined, "TPAUC")


def partial_auroc(
    scores: Float[Tensor, " n"],
    target: BinaryTarget,
    pos_frac: float = 1.0,
    neg_frac: float = 1.0,
    *,
    ties: str = "half",
    on_undefined: str = "nan",
) -> Float[Tensor, ""]:
    """Partial AUC by selection, as the papers define it: AUROC of the hardest positives and negatives alone.

        1 − 1/(n₊ᵃ n₋ᵇ) Σ_{i ∈ lowest n₊ᵃ} Σ_{j ∈ highest n₋ᵇ} 1[s_i < s_j]        n₊ᵃ = ⌊a n₊⌋, n₋ᵇ = ⌊b n₋⌋

    Args:
        scores: (n,) scores.
        target: (n,) in {0, 1}.
        pos_frac: fraction a of positives kept, the lowest-scored, in (0, 1]; the papers' α.
        neg_frac: fraction b of negatives kept, the highest-scored, in (0, 1]; the papers' β.
        ties: "half" counts a tie as one half, which is what the authors' code does; "optimistic" as a win, which is
            what their formula says literally; "pessimistic" as a loss.
        on_undefined: as in `auroc`.

    Raises:
        ValueError: as `auroc`; if a fraction is out of range or keeps no sample; if `ties` is unknown.

    >>> partial_auroc(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]), pos_frac=0.5, neg_frac=0.5)
    tensor(0.)
    """
    check_choice("ties", ties, TIES)
    check_choice("on_undefined", on_undefined, ("nan", "raise"))
    check_fraction("pos_frac", pos_frac)
    check_fraction("neg_frac", neg_frac)
    check_binary(scores, target)
    pos, neg = scores[target == 1], scores[target == 0]
    if not (pos.shape[0] and neg.shape[0]):
        return _undefined(scores, "partial AUROC", on_undefined)
    for name, fraction, side, kind in (("pos", pos_frac, pos, "positives"), ("neg", neg_frac, neg, "negatives")):
        if keep_count(side.shape[0], fraction) == 0:
            need = math.ceil(1 / fraction - 1e-9)
            raise ValueError(
                f"floor({name}_frac*n_{name})=0: need at least {need} {kind} for {name}_frac={fraction!r}, "
                f"got {side.shape[0]}"
            )
    return _scalar(count_pairs(lowest(pos, pos_frac), highest(neg, neg_frac)).win_rate(ties), scores)


def average_precision(scores: Scores, target: Target, *, average: str = "macro", on_undefined: str = "nan") -> Value:
    """Average precision, the area under the precision-recall step function.

    Scores that tie share one threshold, as in scikit-learn. It needs at least one positive; without negatives it is 1.

    Args:
        scores: as in `auroc`.
        target: as in `auroc`.
        average: as in `auroc`.
        on_undefined: as in `auroc`, for input without positives.

    Raises:
        ValueError: as `auroc`.

    >>> average_precision(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    tensor(0.8333)
    """

    def single(scores: Tensor, target: Tensor) -> Tensor | None:
        curve = RocCurve.from_scores(scores, target)
        return curve.average_precision() if curve.n_pos else None

    return _by_label(scores, target, average, on_undefined, "average precision", single)


def roc_curve(
    scores: Float[Tensor, " n"], target: BinaryTarget
) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"], Float[Tensor, " points"]]:
    """Corners (fpr, tpr, thresholds) of the ROC polygon, from (0, 0) at threshold +inf to (1, 1).

    Every distinct score is a corner; none is dropped. For a part of the curve see `core.curves.roc.RocCurve.region`.

    Raises:
        ValueError: as `auroc`, and if one class is absent.

    >>> roc_curve(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 0, 1]))[0]
    tensor([0., 0., 1., 1.], dtype=torch.float64)
    """
    fpr, tpr, thresholds = _curve(scores, target, "the ROC curve").roc()
    return fpr.to(scores.device), tpr.to(scores.device), thresholds.to(scores.device)


def precision_recall_curve(
    scores: Float[Tensor, " n"], target: BinaryTarget
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """(precision, recall, thresholds) at every distinct score, from the highest down.

    Raises:
        ValueError: as `auroc`, and if one class is absent.

    >>> precision_recall_curve(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 0, 1]))[1]
    tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    precision, recall, thresholds = _curve(scores, target, "the precision-recall curve").precision_recall()
    return precision.to(scores.device), recall.to(scores.device), thresholds.to(scores.device)


def pairwise_auroc(scores: Float[Tensor, "n classes"], target: Int[Tensor, " n"]) -> Float[Tensor, "classes classes"]:
    """AUROC of every ordered pair of classes: entry (i, j) is P(s_i(x) > s_i(x')) for x of class i and x' of class j.

    The worst entry tells which two classes are confused, and the rows which class's scorer does it.

    Args:
        scores: (n, C), column i the scorer of class i; rows need not sum to 1.
        target: (n,) class indices.

    Returns:
        (C, C) float64; NaN on the diagonal and for classes without samples.

    Raises:
        ValueError: on NaN or infinite scores, wrong shapes, or a target that is no column of the scores.

    >>> pairwise_auroc(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    tensor([[nan, 1.],
            [1., nan]], dtype=torch.float64)
    """
    check_multiclass(scores, target)
    wins = _pair_wins(scores, target)
    counts = torch.bincount(target, minlength=scores.shape[1]).double()
    pairs = torch.outer(counts, counts).fill_diagonal_(0)
    return torch.where(pairs > 0, wins / pairs, torch.nan)


def multiclass_auroc(
    scores: Float[Tensor, "n classes"],
    target: Int[Tensor, " n"],
    *,
    average: str = "ovo",
    on_undefined: str = "nan",
) -> Float[Tensor, ""]:
    """AUROC of a multiclass model.

    Args:
        scores: (n, C), column i the scorer of class i; unlike scikit-learn's, rows need not sum to 1.
        target: (n,) class indices.
        average: "ovo" for the mean over ordered pairs of classes (Hand and Till's M, MAUC), in which a rare pair counts
            as much as a frequent one; "ovr" for the mean over classes of one class against the rest ("ova" in the
            paper).
        on_undefined: with fewer than two classes present, "nan" (warned once) or "raise". With "nan", classes that have
            no samples are left out of the mean, warned once; with "raise" they are an error.

    Raises:
        ValueError: as `pairwise_auroc`; if `average` is unknown.

    >>> multiclass_auroc(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 1, 1]))
    tensor(1.)
    """
    check_choice("average", average, ("ovo", "ovr"))
    check_choice("on_undefined", on_undefined, ("nan", "raise"))
    check_multiclass(scores, target)
    counts = torch.bincount(target, minlength=scores.shape[1]).double()
    present = counts > 0
    absent = (~present).nonzero().squeeze(1).tolist()
    if int(present.sum()) < 2:
        return _undefined(scores, "multiclass AUROC", on_undefined)
    if absent:
        message = f"classes {absent} have no samples: multiclass AUROC is the mean over the others"
        if on_undefined == "raise":
            raise ValueError(f"{message}; pass on_undefined='nan' to accept that")
        warn_once(message)
    wins = _pair_wins(scores, target)
    if average == "ovo":
        pairs = torch.outer(counts, counts).fill_diagonal_(0)
        value = (wins[pairs > 0] / pairs[pairs > 0]).mean()
    else:
        value = (wins.sum(1)[present] / (counts * (counts.sum() - counts))[present]).mean()
    return _scalar(value, scores)


def _pair_wins(scores: Tensor, target: Tensor) -> Tensor:
    """(C, C) float64: how many pairs of class i and class j column i ranks right, a tie counting one half."""
    classes = scores.shape[1]
    columns = scores.detach().T.contiguous()
    wins = torch.zeros(classes, classes, dtype=torch.float64, device=scores.device)
    # Column by column: what is worked on then stays in the cache.
    for i, column in enumerate(columns):
        ordered, labels = sort_labelled(column, target)
        above = (labels == i).cumsum(0).double()
        ends = block_ends(ordered)
        if ends.shape[0] < ordered.shape[0]:
            # In a tie block each counts the mean of what stood above before the block and after it.
            after = above.index_select(0, ends)
            before = torch.cat([after.new_zeros(1), after[:-1]])
            block = torch.cat([ends.new_zeros(1), (ordered[1:] != ordered[:-1]).cumsum(0)])
            above = ((before + after) / 2).index_select(0, block)
        wins[i] = torch.bincount(labels, weights=above, minlength=classes)
        wins[i, i] = 0
    return wins


def _binary_auroc(scores: Tensor, target: Tensor) -> float | None:
    counts = count_labelled_pairs(scores, target == 1)
    return counts.win_rate("half") if counts.pairs else None


def _partial(
    scores: Tensor,
    target: Tensor,
    max_fpr: float,
    min_tpr: float,
    normalization: str,
    average: str,
    on_undefined: str,
    name: str,
) -> Tensor:
    check_fraction("max_fpr", max_fpr)
    check_fraction("min_tpr", min_tpr, zero=True, one=False)
    check_choice("normalization", normalization, NORMALIZATIONS)

    def single(scores: Tensor, target: Tensor) -> Tensor | None:
        curve = RocCurve.from_scores(scores, target)
        return curve.partial_area(max_fpr, min_tpr, normalization) if curve.defined else None

    return _by_label(scores, target, average, on_undefined, name, single)


def _by_label(
    scores: Tensor,
    target: Tensor,
    average: str,
    on_undefined: str,
    name: str,
    single: Callable[[Tensor, Tensor], float | Tensor | None],
) -> Tensor:
    """Apply a binary metric to one column or to each; `single` gives None where it is undefined."""
    check_choice("average", average, ("macro", "none"))
    check_choice("on_undefined", on_undefined, ("nan", "raise"))
    if scores.ndim != 2:
        check_binary(scores, target)
        value = single(scores.detach(), target)
        return _undefined(scores, name, on_undefined) if value is None else _scalar(value, scores)
    check_multilabel(scores, target)
    values = [single(column, truth) for column, truth in zip(scores.detach().T, target.T, strict=True)]
    undefined = [label for label, value in enumerate(values) if value is None]
    name = f"{name} of labels {undefined}"
    columns = torch.stack(
        [_undefined(scores, name, on_undefined) if value is None else _scalar(value, scores) for value in values]
    )
    return columns if average == "none" else columns.nanmean()


def _curve(scores: Tensor, target: Tensor, name: str) -> RocCurve:
    check_binary(scores, target)
    curve = RocCurve.from_scores(scores, target)
    if not curve.defined:
        raise ValueError(f"{name} needs both classes, got {curve.n_pos} positives and {curve.n_neg} negatives")
    return curve


def _scalar(value: float | Tensor, scores: Tensor) -> Tensor:
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=scores.device)


def _undefined(scores: Tensor, name: str, on_undefined: str) -> Tensor:
    check_choice("on_undefined", on_undefined, ("nan", "raise"))
    message = f"{name} is undefined: the target holds fewer classes than it compares"
    if on_undefined == "raise":
        raise ValueError(f"{message}; give samples of both, or pass on_undefined='nan'")
    warn_once(f"{message}; it is NaN")
    return _scalar(float("nan"), scores)
