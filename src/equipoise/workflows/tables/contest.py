"""A contest: every candidate is trained on the same folds and judged by one criterion; the best mean wins.

Nothing outside the training part is looked at. The folds' interval is corrected for the training rows that folds share,
and every candidate is compared with plain log loss fold by fold, because that is the question a reader has. Scores rank
the candidates, so that probabilities are calibrated only for a criterion which that may change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval, fold_interval
from equipoise.ranking.criteria import Criterion
from equipoise.workflows.tables.candidates import LOG_LOSS, Candidate

_log = logging.getLogger(__name__)

Indices = NDArray[np.int64]
Encode = Callable[[str, Indices, Indices], tuple[Any, Any]]


@dataclass(frozen=True)
class Entry:
    """How one candidate fared.

    Attributes:
        candidate: who.
        scores: the criterion on each fold.
        mean: its mean over folds with a corrected interval.
        gain: the paired difference to plain log loss; None for the baseline itself.
        seconds: mean training time of a fold.
    """

    candidate: Candidate
    scores: tuple[float, ...]
    mean: Interval
    seconds: float
    gain: Interval | None = None


@dataclass(frozen=True)
class Contest:
    """All entries, best first.

    Attributes:
        entries: one per candidate, best mean first.
        baseline: the best candidate trained with plain log loss.
    """

    entries: tuple[Entry, ...]
    baseline: Candidate

    @property
    def winner(self) -> Entry:
        """The entry with the best mean."""
        return self.entries[0]

    def verdict(self, criterion: Criterion) -> str:
        """How close the contest was, and whether plain log loss would have done, in words."""
        first = self.winner
        if first.candidate == self.baseline or first.gain is None:
            return (
                f"Plain log loss did best: no other objective beat {self.baseline.name} on {criterion.title} "
                f"({first.mean.estimate:.3f}) in cross-validation."
            )
        lead = f"{first.candidate.name} won with {criterion.title} {first.mean.estimate:.3f}"
        estimate, low, high = (
            f"{x:+.3f}".replace("-", "−") for x in (first.gain.estimate, first.gain.low, first.gain.high)
        )
        gain = f"{estimate} (95 % interval {low} to {high})"
        if round(first.gain.low, 3) > 0:
            return f"{lead}: {gain} against the best plain log loss, {self.baseline.name}, which would not have done."
        return (
            f"{lead}, but the contest was close: {gain} against the best plain log loss, {self.baseline.name}. "
            "On this evidence plain log loss would have done."
        )


def decision_scores(estimator: Any, features: Any) -> torch.Tensor:
    """Scores of a fitted classifier as a float64 tensor, (n,) for two classes and (n, C) for more."""
    return torch.as_tensor(np.asarray(estimator.decision_function(features)), dtype=torch.float64)


def run_contest(
    candidates: Sequence[Candidate],
    folds: Sequence[tuple[Indices, Indices]],
    target: NDArray[np.int64],
    encode: Encode,
    criterion: Criterion,
    *,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Contest:
    """Train every candidate on every fold and rank them by the mean of `criterion`.

    Args:
        candidates: who takes part; at least one with plain log loss.
        folds: (training rows, held-out rows) of each fold.
        target: class codes of all rows that the folds index.
        encode: (encoding, training rows, held-out rows) → features of both, fitted on the training rows only.
        criterion: what is compared, higher being better.
        seed: of every training run, the same for all candidates of a fold.
        progress: told in words what is being done.

    Raises:
        ValueError: if no candidate has plain log loss, or the criterion is undefined on a fold.
    """
    plain = [c for c in candidates if c.plain]
    if not plain:
        raise ValueError(f"a contest needs a candidate with objective {LOG_LOSS!r} to be compared with")
    scores: dict[Candidate, list[float]] = {c: [] for c in candidates}
    seconds: dict[Candidate, list[float]] = {c: [] for c in candidates}
    ratios = []
    for number, (train, held_out) in enumerate(folds):
        ratios.append(len(held_out) / len(train))
        truth = torch.as_tensor(target[held_out])
        encoded: dict[str, tuple[Any, Any]] = {}
        for candidate in candidates:
            progress(f"fold {number + 1} of {len(folds)}: {candidate.name}")
            if candidate.family.encoding not in encoded:
                encoded[candidate.family.encoding] = encode(candidate.family.encoding, train, held_out)
            fit_features, test_features = encoded[candidate.family.encoding]
            start = time.perf_counter()
            estimator = candidate.estimator(criterion, seed + number, probabilities=False)
            estimator.fit(fit_features, target[train])
            seconds[candidate].append(time.perf_counter() - start)
            value = float(criterion(decision_scores(estimator, test_features), truth))
            if not np.isfinite(value):
                raise ValueError(
                    f"{criterion.title} is undefined on fold {number + 1}: a class is missing there; use fewer folds"
                )
            scores[candidate].append(value)
            _log.info("fold %d %s %s %.4f", number + 1, candidate.name, criterion.title, value)
    ratio = float(np.mean(ratios))
    baseline = max(plain, key=lambda c: float(np.mean(scores[c])))

    def entry(candidate: Candidate) -> Entry:
        own = scores[candidate]
        gain = None
        if candidate != baseline:
            gain = fold_interval([a - b for a, b in zip(own, scores[baseline], strict=True)], ratio)
        mean = fold_interval(own, ratio)
        # Every criterion lies in [0, 1], which a t interval does not know.
        mean = Interval(mean.estimate, max(mean.low, 0.0), min(mean.high, 1.0))
        return Entry(candidate, tuple(own), mean, float(np.mean(seconds[candidate])), gain)

    # A tie goes to plain log loss, then to the order in which the candidates were named.
    ranked = sorted(candidates, key=lambda c: (-float(np.mean(scores[c])), c != baseline))
    return Contest(tuple(entry(c) for c in ranked), baseline)
