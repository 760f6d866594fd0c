"""Which loss and how many dimensions keep held-out answers, on the same folds for all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.crowd import OrdinalEmbedding
from equipoise.workflows.embed.request import EmbedRequest
from equipoise.workflows.errors import InputError

METHODS = {name: "distributional" if name == "dmoe" else name for name in EmbedRequest().methods}


@dataclass(frozen=True)
class Trial:
    """A loss with a number of dimensions and its best penalty.

    Attributes:
        method: name of the loss.
        dim: dimensions.
        lam: the penalty with the best mean.
        accuracy: (folds,) share of held-out answers that are kept.
    """

    method: str
    dim: int
    lam: float
    accuracy: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Over folds."""
        return float(self.accuracy.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean over folds."""
        return float(self.accuracy.std(ddof=1) / math.sqrt(len(self.accuracy)))


def question_folds(triplets: Tensor, folds: int, seed: int) -> NDArray[np.int64]:
    """(t,) the fold of each answer; all answers to one question, whichever of the two was nearer, are in one fold."""
    question = torch.cat([triplets[:, :1], triplets[:, 1:].sort(1).values], 1)
    code = torch.unique(question, dim=0, return_inverse=True)[1].numpy()
    generator = np.random.default_rng(seed)
    order = generator.permutation(int(code.max()) + 1)
    return np.asarray(order[code] % folds, dtype=np.int64)


def compare(triplets: Tensor, items: int, request: EmbedRequest, progress: Callable[[str], None]) -> list[Trial]:
    """Every loss with every number of dimensions, each with its best penalty."""
    fold = torch.from_numpy(question_folds(triplets, request.folds, request.seed))
    parts = [_part(triplets, fold == number, items) for number in range(request.folds)]
    if not all(len(train) and len(test) for train, test in parts):
        raise InputError(
            f"the {len(triplets):,} answers are too few for folds={request.folds}: one of the parts names no items but "
            "some that the others lack; give more answers"
        )
    trials = []
    for method in request.methods:
        for dim in request.dims:
            progress(f"comparing {method} in {dim} dimensions")
            found = {
                lam: np.array([_score(method, dim, lam, request.seed, *part, items) for part in parts])
                for lam in request.lams
            }
            lam = max(found, key=lambda each: float(found[each].mean()))
            trials.append(Trial(method, dim, lam, found[lam]))
    return trials


def one_error_rule(trials: Sequence[Trial]) -> Trial:
    """Of one loss, the fewest dimensions whose mean is within one standard error of the best one's."""
    best = max(trials, key=lambda trial: trial.mean)
    return min((trial for trial in trials if trial.mean >= best.mean - best.error), key=lambda trial: trial.dim)


def choose(trials: Sequence[Trial]) -> Trial:
    """The loss whose dimension by the rule keeps most answers, with that dimension."""
    by_method: dict[str, list[Trial]] = {}
    for trial in trials:
        by_method.setdefault(trial.method, []).append(trial)
    return max((one_error_rule(mine) for mine in by_method.values()), key=lambda trial: trial.mean)


def fitted(method: str, dim: int, lam: float, seed: int, triplets: Tensor, items: int) -> OrdinalEmbedding:
    """The map of a loss."""
    return OrdinalEmbedding(METHODS[method], dim=dim, lam=lam, seed=seed).fit(triplets, items)


def contradictions(triplets: Tensor, items: int) -> tuple[int, float]:
    """How many answers have an opposite, and the largest share of answers that any map can keep."""
    low, high = triplets[:, 1:].sort(1).values.unbind(1)
    question = (triplets[:, 0] * items + low) * items + high
    place = torch.unique(question, return_inverse=True)[1]
    straight = triplets[:, 1] == low
    ahead, behind = (torch.bincount(place[side], minlength=int(place.max()) + 1) for side in (straight, ~straight))
    both = (ahead > 0) & (behind > 0)
    opposed = int((ahead + behind)[both].sum())
    return opposed, float(torch.maximum(ahead, behind).sum()) / len(triplets)


def _part(triplets: Tensor, held: Tensor, items: int) -> tuple[Tensor, Tensor]:
    """Training answers, and the held-out ones of whose items training says something."""
    train, test = triplets[~held], triplets[held]
    seen = torch.bincount(train.flatten(), minlength=items) > 0
    return train, test[seen[test].all(1)]


def _score(method: str, dim: int, lam: float, seed: int, train: Tensor, test: Tensor, items: int) -> float:
    with warnings.catch_warnings():
        # Of items that training lacks, and of steps that run out: both are seen in the number.
        warnings.simplefilter("ignore", UserWarning)
        return fitted(method, dim, lam, seed, train, items).score(test)
