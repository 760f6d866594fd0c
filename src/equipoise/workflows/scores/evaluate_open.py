"""Judge a file of class scores, an open score and labels: is it known, which one is it, and both at once."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import torch
from torch import Tensor

from equipoise.core.curves.intervals import Interval, bootstrap_metrics
from equipoise.core.scores import SIDES, ScoreSpec, as_spec
from equipoise.core.validate import check_choice
from equipoise.openworld.openset.open_auc import open_set_classification_curve
from equipoise.openworld.outliers.detection import detection_curve
from equipoise.openworld.prompts.openworld_auc import openworld_curve
from equipoise.openworld.report import UNKNOWN, OpenWorldReport
from equipoise.openworld.types import Task
from equipoise.report.open_figures import (
    Line,
    curve_figure,
    decision_plane,
    legend_values,
    threshold_figure,
    top_k_figure,
)
from equipoise.report.open_page import OpenReport, open_page
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import check_bootstrap, provenance, score_column, write_summary
from equipoise.workflows.scores.requests import OpenRequest

_TOP = 10


@dataclass(frozen=True)
class OpenEvaluation:
    """What `evaluate_open` found and where it was written.

    Attributes:
        report: what `report.html` shows.
        folder: where it is.
    """

    report: OpenReport
    folder: Path


def evaluate_open(path: str | Path, request: OpenRequest, *, command: str = "") -> OpenEvaluation:
    """Judge a model that meets unknown classes, and write `metrics.json` and `report.html`.

    Args:
        path: CSV, TSV or Parquet file with one row per sample.
        request: columns, their meaning, intervals and output folder.
        command: what the user typed, for the report.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    with staged_folder(request.output, overwrite=request.overwrite, inputs=(path,)) as stage:
        with mendable():
            check_bootstrap(request)
            check_choice("higher_is", request.higher_is, SIDES)
            spec = as_spec(request.higher_is)  # type: ignore[arg-type]
            table = _read(path, request, spec)
            metric = OpenWorldReport(
                len(table.classes),
                len(table.new_classes),
                task=table.task,
                k=tuple(request.k) if request.k else None,
                higher_is=spec,
                known_recall=request.known_recall,
                on_undefined="raise",
            )
            metric.update(table.scores, table.open_score, table.target)
            values = {name: float(value) for name, value in metric.compute().items()}
        found = _Findings(metric, values, table.groups, request.confidence, request.resamples, request.seed)
        report = OpenReport(
            title=f"{Path(path).name}: known or unknown, and which one",
            facts=table.facts,
            lead=found.lead,
            measures=found.with_intervals(),
            plane=found.plane(),
            pictures=found.pictures(),
            notes=[*table.notes, *_NOTES, _DRAWN if table.groups is None else _DRAWN_BY_GROUP],
            provenance=provenance(command, request.seed, time.perf_counter() - started),
            confidence=request.confidence,
        )
        (stage / "report.html").write_text(open_page(report), encoding="utf-8")
        summary = {
            "measures": report.measures,
            "classes": table.classes,
            "new_classes": table.new_classes,
            "notes": report.notes,
            "command": command,
            "versions": report.provenance.versions,
        }
        write_summary(stage, summary)
    return OpenEvaluation(report, Path(request.output))


_NOTES = (
    "“@best” is the highest value over all thresholds: nobody can choose that threshold without the answers. "
    "“@known_recall” is at the strictest threshold that accepts the wanted share of known samples.",
    "fpr95_id_positive: unknown samples let in where 95 % of the known are kept. fpr95_ood_positive: known samples "
    "flagged where 95 % of the unknown are found.",
)
_DRAWN = "Intervals are of the percentile bootstrap, known and unknown samples drawn each at their own number."
_DRAWN_BY_GROUP = "Intervals are of the percentile bootstrap over whole groups, as many as there are."


