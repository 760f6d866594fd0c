"""What is said of scores once they are there: metrics with intervals, curves, thresholds."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise import __version__
from equipoise.core.curves.intervals import Interval, bootstrap_metrics
from equipoise.core.curves.roc import RocCurve
from equipoise.core.curves.thresholds import (
    Threshold,
    guaranteed_threshold,
    guaranteed_threshold_at_tpr,
    threshold_at_fpr,
    threshold_at_tpr,
)
from equipoise.core.registry import list_length
from equipoise.core.validate import check_fraction
from equipoise.ranking.criteria import Criterion, fitting_criterion
from equipoise.report import Cut, Provenance, ThresholdRow, ThresholdTable
from equipoise.workflows.errors import InputError
from equipoise.workflows.scores.requests import JudgeRequest

DEFAULT_MAX_FPR, DEFAULT_MIN_TPR = 0.05, 0.5
_PACKAGES = ("torch", "numpy", "lightning", "scikit-learn", "skrub", "lightgbm", "xgboost")
_MULTICLASS_BESIDE = ("ovo_auroc", "balanced_accuracy", "worst_class_accuracy", "top_k_accuracy")
# An AUROC below this is taken for a mistake of signs rather than a bad model.
_TURNED = 0.4
WANTED_FPR = (0.001, 0.01, 0.05, 0.1)
WANTED_TPR = (0.8, 0.9, 0.95)


def curve_metrics(max_fpr: float | None, min_tpr: float | None) -> dict[str, Callable[[RocCurve], Any]]:
    """The metrics of a binary curve under the names that a report gives them."""
    b = DEFAULT_MAX_FPR if max_fpr is None else max_fpr
    t = DEFAULT_MIN_TPR if min_tpr is None else min_tpr
    return {
        Criterion("auroc").title: lambda curve: curve.auroc(),
        Criterion("opauc", b).title: lambda curve: curve.partial_area(b),
        Criterion("tpauc", b, t).title: lambda curve: curve.partial_area(b, t),
        Criterion("average_precision").title: lambda curve: curve.average_precision(),
        f"TPR at FPR ≤ {b:g}": lambda curve: curve.tpr_at_fpr(b),
    }


def check_bootstrap(request: JudgeRequest) -> None:
    """Raise `ValueError` unless intervals of that confidence can be drawn."""
    check_fraction("confidence", request.confidence, one=False)
    if request.resamples < 1:
        raise InputError(f"resamples={request.resamples} must be at least 1")


def score_column(frame: Any, name: str) -> Tensor:
    """A column of a table as float64, (n,).

    Raises:
        InputError: if there is none, or it holds anything but finite numbers.
    """
    if name not in frame.columns:
        raise InputError(f"there is no column {name!r}; the file has {', '.join(map(str, frame.columns))}")
    try:
        values = np.asarray(frame[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"column {name!r} holds values that are no numbers; give a column of scores") from error
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(f"column {name!r} holds {bad} missing or infinite values; drop those rows first")
    return torch.from_numpy(values)


def judged(
    scores: Tensor,
    target: Tensor,
    *,
    max_fpr: float | None,
    min_tpr: float | None,
    groups: Tensor | None = None,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """Every binary metric with its bootstrap interval; area metrics keep to the region of the request."""
    return bootstrap_metrics(
        scores,
        target,
        curve_metrics(max_fpr, min_tpr),
        groups=groups,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def doubts(name: str, scores: Tensor, target: Tensor) -> list[str]:
    """What a reader of the metrics of these scores must know, in sentences."""
    pos, neg = scores[target == 1], scores[target == 0]
    if bool((scores == scores[0]).all()):
        return [f"{name} gives every row the same score: it tells nothing apart."]
    if len(pos) and len(neg) and bool(pos.min() > neg.max()):
        few = min(len(pos), len(neg))
        return [
            f"{name} separates these rows perfectly: an interval of [1.000, 1.000] says no more than that of the {few} "
            "rows of the rarer class none was on the wrong side."
        ]
    if RocCurve.from_scores(scores, target).auroc() < _TURNED:
        return [
            f"{name} ranks the other way round (AUROC below {_TURNED:g}): is a low score the sign of a positive, or "
            "should --positive name the other class?"
        ]
    return []


def multiclass_judged(
    scores: Tensor,
    target: Tensor,
    criterion: Criterion,
    *,
    groups: Tensor | None = None,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """The criterion first, then what else is asked of several classes, with a percentile bootstrap.

    Rows are drawn per class, or by whole groups; a draw of groups that lacks a class is left out.
    """
    classes = scores.shape[1]
    k = list_length(criterion.k, classes)
    beside = [fitting_criterion(name, classes, k=k) for name in _MULTICLASS_BESIDE]
    criteria = list(dict.fromkeys([criterion, *beside]))
    generator = torch.Generator().manual_seed(seed)
    present = len(target.unique())
    members = [(target == c).nonzero().squeeze(1) for c in target.unique()]
    together = [] if groups is None else [(groups == g).nonzero().squeeze(1) for g in groups.unique()]
    draws = []
    for _ in range(resamples):
        if groups is None:
            rows = torch.cat([m[torch.randint(len(m), (len(m),), generator=generator)] for m in members])
        else:
            drawn = torch.randint(len(together), (len(together),), generator=generator).tolist()
            rows = torch.cat([together[g] for g in drawn])
            if len(target[rows].unique()) < present:
                continue
        draws.append([float(c(scores[rows], target[rows])) for c in criteria])
    if not draws:
        return {c.title: Interval(float(c(scores, target)), math.nan, math.nan) for c in criteria}
    ends = torch.tensor([0.5 - confidence / 2, 0.5 + confidence / 2], dtype=torch.float64)
    low, high = torch.tensor(draws, dtype=torch.float64).quantile(ends, dim=0)
    return {c.title: Interval(float(c(scores, target)), float(low[i]), float(high[i])) for i, c in enumerate(criteria)}


def threshold_table(
    name: str,
    scores: Tensor,
    target: Tensor,
    *,
    wanted_fpr: Sequence[float] | None,
    wanted_tpr: Sequence[float] | None,
    groups: Tensor | None = None,
    confidence: float,
    sample: str,
) -> ThresholdTable:
    """Thresholds for the wanted rates, as estimated and as guaranteed, from these samples, which may come in groups.

    Raises:
        ValueError: if a rate is out of range.
    """
    pos, neg = scores[target == 1], scores[target == 0]

    def cut(threshold: Threshold) -> Cut:
        if not threshold.finite:
            return Cut(threshold.value, samples_needed=threshold.samples_needed)
        fpr, tpr = (float((side > threshold.value).double().mean()) for side in (neg, pos))
        return Cut(threshold.value, fpr, tpr, threshold.samples_needed)

    of_neg, of_pos = (None if groups is None else groups[target == side] for side in (0, 1))
    rows = []
    for rate in WANTED_FPR if wanted_fpr is None else wanted_fpr:
        sure = guaranteed_threshold(neg, rate, confidence, groups=of_neg)
        rows.append(ThresholdRow("fpr", rate, cut(threshold_at_fpr(neg, rate)), cut(sure)))
    for rate in WANTED_TPR if wanted_tpr is None else wanted_tpr:
        sure = guaranteed_threshold_at_tpr(pos, rate, confidence, groups=of_pos)
        rows.append(ThresholdRow("tpr", rate, cut(threshold_at_tpr(pos, rate)), cut(sure)))
    return ThresholdTable(
        name, tuple(rows), confidence, len(pos) / len(scores), sample, sample, by_group=groups is not None
    )


def provenance(command: str, seed: int, seconds: float) -> Provenance:
    """The command, the versions of what is installed, and the time."""
    versions = {"equipoise": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    now = datetime.datetime.now(datetime.timezone.utc)
    return Provenance(command, versions, seed, now.strftime("%Y-%m-%d %H:%M UTC"), seconds)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `metrics.json`: dataclasses as objects, numbers that are not finite as null."""
    text = json.dumps(_plain(summary), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "metrics.json").write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
