"""How sure a number is: intervals for metrics, for paired differences, and for means over folds and seeds.

Four questions, each with its own source of chance:

- `bootstrap_metrics`: how far would a metric move with another test sample? A stratified percentile bootstrap of the
  curve. Drawing positives and negatives anew only changes how many of them fall into each step of the sorted scores,
  so a replicate draws multinomial counts of the steps and costs no sort.
- `bootstrap_differences`: the same for two score vectors on the same samples, which are drawn together. For the whole
  AUROC, `core.curves.delong` answers both questions by a formula.
- `paired_interval`: how far would a mean difference move with other seeds? Student's interval.
- `fold_interval`: how far would a cross-validated mean move? Folds share training samples, so their variance is
  corrected as by Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 2003.

Rows of one patient, customer or device are not drawn one by one: with `groups` a replicate draws whole groups, as many
as there are (the cluster bootstrap), and classes as they fall; a draw without one of them is drawn again.

The percentile bootstrap knows no more than the sample: of perfectly separated scores it returns [1, 1], and below about
ten samples of a class, or ten groups with it, it is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Integer
from numpy.typing import NDArray
from torch import Tensor, as_tensor

from equipoise.core.curves.roc import RocCurve
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Count, OpenFraction, Positive, Scores, Whole
from equipoise.core.validate import warn_once

CurveMetric = Callable[[RocCurve], Any]
Groups: TypeAlias = Integer[Tensor, " n"]

# A curve with more steps than this is merged to about 4,000 before it is resampled.
_MAX_STEPS = 4096
# Two score vectors have no common steps to merge: each replicate visits every sample, so their number is limited.
_PAIRED_BUDGET = 300_000_000
_PAIRED_LEAST = 200


@dataclass(frozen=True)
class Interval:
    """An estimate and the two ends of its confidence interval; all NaN where the quantity is undefined.

    >>> print(Interval(0.84913, 0.83, 0.8671))
    0.849 [0.830, 0.867]
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


UNDEFINED = Interval(math.nan, math.nan, math.nan)


@checked
def bootstrap_metrics(
    scores: Scores,
    target: BinaryTarget,
    metrics: Mapping[str, CurveMetric],
    *,
    groups: Groups | None = None,
    resamples: Count = 1000,
    confidence: OpenFraction = 0.95,
    seed: Whole = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of metrics of one score vector, with both classes drawn at their own size.

    All metrics see the same replicates. The estimate is exact for any n; where the scores take more than 4,096 distinct
    values, the replicates are drawn on a curve of about 4,000 merged steps, dense at both ends, and the interval is
    moved by what merging changed of the estimate. A replicate then costs the same for any n.

    Args:
        scores: (n,) raw scores, higher means more positive.
        target: (n,) in {0, 1}.
        metrics: name → function of a `RocCurve`.
        groups: (n,) whose rows belong together and are drawn together; None to draw every row by itself. A replicate
            then visits every sample, and their number is cut as by `bootstrap_differences`.
        resamples: how many replicates.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the replicates.

    Returns:
        name → `Interval`; NaN, warned once, where one class is absent.

    >>> scores, target = torch.tensor([0.9, 0.4, 0.6, 0.2, 0.1]), torch.tensor([1, 1, 0, 0, 0])
    >>> intervals = bootstrap_metrics(scores, target, {"auroc": lambda curve: curve.auroc()}, resamples=200)
    >>> round(intervals["auroc"].estimate, 3)
    0.833
    """
    if one_class(target):
        return dict.fromkeys(metrics, UNDEFINED)
    curve = RocCurve.from_scores(scores.detach(), target)
    estimates = {name: float(metric(curve)) for name, metric in metrics.items()}
    steps = _Steps.of_curve(curve)
    merged = steps.merge()
    whole = merged.curve(merged.positives, merged.negatives)
    shift = {name: estimates[name] - float(metric(whole)) for name, metric in metrics.items()}
    if merged is steps:
        shift = dict.fromkeys(metrics, 0.0)

    generator = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in metrics}
    for replicate in _replicates(merged, scores, target, groups, resamples, generator):
        for name, metric in metrics.items():
            draws[name].append(float(metric(replicate)))
    return {name: _percentile(estimates[name], draws[name], confidence, shift[name]) for name in metrics}


@checked
def bootstrap_differences(
    first: Scores,
    second: Scores,
    target: BinaryTarget,
    metrics: Mapping[str, CurveMetric],
    *,
    groups: Groups | None = None,
    resamples: Count = 1000,
    confidence: OpenFraction = 0.95,
    seed: Whole = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of `metric(first) - metric(second)` for two score vectors on the same samples.

    The samples are drawn once for both, so what is hard for both models cancels. A replicate visits every sample:
    `resamples` is cut so that n · resamples stays below 3·10⁸, but not below 200.

    Args:
        first: (n,) raw scores of one model.
        second: (n,) raw scores of another, on the same samples in the same order.
        target: (n,) in {0, 1}.
        metrics: name → function of a `RocCurve`.
        groups: (n,) whose rows are drawn together; None to draw every row by itself.
        resamples: how many replicates, at most.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the replicates.

    Returns:
        name → `Interval` of the difference; NaN, warned once, where one class is absent.

    >>> target = torch.tensor([1, 1, 0, 0, 0])
    >>> one, two = torch.tensor([0.9, 0.4, 0.6, 0.2, 0.1]), torch.tensor([0.9, 0.7, 0.6, 0.2, 0.1])
    >>> gain = bootstrap_differences(two, one, target, {"auroc": lambda curve: curve.auroc()}, resamples=200)
    >>> round(gain["auroc"].estimate, 3)
    0.167
    """
    if one_class(target):
        return dict.fromkeys(metrics, UNDEFINED)
    sides, estimates = [], []
    for scores in (first, second):
        curve = RocCurve.from_scores(scores.detach(), target)
        estimates.append({name: float(metric(curve)) for name, metric in metrics.items()})
        steps = _Steps.of_curve(curve).merge()
        sides.append((steps, *steps.locate(scores, target)))
    merged = [
        {name: float(metric(steps.curve(steps.positives, steps.negatives))) for name, metric in metrics.items()}
        for steps, _, _ in sides
    ]

    generator = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in metrics}
    for drawn in _drawn_rows(target, groups, resamples, generator):
        curves = [steps.of_rows(at_pos, at_neg, *drawn) for steps, at_pos, at_neg in sides]
        for name, metric in metrics.items():
            draws[name].append(float(metric(curves[0])) - float(metric(curves[1])))
    result = {}
    for name in metrics:
        estimate = estimates[0][name] - estimates[1][name]
        result[name] = _percentile(estimate, draws[name], confidence, estimate - (merged[0][name] - merged[1][name]))
    return result


