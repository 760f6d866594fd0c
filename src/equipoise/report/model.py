"""What a report shows, as plain values: the workflows fill them from real results, the renderers only draw them.

A number that is not known is NaN or None and appears as "–". Texts are plain; renderers escape them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from equipoise.core.curves.intervals import Interval
from equipoise.report.points import Curves


@dataclass(frozen=True)
class DataPart:
    """A part of the data, for example the test part.

    Attributes:
        name: "training", "test", …
        rows: how many rows it has.
        positives: how many of them are positive; None for more than two classes.
    """

    name: str
    rows: int
    positives: int | None = None


@dataclass(frozen=True)
class DataSummary:
    """What the data are.

    Attributes:
        source: file or data set.
        rows: how many rows were used.
        features: how many feature columns were used; None where only scores were given.
        target: the target column.
        classes: class label → number of rows, in the order to show.
        positive: the label that counts as positive; None for more than two classes.
        split: how the rows were split, in words: "stratified", "by groups of `patient`", …
        parts: the parts it was split into.
        columns: feature column → what it was read as, in words.
    """

    source: str
    rows: int
    features: int | None
    target: str
    classes: Mapping[str, int]
    positive: str | None = None
    split: str = ""
    parts: tuple[DataPart, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """The part of the ROC square that the metric looks at; None where it has no such bound.

    Attributes:
        max_fpr: right end, in (0, 1].
        min_tpr: lower end, in [0, 1).
    """

    max_fpr: float | None = None
    min_tpr: float | None = None


@dataclass(frozen=True)
class ContestRow:
    """How one candidate fared in cross-validation.

    Attributes:
        name: model family and objective, unique in the contest.
        folds: the metric on each fold.
        mean: their mean with its interval; NaN ends where there are too few folds.
        gain: paired difference to the plain log-loss baseline with its interval; None for the baseline itself.
        seconds: mean training time of a fold; None if not measured.
        winner: whether it was chosen and refitted.
        baseline: whether it is the plain log loss that the others are compared with.
    """

    name: str
    folds: tuple[float, ...]
    mean: Interval
    gain: Interval | None = None
    seconds: float | None = None
    winner: bool = False
    baseline: bool = False


@dataclass(frozen=True)
class ModelMetrics:
    """The metrics of one model or one score column.

    Attributes:
        name: the candidate's name, or the score column's.
        metrics: name of a metric for a reader → estimate with interval (None or NaN where undefined). The report's main
            metric stands under exactly the report's `metric`.
    """

    name: str
    metrics: Mapping[str, Interval | None]


@dataclass(frozen=True)
class Cut:
    """One threshold and what it does.

    Attributes:
        threshold: positive is what scores above it; infinite where the sample is too small to promise the rate.
        fpr: false-positive rate measured with it on `ThresholdTable.measured_on`.
        tpr: true-positive rate measured with it there.
        samples_needed: how many samples of the limiting class a finite threshold needs; None where no number is enough.
    """

    threshold: float
    fpr: float | None = None
    tpr: float | None = None
    samples_needed: int | None = None


@dataclass(frozen=True)
class ThresholdRow:
    """Thresholds for one wanted rate.

    Attributes:
        rate: which rate is bounded: "fpr" from above or "tpr" from below.
        wanted: its bound.
        estimated: the plug-in threshold.
        guaranteed: the threshold whose bound holds with the table's confidence.
    """

    rate: Literal["fpr", "tpr"]
    wanted: float
    estimated: Cut | None = None
    guaranteed: Cut | None = None


@dataclass(frozen=True)
class ThresholdTable:
    """The thresholds of one model or score column.

    Attributes:
        name: as in `ModelMetrics` and `Curves`.
        rows: one per wanted rate.
        confidence: of the guaranteed thresholds, in (0, 1).
        prevalence: share of positives that the counts per 1,000 samples assume.
        chosen_on: which samples the thresholds come from, in words.
        measured_on: which samples the rates were measured on, in words.
        by_group: whether the guarantee is of the rate averaged over groups, of which one row each was used.
    """

    name: str
    rows: tuple[ThresholdRow, ...]
    confidence: float
    prevalence: float
    chosen_on: str
    measured_on: str
    by_group: bool = False


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from.

    Attributes:
        command: the exact command, ready to paste.
        versions: package → version.
        seed: of everything random; None if nothing was.
        date: when, in words; the renderers do not look at the clock.
        seconds: how long the whole run took.
    """

    command: str
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    date: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class FitReport:
    """What `equipoise fit` has to say.

    Attributes:
        title: heading.
        data: what it was fitted on.
        metric: the metric for a reader, with its region: "OPAUC (FPR ≤ 0.05)".
        region: the metric's region.
        contest: the candidates, best first; empty if nothing was compared.
        verdict: how close the contest was and whether plain log loss would have done, in words.
        validation: how the contest was held: "5 stratified folds of the training part".
        models: the refitted models on the test part, the winner first.
        curves: their curves on the test part, with the names of `models`; of several classes, one per class.
        thresholds: one table per model worth one.
        provenance: command, versions, seed, date.
        warnings: what a reader must know before trusting the numbers.
        notes: what is good to know.
        confidence: of all intervals.
    """

    title: str
    data: DataSummary
    metric: str
    provenance: Provenance
    region: Region = Region()
    contest: tuple[ContestRow, ...] = ()
    verdict: str = ""
    validation: str = ""
    models: tuple[ModelMetrics, ...] = ()
    curves: tuple[Curves, ...] = ()
    thresholds: tuple[ThresholdTable, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    confidence: float = 0.95


@dataclass(frozen=True)
class EvaluationReport:
    """What `equipoise evaluate` has to say about one or several columns of scores.

    Attributes:
        title: heading.
        data: what the scores belong to.
        metric: the metric to put first, a key of every `ModelMetrics.metrics`.
        region: its region.
        models: the metrics of each score column.
        gains: score column → difference of `metric` to the first column, on the same samples.
        curves: their curves, with the names of `models`.
        thresholds: one table per score column.
        provenance: command, versions, seed, date.
        warnings: what a reader must know before trusting the numbers.
        notes: what is good to know.
        confidence: of all intervals.
    """

    title: str
    data: DataSummary
    metric: str
    provenance: Provenance
    models: tuple[ModelMetrics, ...]
    region: Region = Region()
    gains: Mapping[str, Interval] = field(default_factory=dict)
    curves: tuple[Curves, ...] = ()
    thresholds: tuple[ThresholdTable, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    confidence: float = 0.95


Report = FitReport | EvaluationReport
