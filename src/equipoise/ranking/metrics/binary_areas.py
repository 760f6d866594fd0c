"""How well scores rank two classes: the area under the ROC curve, whole and in part, and average precision.

With s⁺ a positive's and s⁻ a negative's score, a tie counting one half:

    AUROC              P(s⁺ > s⁻)
    OPAUC(b)           area under the ROC curve over FPR ∈ [0, b]                    one-way partial AUC
    TPAUC(b, t)        area over FPR ≤ b that lies above TPR = t                     two-way partial AUC
    partial_auroc      P(s⁺ > s⁻) for the lowest-scored positives and highest-scored negatives only
    average precision  Σ (recall step) · precision

The two ways to say "partial" differ. The area integrates the ROC polygon exactly. The papers select ⌊fraction · n⌋
samples of each class and take the AUROC of what is left, which drops the fractional sample; both agree, normalised,
where the counts are whole and no tie block is cut. A fraction `pos_frac` of positives kept is the region
TPR ≥ 1 − pos_frac.

The metrics of a whole are no means over batches, so that the classes keep all scores. Everything is counted in whole
numbers and float64, and comes back as float64 for float64 scores and float32 otherwise.

McClish, "Analyzing a portion of the ROC curve", 1989. Yang et al., "When All We Need is a Piece of the Pie", ICML 2021,
and its TPAMI extension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.ranks import count_labelled_pairs, count_pairs
from equipoise.core.curves.roc import RocCurve
from equipoise.core.curves.selection import highest, kept_weight, lowest
from equipoise.core.signature import checked
from equipoise.core.types import (
    BinaryTarget,
    Fraction,
    LabelScores,
    MultilabelTarget,
    ProperFraction,
    SampleWeight,
    Scalar,
    Scores,
)
from equipoise.ranking.metrics.common import (
    Average,
    BinaryMetric,
    LabelMetric,
    OnUndefined,
    check_shapes,
    undefined_value,
    value_of,
)
from equipoise.ranking.metrics.curves import defined_curve, plot_precision_recall, plot_roc

Value: TypeAlias = Scalar | Float[Tensor, " labels"]
Normalization: TypeAlias = Literal["normalized", "raw", "mcclish"]
Ties: TypeAlias = Literal["half", "optimistic", "pessimistic", "strict"]


@checked
def auroc(
    scores: Scores | LabelScores,
    target: BinaryTarget | MultilabelTarget,
    *,
    sample_weight: SampleWeight | None = None,
    average: Average = "macro",
    on_undefined: OnUndefined = "nan",
) -> Value:
    """Area under the ROC curve; a tied pair counts one half.

    Args:
        scores: (n,) scores, higher means more positive, or (n, labels) for multi-label targets.
        target: (n,) or (n, labels) in {0, 1}.
        sample_weight: (n,) non-negative, how often each sample counts: a weight of two is a sample given twice.
        average: for multi-label input, "macro" for the mean over labels that have both classes or "none" for all.
        on_undefined: where only one class is present, "nan" (warned once) or "raise".

    Returns:
        A scalar, or (labels,) for `average="none"`.

    Raises:
        ValueError: if the shapes differ, or where it is undefined with `on_undefined="raise"`.

    >>> auroc(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 1, 0, 0]))
    tensor(0.8750)
    """
    return _by_label(scores, target, sample_weight, average, on_undefined, "AUROC", _binary_auroc)


@checked
def opauc(
    scores: Scores | LabelScores,
    target: BinaryTarget | MultilabelTarget,
    max_fpr: Fraction,
    *,
    normalization: Normalization = "normalized",
    sample_weight: SampleWeight | None = None,
    average: Average = "macro",
    on_undefined: OnUndefined = "nan",
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
        sample_weight: as in `auroc`.
        average: as in `auroc`.
        on_undefined: as in `auroc`.

    >>> scores, target = torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0])
    >>> opauc(scores, target, max_fpr=0.5), opauc(scores, target, max_fpr=0.5, normalization="raw")
    (tensor(0.5000), tensor(0.2500))
    """
    return _partial(scores, target, sample_weight, max_fpr, 0.0, normalization, average, on_undefined, "OPAUC")