@checked
def paired_interval(differences: Sequence[float], confidence: OpenFraction = 0.95) -> Interval:
    """Student's interval of the mean of paired differences, for example one per seed: mean ± t_{n−1} · s / √n.

    Args:
        differences: one number per pair; of a single one the interval is the whole line.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: if there are no differences.

    >>> print(paired_interval([0.2, 0.1, 0.3, 0.2]))
    0.200 [0.070, 0.330]
    """
    values = _at_least(1, "differences", differences)
    if len(values) == 1:
        return Interval(float(values[0]), -math.inf, math.inf)
    return _student(values, 0.0, confidence)


@checked
def fold_interval(
    scores_per_fold: Sequence[float], test_train_ratio: Positive, confidence: OpenFraction = 0.95
) -> Interval:
    """Interval of a cross-validated mean, or of a mean paired difference over folds.

        mean ± t_{k−1} · s · √(1/k + n_test/n_train)

    The second term stands for the training samples that folds share; without it the interval is too narrow (Nadeau and
    Bengio 2003).

    Args:
        scores_per_fold: one number per fold, k ≥ 2 of them; the folds of repeated cross-validation count each.
        test_train_ratio: size of a test fold over size of its training part: 1/(k−1) for k folds.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: if there are fewer than two folds.

    >>> print(fold_interval([0.80, 0.82, 0.84, 0.81, 0.83], test_train_ratio=1 / 4))
    0.820 [0.791, 0.849]
    """
    return _student(_at_least(2, "scores_per_fold", scores_per_fold), test_train_ratio, confidence)


def _student(values: NDArray[np.float64], shared: float, confidence: float) -> Interval:
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    width = student_quantile(0.5 + confidence / 2, len(values) - 1) * deviation * math.sqrt(1 / len(values) + shared)
    return Interval(mean, mean - width, mean + width)


@lru_cache(maxsize=256)
@checked
def student_quantile(probability: OpenFraction, dof: Positive) -> float:
    """The value that Student's t with `dof` degrees of freedom stays below with this probability.

    >>> round(student_quantile(0.975, 4), 4)
    2.7764
    """
    if probability < 0.5:
        return -student_quantile(1 - probability, dof)
    tail = 2 * (1 - probability)

    # P(|T| > t) = I_{dof/(dof + t²)}(dof/2, 1/2) falls in t: double until it is passed, then halve the bracket.
    def beyond(t: float) -> float:
        return incomplete_beta(dof / 2, 0.5, dof / (dof + t * t))

    low, high = 0.0, 1.0
    while beyond(high) > tail and high < 1e300:
        low, high = high, 2 * high
    return _bisect(lambda t: beyond(t) <= tail, low, high)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b) = P(Beta(a, b) ≤ x), by Lentz's continued fraction.

    >>> round(incomplete_beta(2.0, 3.0, 0.4), 4)
    0.5248
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below the mean only
        return 1.0 - incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 200_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + step * d, tiny)
            c = _away_from_zero(1.0 + step / c, tiny)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(front) * fraction / a


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _bisect(reached: Callable[[float], bool], low: float, high: float) -> float:
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return high
        if reached(middle):
            high = middle
        else:
            low = middle


