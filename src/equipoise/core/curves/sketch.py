"""Curves of more scores than memory holds: a mergeable sketch with certified bounds.

A `CurveSketch` counts positives and negatives at exact scores as long as these fit, and folds them into cells of nearby
scores when they do not (`core.curves.sketch_cells` says how). Of a sample in a cell it is known that its score lies
between the cell's ends, and nothing else. So the exact value lies between what the metric is in the worst case and in
the best:

    lower    every positive at the low end of its cell, every negative at the high end
    upper    the other way round

Both are data sets that the sketch cannot tell from the true one, and nothing lies beyond them, because areas of the ROC
polygon are monotone: a point of the polygon is a rule "positive above t, by a coin of bias λ at t". Raising the score
of a positive raises the true-positive rate of a rule or leaves it, raising that of a negative moves the rule's
false-positive rate to the right or leaves it; so the polygon moves up or left by the one and down or right by the
other. The same holds for the highest TPR among rules without a coin.

Average precision is no such metric. It gives tied positives the precision at the end of the tie, so a positive that
rises out of a tie with another can lower it. It is bounded sample by sample instead: with T positives and F negatives
at or above a positive's score, its precision T / (T + F) lies between the least T with the most F and the reverse.

Nothing needs to be known of the range of the scores, and the order in which they come matters for the width of the
bounds only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.curves.roc import Normalization, RocCurve
from equipoise.core.curves.sketch_cells import (
    Batch,
    Counts,
    Images,
    Numbers,
    Values,
    cell_ends,
    fold,
    images,
    values_of,
)
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Fraction, MayBeEmpty, ProperFraction, Range, Scores, Whole
from equipoise.core.validate import check_choice, warn_once

_ALIASES = {"auc": "auroc", "ap": "average_precision"}
# Which bounds of the region each metric takes.
_NEEDS: dict[str, tuple[str, ...]] = {
    "auroc": (),
    "opauc": ("max_fpr",),
    "tpauc": ("max_fpr", "min_tpr"),
    "average_precision": (),
    "tpr_at_fpr": ("max_fpr",),
}
_ROW_BYTES, _RAW_BYTES = 24, 9
# The share of the memory that collects small updates before they are worth sorting.
_COLLECTING = 1 / 8
_LEAST_BYTES = 4096
# Samples that are sorted at once; what an update needs beside the state is a small multiple.
_PIECE = 1 << 22
_FINITE = images(np.array([-np.finfo(np.float64).max, np.finfo(np.float64).max]))
# Sums of rates in float64 differ by their order; bounds are widened by more than that.
_ROUNDING = 1e-13


@runtime_checkable
class Metric(Protocol):
    """What names a metric and its region, for example `equipoise.ranking.Criterion`."""

    @property
    def name(self) -> str:
        """Which of the metrics that `CurveSketch.compute` knows."""

    @property
    def max_fpr(self) -> float | None:
        """The false-positive budget, where the metric has one."""

    @property
    def min_tpr(self) -> float | None:
        """The least true-positive rate, where the metric has one."""


@dataclass(frozen=True)
class Bounds:
    """An estimate and certified bounds: the value of all samples that were counted lies in [lower, upper].

    They say how exactly the value was computed, and nothing of how far it would move with another sample. All are NaN
    where a class is missing.
    """

    lower: float
    value: float
    upper: float

    @property
    def width(self) -> float:
        """How far the bounds are apart; zero where the sketch is still exact."""
        return self.upper - self.lower


class CurveSketch:
    """Counts of scores in bounded memory, for certified bounds on decision curves' metrics.

    Args:
        max_bytes: how much memory the state may take, at least 4096. On 1 MiB, bounds on the AUROC of fifty million
            ordinary scores are about 3e-5 apart; the width is in inverse proportion.

    >>> sketch = CurveSketch()
    >>> for scores, target in [([0.9, 0.5], [1, 1]), ([0.5, 0.1], [0, 0])]:
    ...     sketch.update(torch.tensor(scores), torch.tensor(target))
    >>> sketch.compute("auroc")
    Bounds(lower=0.875, value=0.875, upper=0.875)
    """

    @checked
    def __init__(self, max_bytes: Annotated[int, Range(_LEAST_BYTES)] = 1 << 20) -> None:
        self.max_bytes = max_bytes
        collected = int(max_bytes * _COLLECTING)
        self._rows = (max_bytes - collected) // _ROW_BYTES
        self._room = collected // _RAW_BYTES
        self._points = self._cells = Counts.none()
        self._raw_scores, self._raw_positive = np.empty(self._room), np.empty(self._room, np.bool_)
        self._collected = 0

    @property
    def nbytes(self) -> int:
        """The memory that the state takes, in bytes."""
        tables = sum(part.nbytes for counts in (self._points, self._cells) for part in counts)
        return tables + self._raw_scores.nbytes + self._raw_positive.nbytes

    @property
    def exact(self) -> bool:
        """Whether every score is still told from every other, so that bounds meet."""
        self._settle()
        return not len(self._cells.at)

    @property
    def n_pos(self) -> int:
        """How many positives were counted."""
        return self._total(1) + int(np.count_nonzero(self._raw_positive[: self._collected]))

    @property
    def n_neg(self) -> int:
        """How many negatives were counted."""
        return self._total(2) + int(np.count_nonzero(~self._raw_positive[: self._collected]))

    @checked
    def update(self, scores: Annotated[Scores, MayBeEmpty()], target: Annotated[BinaryTarget, MayBeEmpty()]) -> None:
        """Count more samples.

        Args:
            scores: (n,) finite scores, higher means more positive.
            target: (n,) in {0, 1}.
        """
        values = scores.detach().cpu().double().numpy()
        positive = (target.detach() == 1).cpu().numpy()
        if len(values) <= self._room - self._collected:
            piece = slice(self._collected, self._collected + len(values))
            self._raw_scores[piece], self._raw_positive[piece] = values, positive
            self._collected += len(values)
            return
        self._settle()
        for start in range(0, len(values), _PIECE):
            piece = slice(start, start + _PIECE)
            self._add(Counts.none(), Counts.none(), Batch.of(values[piece], positive[piece]))

    @checked
    def merge(self, other: CurveSketch) -> None:
        """Count all that another sketch has counted; the other stays as it is."""
        points, cells = other._points, other._cells
        raw = Batch.of(other._raw_scores[: other._collected], other._raw_positive[: other._collected])
        self._settle()
        self._add(points, cells, raw)

    @checked
    def compute(
        self,
        metric: str | Metric,
        *,
        max_fpr: Fraction | None = None,
        min_tpr: ProperFraction | None = None,
        normalization: Normalization = "normalized",
        on_undefined: Literal["nan", "raise"] = "nan",
    ) -> Bounds:
        """Bounds on a metric of all samples that were counted, and an estimate of it.

        Args:
            metric: "auroc" (or "auc"), "opauc", "tpauc", "average_precision" (or "ap"), "tpr_at_fpr", or an object
                with such a `name` and the attributes `max_fpr` and `min_tpr`.
            max_fpr: the false-positive budget in (0, 1]; for "opauc", "tpauc" and "tpr_at_fpr".
            min_tpr: the least true-positive rate in [0, 1); for "tpauc".
            normalization: of partial areas, as `RocCurve.partial_area`.
            on_undefined: where a class is missing, "nan" (warned once) or "raise".

        Returns:
            `Bounds`: `RocCurve` of all samples would give a value in [lower, upper].

        Raises:
            ValueError: if the metric is unknown, or a bound of its region is missing or not used.

        >>> sketch = CurveSketch()
        >>> sketch.update(torch.tensor([0.9, 0.1, 0.4]), torch.tensor([1, 0, 0]))
        >>> sketch.compute("opauc", max_fpr=0.5).value
        1.0
        """
        name = metric if isinstance(metric, str) else metric.name
        if not isinstance(metric, str):
            max_fpr, min_tpr = metric.max_fpr, metric.min_tpr
        name = _ALIASES.get(name, name)
        check_choice("metric", name, [*_NEEDS, *_ALIASES])
        _check_region(name, max_fpr, min_tpr)
        self._settle()
        if not (self.n_pos and self.n_neg):
            words = f"{name} needs both classes, got {self.n_pos} positives and {self.n_neg} negatives"
            if on_undefined == "raise":
                raise ValueError(words)
            warn_once(f"{words}; it is NaN")
            return Bounds(math.nan, math.nan, math.nan)
        if name == "average_precision":
            return self._average_precision()

        def of(curve: RocCurve) -> float:
            if name == "tpr_at_fpr":
                return curve.tpr_at_fpr(max_fpr or 0.0)
            # Twice the pairs must fit an int64 to be counted whole.
            if name == "auroc" and 2 * curve.n_pos * curve.n_neg < 2**63:
                return float(curve.auroc())
            return float(curve.partial_area(max_fpr or 1.0, min_tpr or 0.0, normalization))

        low, middle, high = self._ends()
        value = of(self._curve(middle, middle))
        if self.exact:
            return Bounds(value, value, value)
        least = 0.0 if normalization != "mcclish" else -math.inf
        lower = max(of(self._curve(low, high)) - _ROUNDING, least)
        return Bounds(lower, value, min(of(self._curve(high, low)) + _ROUNDING, 1.0))

    def curve(self) -> RocCurve:
        """The curve with every sample in the middle of its cell: an estimate that bounds may be drawn around."""
        self._settle()
        middle = self._ends()[1]
        return self._curve(middle, middle)

    @checked
    def counts_above(self, thresholds: Float[Tensor, " k"]) -> tuple[Int[Tensor, "k 2"], Int[Tensor, "k 2"]]:
        """Least and most number of samples that score above each threshold.

        Args:
            thresholds: (k,) finite.

        Returns:
            (k, 2) bounds on the number of positives, (k, 2) of negatives.

        >>> sketch = CurveSketch()
        >>> sketch.update(torch.tensor([0.9, 0.1, 0.4]), torch.tensor([1, 0, 0]))
        >>> sketch.counts_above(torch.tensor([0.2]))[1]
        tensor([[1, 1]])
        """
        self._settle()
        at = images(thresholds.detach().cpu().double().numpy())
        low, _, high = self._ends()
        found = []
        for counts in (self._columns(1), self._columns(2)):
            found.append(
                torch.from_numpy(np.stack([_AtLeast(ends, counts)(at, above=True) for ends in (low, high)], axis=1))
            )
        return found[0], found[1]

    @checked
    def lowest_threshold(self, most_negatives: Whole) -> float:
        """The lowest threshold that for certain has no more than so many negatives above it; −∞ if all may be."""
        self._settle()
        if most_negatives >= self.n_neg:
            return -math.inf
        _, _, high = self._ends()
        at = np.unique(high)
        above = _AtLeast(high, self._columns(2))(at, above=True)
        return float(values_of(at[np.argmax(above <= most_negatives)][None])[0])

    @checked
    def highest_threshold(self, least_positives: Whole) -> float:
        """The highest threshold that for certain has so many positives above it; ∞ if none are needed.

        Raises:
            ValueError: if there are not so many.
        """
        self._settle()
        if least_positives > self.n_pos:
            raise ValueError(f"least_positives={least_positives!r} are wanted of {self.n_pos} positives")
        if least_positives == 0:
            return math.inf
        low, _, _ = self._ends()
        at = np.unique(low)[::-1]
        reached = _AtLeast(low, self._columns(1))(at)
        # What scores above the float before an end scores at least the end.
        return float(np.nextafter(values_of(at[np.argmax(reached >= least_positives)][None])[0], -math.inf))

    def state_dict(self) -> dict[str, Tensor]:
        """All that was counted, as int64 tensors (m, 3): to be sent to another process or written to a file."""
        self._settle()
        return {
            name: torch.from_numpy(np.stack([part.at.view(np.int64), part.positives, part.negatives], axis=1))
            for name, part in (("points", self._points), ("cells", self._cells))
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Forget what was counted and take over what another sketch has counted, folded if it does not fit.

        Raises:
            ValueError: if this is no state of a sketch.
        """
        tables: list[Counts] = []
        for name in ("points", "cells"):
            if name not in state or state[name].ndim != 2 or state[name].shape[1] != 3:
                raise ValueError(f"the state of a sketch holds points and cells of shape (m, 3), got {sorted(state)}")
            at, positives, negatives = state[name].detach().cpu().numpy().astype(np.int64).T.copy()
            tables.append(Counts(at.view(np.uint64), positives, negatives))
        for at, positives, negatives in tables:
            if (at[:1] == 0).any() or (at[1:] <= at[:-1]).any() or (np.minimum(positives, negatives) < 0).any():
                raise ValueError("the state of a sketch holds ascending places and counts that are not negative")
        self._collected = 0
        self._points = self._cells = Counts.none()
        self._add(tables[0], tables[1], Batch(np.empty(0), np.empty(0)))

    def _settle(self) -> None:
        """Sort what was collected into the tables."""
        if self._collected:
            piece = slice(0, self._collected)
            batch = Batch.of(self._raw_scores[piece], self._raw_positive[piece])
            self._collected = 0
            self._add(Counts.none(), Counts.none(), batch)

    def _add(self, points: Counts, cells: Counts, batch: Batch) -> None:
        points, cells = self._points.plus(points), self._cells.plus(cells)
        if len(points.at) + len(cells.at) + batch.distinct() <= self._rows:
            self._points, self._cells = points.plus(batch.points()), cells
        else:
            self._points, self._cells = fold(points, cells, batch, self._rows)

    def _total(self, column: int) -> int:
        return int(self._points[column].sum() + self._cells[column].sum())

    def _columns(self, column: int) -> Numbers:
        return np.concatenate([self._points[column], self._cells[column]])

    def _ends(self) -> tuple[Images, Images, Images]:
        """The lowest, the middle and the highest image that the samples of each row may have, points first."""
        low, high = cell_ends(self._cells.at)
        # The largest cells reach beyond the finite floats, where no score can be.
        ends = (np.maximum(low, _FINITE[0]), self._cells.at, np.minimum(high, _FINITE[1]))
        low, middle, high = (np.concatenate([self._points.at, part]) for part in ends)
        return low, middle, high

    def _curve(self, of_positives: Images, of_negatives: Images) -> RocCurve:
        """The curve with the positives and the negatives of each row at these images."""
        at = np.concatenate([of_positives, of_negatives])
        order = np.argsort(at)[::-1]
        nothing = np.zeros(len(of_positives), np.int64)
        positives = np.concatenate([self._columns(1), nothing])[order]
        negatives = np.concatenate([nothing, self._columns(2)])[order]
        last = np.append(np.flatnonzero(np.diff(at[order])), len(at) - 1)
        tps, fps = np.cumsum(positives)[last], np.cumsum(negatives)[last]
        held = np.diff(tps + fps, prepend=0) > 0
        thresholds = torch.from_numpy(values_of(at[order][last][held]))
        return RocCurve(thresholds, torch.from_numpy(tps[held]), torch.from_numpy(fps[held]))

    def _average_precision(self) -> Bounds:
        low, middle, high = self._ends()
        if self.exact:
            value = float(self._curve(middle, middle).average_precision())
            return Bounds(value, value, value)
        positives, negatives = self._columns(1), self._columns(2)
        is_point = low == high
        certain_pos, possible_pos = _AtLeast(low, positives), _AtLeast(high, positives)
        certain_neg, possible_neg = _AtLeast(low, negatives), _AtLeast(high, negatives)

        def sum_of_precisions(above: Numbers, added: Numbers, false: Numbers) -> Values:
            # Σ_{j=1}^{p} (T + j) / (T + j + F), from below: the sum of 1/x is at most the integral half a step around.
            return np.subtract(added, false * np.log1p(added / (above + false + 0.5)), dtype=np.float64)

        # The j-th highest positive of a cell has j of its own at or above it, and all that surely reach the cell's end.
        ahead, most_false = certain_pos(high), possible_neg(low)
        tied = certain_pos(low)
        by_cell = np.where(
            is_point,
            positives * (tied / np.maximum(tied + most_false, 1)),
            sum_of_precisions(ahead, positives, most_false),
        ).sum()
        # The k-th highest positive of all is at least the k-th highest of the worst case.
        worst = self._curve(low, high)
        gained = np.diff(worst.tps.numpy(), prepend=0)
        by_rank = sum_of_precisions(worst.tps.numpy() - gained, gained, worst.fps.numpy()).sum()
        best = possible_pos(low)
        upper = (positives * (best / np.maximum(best + certain_neg(high), 1))).sum()
        lower, upper = max(float(by_cell), float(by_rank)) / self.n_pos, float(upper) / self.n_pos
        lower, upper = max(lower - _ROUNDING, 0.0), min(upper + _ROUNDING, 1.0)
        return Bounds(lower, min(max(self._likely_average_precision(), lower), upper), upper)

    def _likely_average_precision(self) -> float:
        """Average precision if the samples of a cell were evenly mixed: Simpson's rule over each step."""
        at = self._ends()[1]
        order = np.argsort(at, kind="stable")[::-1]
        spread = np.append(np.zeros(len(self._points.at), np.bool_), np.ones(len(self._cells.at), np.bool_))[order]
        positives, negatives = self._columns(1)[order], self._columns(2)[order]
        tps, fps = np.cumsum(positives), np.cumsum(negatives)

        def precision(share: float) -> Values:
            # A positive counts itself, which is half a sample more than the share before it.
            t, f = tps - (1 - share) * positives + 0.5 * spread, fps - (1 - share) * negatives
            return t / np.maximum(t + f, 0.5)

        mean = (precision(0.0) + 4 * precision(0.5) + precision(1.0)) / 6
        return float((positives * np.where(spread, mean, precision(1.0))).sum()) / self.n_pos


class _AtLeast:
    """How many samples are placed at or above (or strictly above) an image."""

    def __init__(self, places: Images, counts: Numbers) -> None:
        order = np.argsort(places)
        self._places = places[order]
        self._beyond = np.append(np.cumsum(counts[order][::-1])[::-1], 0)

    def __call__(self, at: Images, *, above: bool = False) -> Numbers:
        return self._beyond[np.searchsorted(self._places, at, side="right" if above else "left")]


def _check_region(name: str, max_fpr: float | None, min_tpr: float | None) -> None:
    for argument, value in (("max_fpr", max_fpr), ("min_tpr", min_tpr)):
        if (value is not None) != (argument in _NEEDS[name]):
            raise ValueError(
                f"metric {name!r} "
                + (f"needs {argument}" if value is None else f"does not use {argument}={value!r}; drop it")
            )