@checked
def tpauc(
    scores: Scores | LabelScores,
    target: BinaryTarget | MultilabelTarget,
    max_fpr: Fraction,
    min_tpr: ProperFraction,
    *,
    normalization: Normalization = "normalized",
    sample_weight: SampleWeight | None = None,
    average: Average = "macro",
    on_undefined: OnUndefined = "nan",
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
        sample_weight: as in `auroc`.
        average: as in `auroc`.
        on_undefined: as in `auroc`.

    >>> tpauc(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 1, 0, 0]), max_fpr=0.5, min_tpr=0.5)
    tensor(1.)
    """
    return _partial(scores, target, sample_weight, max_fpr, min_tpr, normalization, average, on_undefined, "TPAUC")


@checked
def partial_auroc(
    scores: Scores,
    target: BinaryTarget,
    pos_frac: Fraction = 1.0,
    neg_frac: Fraction = 1.0,
    *,
    ties: Ties = "half",
    sample_weight: SampleWeight | None = None,
    on_undefined: OnUndefined = "nan",
) -> Scalar:
    """Partial AUC by selection, as the papers define it: AUROC of the hardest positives and negatives alone.

        1 − 1/(n₊ᵃ n₋ᵇ) Σ_{i ∈ lowest n₊ᵃ} Σ_{j ∈ highest n₋ᵇ} 1[s_i < s_j]        n₊ᵃ = ⌊a n₊⌋, n₋ᵇ = ⌊b n₋⌋

    Args:
        scores: (n,) scores.
        target: (n,) in {0, 1}.
        pos_frac: fraction a of positives kept, the lowest-scored, in (0, 1]; the papers' α.
        neg_frac: fraction b of negatives kept, the highest-scored, in (0, 1]; the papers' β.
        ties: "half" counts a tie as one half, which is what the authors' code does; "optimistic" as a win, which is
            what their formula says literally; "pessimistic" or "strict" as a loss.
        sample_weight: as in `auroc`. The counts n are then sums of weights, and the last sample is kept in part; a
            fraction of 1 keeps all.
        on_undefined: as in `auroc`.

    Raises:
        ValueError: as `auroc`; if a fraction keeps no sample.

    >>> partial_auroc(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]), pos_frac=0.5, neg_frac=0.5)
    tensor(0.)
    """
    positive, counts = target == 1, (scores.new_ones(1).expand(len(scores)) if sample_weight is None else sample_weight)
    pos, neg = (float(counts[side].sum(dtype=torch.float64)) for side in (positive, ~positive))
    if not (pos and neg):
        return undefined_value(scores, "partial AUROC", on_undefined)
    for name, fraction, held, kind in (("pos", pos_frac, pos, "positives"), ("neg", neg_frac, neg, "negatives")):
        if fraction < 1 and math.floor(held * fraction + 1e-9) == 0:
            need = math.ceil(1 / fraction - 1e-9)
            raise ValueError(
                f"floor({name}_frac*n_{name})=0: need at least {need} {kind} for {name}_frac={fraction!r}, got {held:g}"
            )
    if sample_weight is None:
        pairs = count_pairs(lowest(scores[positive], pos_frac), highest(scores[~positive], neg_frac))
    else:
        kept = torch.zeros_like(scores, dtype=torch.float64)
        for side, fraction in ((positive, pos_frac), (~positive, neg_frac)):
            kept[side] = kept_weight(scores[side], sample_weight[side], fraction, largest=side is not positive)
        pairs = RocCurve.from_scores(scores, target, kept).pairs()
    return value_of(pairs.win_rate(ties), scores)


@checked
def average_precision(
    scores: Scores | LabelScores,
    target: BinaryTarget | MultilabelTarget,
    *,
    sample_weight: SampleWeight | None = None,
    average: Average = "macro",
    on_undefined: OnUndefined = "nan",
) -> Value:
    """Average precision, the area under the precision-recall step function.

    Scores that tie share one threshold, as in scikit-learn. It needs at least one positive; without negatives it is 1.

    Args:
        scores: as in `auroc`.
        target: as in `auroc`.
        sample_weight: as in `auroc`.
        average: as in `auroc`.
        on_undefined: as in `auroc`, for input without positives.

    >>> average_precision(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    tensor(0.8333)
    """

    def single(scores: Tensor, target: Tensor, weight: Tensor | None) -> Tensor | None:
        curve = RocCurve.from_scores(scores, target, weight)
        return curve.average_precision() if curve.n_pos else None

    return _by_label(scores, target, sample_weight, average, on_undefined, "average precision", single)


def _binary_auroc(scores: Tensor, target: Tensor, weight: Tensor | None) -> float | None:
    if weight is None:
        counts = count_labelled_pairs(scores, target)
    else:
        counts = RocCurve.from_scores(scores, target, weight).pairs()
    return counts.win_rate("half") if counts.pairs else None


def _partial(
    scores: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    max_fpr: float,
    min_tpr: float,
    normalization: Normalization,
    average: Average,
    on_undefined: OnUndefined,
    name: str,
) -> Tensor:
    def single(scores: Tensor, target: Tensor, weight: Tensor | None) -> Tensor | None:
        curve = RocCurve.from_scores(scores, target, weight)
        return curve.partial_area(max_fpr, min_tpr, normalization) if curve.defined else None

    return _by_label(scores, target, sample_weight, average, on_undefined, name, single)


def _by_label(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    average: Average,
    on_undefined: OnUndefined,
    name: str,
    single: Callable[[Tensor, Tensor, Tensor | None], float | Tensor | None],
) -> Tensor:
    """Apply a binary metric to one column or to each; `single` gives None where it is undefined."""
    check_shapes(scores, target)
    positive = target == 1
    if scores.ndim == 1:
        value = single(scores.detach(), positive, weight)
        return undefined_value(scores, name, on_undefined) if value is None else value_of(value, scores)
    values = [single(column, truth, weight) for column, truth in zip(scores.detach().T, positive.T, strict=True)]
    undefined = [label for label, value in enumerate(values) if value is None]
    name = f"{name} of labels {undefined}"
    columns = torch.stack(
        [undefined_value(scores, name, on_undefined) if value is None else value_of(value, scores) for value in values]
    )
    return columns if average == "none" else columns.nanmean()


class AUROC(LabelMetric):
    """Area under the ROC curve over all samples seen; see `equipoise.ranking.auroc`.

    Args:
        average: for multi-label input, "macro" or "none".
        on_undefined: where only one class was seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.

    >>> metric = AUROC()
    >>> metric.update(torch.tensor([0.9, 0.5]), torch.tensor([1, 1]))
    >>> metric.update(torch.tensor([0.5, 0.1]), torch.tensor([0, 0]))
    >>> metric.compute()
    tensor(0.8750)
    """

    def compute(self) -> Tensor:
        """The area over all samples seen."""
        scores, target, weight = self.samples()
        return auroc(scores, target, sample_weight=weight, average=self.average, on_undefined=self.on_undefined)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the ROC curve of what was seen; returns (figure, axes). Values given as `val` are plotted instead."""
        return self._plot(val, ax) if val is not None else plot_roc(defined_curve(*self.samples()), ax=ax)


class OPAUC(LabelMetric):
    """One-way partial AUC over all samples seen; see `equipoise.ranking.opauc`.

    Args:
        max_fpr: the false-positive budget in (0, 1].
        normalization: "normalized", "raw" or "mcclish".
        average: as in `AUROC`.
        on_undefined: as in `AUROC`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = OPAUC(max_fpr=0.5)
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    >>> metric.compute()
    tensor(0.5000)
    """

    @checked
    def __init__(
        self,
        max_fpr: Fraction,
        *,
        normalization: Normalization = "normalized",
        average: Average = "macro",
        on_undefined: OnUndefined = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(average=average, on_undefined=on_undefined, **kwargs)
        self.max_fpr = max_fpr
        self.min_tpr = 0.0
        self.normalization = normalization

    def compute(self) -> Tensor:
        """The normalised area over all samples seen."""
        scores, target, weight = self.samples()
        return tpauc(
            scores,
            target,
            self.max_fpr,
            self.min_tpr,
            normalization=self.normalization,
            sample_weight=weight,
            average=self.average,
            on_undefined=self.on_undefined,
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the ROC curve with the region shaded; returns (figure, axes)."""
        if val is not None:
            return self._plot(val, ax)
        return plot_roc(defined_curve(*self.samples()), max_fpr=self.max_fpr, min_tpr=self.min_tpr, ax=ax)


class TPAUC(OPAUC):
    """Two-way partial AUC over all samples seen; see `equipoise.ranking.tpauc`.

    Args:
        max_fpr: the false-positive budget in (0, 1].
        min_tpr: the least true-positive rate in [0, 1).
        normalization: "normalized", "raw" or "mcclish".
        average: as in `AUROC`.
        on_undefined: as in `AUROC`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = TPAUC(max_fpr=0.5, min_tpr=0.5)
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 1, 0, 0]))
    >>> metric.compute()
    tensor(1.)
    """

    @checked
    def __init__(
        self,
        max_fpr: Fraction,
        min_tpr: ProperFraction,
        *,
        normalization: Normalization = "normalized",
        average: Average = "macro",
        on_undefined: OnUndefined = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(max_fpr, normalization=normalization, average=average, on_undefined=on_undefined, **kwargs)
        self.min_tpr = min_tpr


class PartialAUROC(BinaryMetric):
    """Partial AUC by selection over all samples seen; see `equipoise.ranking.partial_auroc`.

    Args:
        pos_frac: fraction of positives kept, the lowest-scored.
        neg_frac: fraction of negatives kept, the highest-scored.
        ties: "half", "optimistic" or "pessimistic".
        on_undefined: as in `AUROC`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = PartialAUROC(neg_frac=0.5)
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    >>> metric.compute()
    tensor(0.5000)
    """

    @checked
    def __init__(
        self,
        pos_frac: Fraction = 1.0,
        neg_frac: Fraction = 1.0,
        *,
        ties: Ties = "half",
        on_undefined: OnUndefined = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(on_undefined=on_undefined, **kwargs)
        self.pos_frac, self.neg_frac, self.ties = pos_frac, neg_frac, ties

    def compute(self) -> Tensor:
        """The partial AUC of the selected samples."""
        scores, target, weight = self.samples()
        return partial_auroc(
            scores,
            target,
            self.pos_frac,
            self.neg_frac,
            ties=self.ties,
            sample_weight=weight,
            on_undefined=self.on_undefined,
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the ROC curve with the region that the fractions stand for; returns (figure, axes)."""
        if val is not None:
            return self._plot(val, ax)
        return plot_roc(defined_curve(*self.samples()), max_fpr=self.neg_frac, min_tpr=1 - self.pos_frac, ax=ax)


class AveragePrecision(LabelMetric):
    """Average precision over all samples seen; see `equipoise.ranking.average_precision`.

    Args:
        average: as in `AUROC`.
        on_undefined: as in `AUROC`, for input without positives.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = AveragePrecision()
    >>> metric.update(torch.tensor([0.9, 0.7, 0.6, 0.2]), torch.tensor([1, 0, 1, 0]))
    >>> metric.compute()
    tensor(0.8333)
    """

    def compute(self) -> Tensor:
        """Average precision over all samples seen."""
        scores, target, weight = self.samples()
        return average_precision(
            scores, target, sample_weight=weight, average=self.average, on_undefined=self.on_undefined
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the precision-recall curve of what was seen; returns (figure, axes)."""
        return self._plot(val, ax) if val is not None else plot_precision_recall(defined_curve(*self.samples()), ax=ax)