def _replicates(
    steps: _Steps,
    scores: Tensor,
    target: Tensor,
    groups: Tensor | None,
    resamples: int,
    generator: np.random.Generator,
) -> Iterator[RocCurve]:
    """Curves of samples drawn anew: the counts of their steps where rows are drawn alone, else the rows of groups."""
    if groups is None:
        n_pos, n_neg = int(steps.positives.sum()), int(steps.negatives.sum())
        for _ in range(resamples):
            yield steps.curve(
                generator.multinomial(n_pos, steps.positives / n_pos),
                generator.multinomial(n_neg, steps.negatives / n_neg),
            )
        return
    of_class = steps.locate(scores, target)
    for drawn in _drawn_rows(target, groups, resamples, generator):
        yield steps.of_rows(*of_class, *drawn)


def _drawn_rows(
    target: Tensor, groups: Tensor | None, resamples: int, generator: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """How often each positive and each negative is drawn."""
    positive = target.detach().cpu().numpy() == 1
    resamples = min(resamples, max(_PAIRED_LEAST, _PAIRED_BUDGET // len(positive)))
    if groups is None:
        for _ in range(resamples):
            pos, neg = (
                np.bincount(generator.integers(n, size=n), minlength=n) for n in (positive.sum(), (~positive).sum())
            )
            yield pos, neg
        return
    known, member = np.unique(groups.detach().cpu().numpy(), return_inverse=True)
    yielded = 0
    while yielded < resamples:
        times = np.bincount(generator.integers(len(known), size=len(known)), minlength=len(known))[member]
        if times[positive].any() and times[~positive].any():
            yielded += 1
            yield times[positive], times[~positive]


@dataclass(frozen=True)
class _Steps:
    """The steps of a curve: thresholds downwards, and how many positives and negatives each step holds."""

    thresholds: NDArray[np.float64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @classmethod
    def of_curve(cls, curve: RocCurve) -> _Steps:
        tps, fps = (c.detach().cpu().numpy().astype(np.int64) for c in (curve.tps, curve.fps))
        thresholds = curve.thresholds.detach().cpu().numpy().astype(np.float64)
        return cls(thresholds, np.diff(tps, prepend=0), np.diff(fps, prepend=0))

    def merge(self) -> _Steps:
        """Join neighbours until about 4,000 steps are left: even shares of each class, and ever finer to both ends."""
        if len(self.thresholds) <= _MAX_STEPS:
            return self
        ends = []
        for counts in (self.positives, self.negatives):
            cumulative, total = np.cumsum(counts), int(counts.sum())
            fine = np.geomspace(1, max(total, 2), _MAX_STEPS // 16)
            wanted = np.concatenate([np.linspace(0, total, _MAX_STEPS // 4), fine, total - fine])
            ends.append(np.searchsorted(cumulative, wanted.clip(0, total)))
        last = np.unique(np.concatenate([*ends, [len(self.thresholds) - 1]]))
        first = np.concatenate([[0], last[:-1] + 1])
        return _Steps(
            self.thresholds[last], np.add.reduceat(self.positives, first), np.add.reduceat(self.negatives, first)
        )

    def locate(self, scores: Tensor, target: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The step of every positive and of every negative: the first whose threshold the score reaches."""
        step = np.searchsorted(-self.thresholds, -scores.detach().cpu().double().numpy())
        positive = target.detach().cpu().numpy() == 1
        return step[positive], step[~positive]

    def of_rows(
        self,
        step_of_pos: NDArray[np.int64],
        step_of_neg: NDArray[np.int64],
        pos: NDArray[np.int64],
        neg: NDArray[np.int64],
    ) -> RocCurve:
        """The curve of rows that are drawn so often."""
        size = len(self.thresholds)
        counts = (np.bincount(at, weights=n, minlength=size) for at, n in ((step_of_pos, pos), (step_of_neg, neg)))
        positives, negatives = (count.astype(np.int64) for count in counts)
        return self.curve(positives, negatives)

    def curve(self, positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> RocCurve:
        """The curve of other counts on these steps; empty steps are left out."""
        held = (positives + negatives) > 0
        return RocCurve(
            thresholds=as_tensor(self.thresholds[held]),
            tps=as_tensor(np.cumsum(positives[held])),
            fps=as_tensor(np.cumsum(negatives[held])),
        )


def _percentile(
    estimate: float, draws: Sequence[float] | NDArray[np.float64], confidence: float, shift: float = 0.0
) -> Interval:
    values = np.asarray(draws, dtype=np.float64)
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2]) + shift
    # The shift must not carry an end past what the metric can reach.
    return Interval(
        estimate,
        max(float(low), min(float(values.min()), estimate)),
        min(float(high), max(float(values.max()), estimate)),
    )


def one_class(target: Tensor) -> bool:
    """Whether a class is absent, so that no interval is defined; warned of once."""
    positives = int((target == 1).sum())
    if 0 < positives < target.shape[0]:
        return False
    warn_once(f"an interval needs both classes, got {positives} positives of {target.shape[0]} samples; it is NaN")
    return True


def _at_least(least: int, name: str, values: Sequence[float]) -> NDArray[np.float64]:
    if len(values) < least:
        raise ValueError(f"{name} must hold at least {least} number(s), got {len(values)}")
    return np.asarray(values, dtype=np.float64)