@dataclass(frozen=True)
class _Table:
    """A file, read: classes first, new classes behind them."""

    task: Task
    classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    scores: Tensor
    open_score: Tensor
    target: Tensor
    groups: Tensor | None
    facts: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def _read(path: str | Path, request: OpenRequest, spec: ScoreSpec) -> _Table:
    from equipoise.data import read_table

    target, open_score, group = request.target, request.open_score, request.group
    frame = read_table(path, literal=[target] if group is None else [target, group])
    columns = [str(name) for name in frame.columns]
    reserved = {target, open_score, group} - {None}
    of_classes = _matched(columns, request.score, reserved, "score")
    of_new = _matched(columns, request.new or (), reserved | set(of_classes), "new")
    classes, new_classes = tuple(of_classes.values()), tuple(of_new.values())
    if len(classes) < 2:
        raise InputError(f"--score names {len(classes)} column of class scores; at least 2 are needed")
    names = [*classes, *new_classes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two columns of scores belong to the class {twice!r}; rename one")
    scores = torch.stack([score_column(frame, name) for name in (*of_classes, *of_new)], 1)
    notes: list[str] = []
    groups = None if group is None else _groups(frame, group, columns, notes)
    if open_score is None:
        highest = scores[:, : len(classes)].amax(1)
        chosen = spec.inward(highest)
        notes.append("No open score was given: the highest score of a known class stands for it.")
    else:
        chosen = score_column(frame, open_score)
    task: Task
    if "*" in target:
        of_labels = _matched(columns, [target], reserved | set(of_classes), "target")
        labels = {name: column for column, name in of_labels.items()}
        if set(labels) != set(classes):
            odd = sorted(set(labels) ^ set(classes))[0]
            raise InputError(f"labels and scores must have the same names; {odd!r} is in one of them only")
        truth = torch.stack([score_column(frame, labels[name]) for name in classes], 1)
        if bool(((truth != 0) & (truth != 1)).any()):
            raise InputError(f"the label columns {target} must hold only 0 and 1")
        task, truth = "multilabel", truth.long()
        is_known, is_new = (truth == 1).any(1), torch.zeros(len(truth), dtype=torch.bool)
    else:
        if target not in columns:
            raise InputError(f"there is no column {target!r}; the file has {', '.join(columns)}")
        truth, how = _class_indices(frame[target], target, names, request.unknown)
        notes += how
        task = "multiclass"
        is_known, is_new = (truth >= 0) & (truth < len(classes)), truth >= len(classes)
    facts = [str(path), f"{len(truth):,} rows", f"{len(classes)} classes", f"{int(is_known.sum()):,} known samples"]
    facts.append(f"{int((~is_known & ~is_new).sum()):,} unknown")
    if new_classes:
        facts.append(f"{int(is_new.sum()):,} of {len(new_classes)} new classes")
    if groups is not None:
        facts.append(f"{int(groups.max()) + 1:,} groups by {group}")
    return _Table(task, classes, new_classes, scores, chosen, truth, groups, tuple(facts), notes)


def _groups(frame: Any, name: str, columns: Sequence[str], notes: list[str]) -> Tensor:
    """The group of every row; what there is to say of their spelling goes to the notes."""
    from equipoise.data.tables.reading import group_codes

    if name not in columns:
        raise InputError(f"there is no column {name!r}; the file has {', '.join(columns)}")
    codes, merged = group_codes(name, frame[name])
    notes += merged
    return torch.from_numpy(codes)


def _matched(columns: Sequence[str], patterns: Sequence[str], taken: set[Any], role: str) -> dict[str, str]:
    """Column → class name, in the order of the patterns and of the file."""
    found: dict[str, str] = {}
    for pattern in patterns:
        before, star, after = pattern.partition("*")
        hits = [name for name in columns if fnmatchcase(name, pattern) and name not in taken]
        if not hits:
            raise InputError(f"--{role} {pattern!r} names no column; the file has {', '.join(columns)}")
        for name in hits:
            found[name] = name[len(before) : len(name) - len(after)] if star else name
    return found


def _class_indices(column: Any, target: str, names: Sequence[str], unknown: str) -> tuple[Tensor, list[str]]:
    """Position of every sample's class, -1 for unknown, and what there is to say about it."""
    missing = int(column.isna().sum())
    if missing:
        raise InputError(f"column {target!r} has {missing} empty cells; mark unknown samples by {unknown!r}")
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in column.tolist()]
    seen = list(dict.fromkeys(texts))
    positions = {str(UNKNOWN): UNKNOWN} | {name: k for k, name in enumerate(names)} | {unknown: UNKNOWN}
    if not any(text in names for text in seen) and all(_is_position(text, len(names)) for text in seen):
        numbered = ", ".join(f"{k} is {name}" for k, name in enumerate(names[:3]))
        note = f"Classes are numbered in the order of their columns ({numbered}{', …' if len(names) > 3 else ''})."
        return torch.tensor([int(text) for text in texts]), [note]
    odd = next((text for text in seen if text not in positions), None)
    if odd is not None:
        raise InputError(
            f"column {target!r} holds {odd!r}, which is no class ({', '.join(names[:5])}"
            f"{', …' if len(names) > 5 else ''}) and not the mark of unknown samples, {unknown!r}; see --unknown"
        )
    return torch.tensor([positions[text] for text in texts]), []


def _is_position(text: str, classes: int) -> bool:
    digits = text.removeprefix("-")
    return digits.isdecimal() and -1 <= int(text) < classes


@dataclass(frozen=True)
class _Findings:
    """Intervals and pictures of what the metric saw."""

    metric: OpenWorldReport
    values: Mapping[str, float]
    groups: Tensor | None
    confidence: float
    resamples: int
    seed: int

    @property
    def lead(self) -> list[str]:
        """What a reader should see first."""
        if self.metric.task == "multilabel":
            return ["novelty/auroc", f"multilabel/tkpr@{self.metric.k[-1]}"]
        coupled = ["open_world/openworld_auc"] if self.metric.num_new_classes else []
        return [*coupled, "open_set/open_auc", "closed_set/accuracy", "novelty/auroc"]

    def with_intervals(self) -> dict[str, Interval]:
        found = {name: Interval(value, math.nan, math.nan) for name, value in self.values.items()}
        scores, known = self.metric.open_scores()
        detection = {
            "novelty/auroc": lambda curve: curve.auroc(),
            "novelty/aupr_in": lambda curve: curve.average_precision(),
            "novelty/fpr95_id_positive": lambda curve: curve.fpr_at_tpr(self.metric.recall),
        }
        found |= self._bootstrap(scores, known, detection)
        if self.metric.task == "multilabel":
            return found
        seen = self.metric.decisions()
        right = seen.pred == seen.target
        area = {"open_set/open_auc": lambda curve: curve.auroc()}
        # A known sample of the wrong class wins no pair, as if it ranked below all unknown ones.
        found |= self._bootstrap(_moved(scores, known & ~right, down=True), known, area)
        found["closed_set/accuracy"] = self._share(right, known)
        new = seen.target >= self.metric.num_classes
        if bool(new.any()):
            new_right = seen.new_pred == seen.target
            moved = _moved(_moved(scores, known & ~right, down=True), new & ~new_right, down=False)
            area = {"open_world/openworld_auc": lambda curve: curve.auroc()}
            found |= self._bootstrap(moved, known, area, known | new)
            found["open_world/base_accuracy"] = found["closed_set/accuracy"]
            found["open_world/new_accuracy"] = self._share(new_right, new)
        return found

    def _bootstrap(
        self, scores: Tensor, known: Tensor, metrics: Mapping[str, Any], rows: Tensor | slice = slice(None)
    ) -> dict[str, Interval]:
        return bootstrap_metrics(
            scores[rows],
            known[rows],
            metrics,
            groups=None if self.groups is None else self.groups[rows],
            resamples=self.resamples,
            confidence=self.confidence,
            seed=self.seed,
        )

    def _share(self, right: Tensor, among: Tensor) -> Interval:
        """A resampled share is a binomial draw; of groups, the hits of the drawn ones over their samples."""
        hits, generator = right[among], np.random.default_rng(self.seed)
        estimate = float(hits.double().mean())
        if self.groups is None:
            draws = generator.binomial(len(hits), estimate, self.resamples) / len(hits)
        else:
            codes = np.unique(self.groups[among].numpy(), return_inverse=True)[1]
            sizes, found = np.bincount(codes), np.bincount(codes, hits.double().numpy())
            drawn = generator.integers(len(sizes), size=(self.resamples, len(sizes)))
            draws = found[drawn].sum(1) / sizes[drawn].sum(1)
        low, high = np.quantile(draws, [0.5 - self.confidence / 2, 0.5 + self.confidence / 2])
        return Interval(estimate, float(low), float(high))

    def plane(self) -> Element | None:
        if self.metric.task == "multilabel":
            return None
        seen = self.metric.decisions()
        threshold = self.metric.spec.inward(torch.tensor(self.values["open_set/threshold@known_recall"]))
        return decision_plane(seen, seen.known(self.metric.num_classes), float(threshold))

    def pictures(self) -> list[Element]:
        scores, known = self.metric.open_scores()
        roc = detection_curve(scores[known], scores[~known])
        zero = torch.zeros(1, dtype=torch.float64)
        rate, recall = (torch.cat([zero, side]) for side in (roc.fps / roc.n_neg, roc.tps / roc.n_pos))
        detected = Line("known accepted (ROC)", rate, recall, "s8 soft")
        if self.metric.task == "multilabel":
            words = legend_values({"AUROC": self.values["novelty/auroc"]})
            return [curve_figure("Is it known?", words, _ACCEPTED, "share of known samples", [detected])]
        seen = self.metric.decisions()
        right = seen.pred == seen.target
        accepted, both = open_set_classification_curve(scores[known], scores[~known], right[known])
        words = "The area under the solid line is OpenAUC; the dashed line does not look at classes. "
        words += legend_values({"OpenAUC": self.values["open_set/open_auc"], "AUROC": self.values["novelty/auroc"]})
        lines = [Line("accepted and right", accepted, both, "s1"), detected]
        drawn = [
            curve_figure("Both questions", words, _ACCEPTED, "share of known samples", lines),
            threshold_figure(self.metric.threshold_curve(), self.metric.known_recall),
            top_k_figure(self.metric.top_k_accuracies()[:_TOP]),
        ]
        new = seen.target >= self.metric.num_classes
        if bool(new.any()):
            miss, hit = openworld_curve(scores[known], scores[new], right[known], (seen.new_pred == seen.target)[new])
            words = legend_values({"OpenworldAUC": self.values["open_world/openworld_auc"]}) + ", the area below."
            lines = [Line("found and right", miss, hit, "s1")]
            drawn.append(curve_figure("Three answers", words, "base samples missed", "new samples hit", lines))
        return drawn


_ACCEPTED = "share of unknown samples accepted"


def _moved(scores: Tensor, which: Tensor, *, down: bool) -> Tensor:
    """The same ranking, with some samples below (or above) all others."""
    room = 1 + float(scores.abs().max())
    return torch.where(which, scores - 2 * room if down else scores + 2 * room, scores)
