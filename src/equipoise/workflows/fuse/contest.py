"""Ways to train a learner for each block, of one budget of epochs, each with its best rate on the rows to choose by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.curves.intervals import Interval, paired_interval
from equipoise.multimodal import BoostingStage, FusionEpoch, LateFusionTrainer, ReconBoostTrainer
from equipoise.multimodal.boosting.late_fusion import FusionMethod
from equipoise.workflows.fuse.blocks import Blocks
from equipoise.workflows.fuse.model import FusionModel, make_learner, moments, standardise
from equipoise.workflows.fuse.request import FuseRequest

METHODS = ("reconboost", "joint", "modulated", "independent")
LEVEL = 0.95
_TURN, _RECTIFICATION = 2, 1
_FUSION: dict[str, FusionMethod] = {"joint": "joint", "modulated": "ogm", "independent": "independent"}
_Labelled = tuple[dict[str, Tensor], Tensor]
Right = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Contender:
    """A way to train, with its best rate.

    Attributes:
        name: of it.
        learning_rate: that was best on the rows to choose by.
        validation: accuracy of the sum there.
        probabilities: (rows to judge by, C) of the sum.
        right: (rows to judge by,) whether the sum is right.
        right_alone: block → the same of its learner alone.
        history: of the training that was kept.
        model: what was trained.
    """

    name: str
    learning_rate: float
    validation: float
    probabilities: NDArray[np.float32]
    right: Right
    right_alone: Mapping[str, Right]
    history: Sequence[BoostingStage] | Sequence[FusionEpoch]
    model: FusionModel


class Contest:
    """The same rows, first weights and batches for every way to train.

    Args:
        rows: of all parts.
        request: the options.
    """

    def __init__(self, rows: Blocks, request: FuseRequest) -> None:
        self.rows, self.request = rows, request
        known = {name: moments(x[rows.part == 0]) for name, x in rows.x.items()}
        self.mean = {name: mean for name, (mean, _) in known.items()}
        self.scale = {name: scale for name, (_, scale) in known.items()}

    def samples(self, part: int) -> _Labelled:
        """Standardised inputs and classes of a part."""
        mine = self.rows.part == part
        inputs = {
            name: torch.from_numpy(standardise(x[mine], self.mean[name], self.scale[name]))
            for name, x in self.rows.x.items()
        }
        return inputs, torch.from_numpy(self.rows.y[mine])

    def compete(self, name: str, progress: Callable[[str], None]) -> Contender:
        """The best rate on the rows to choose by, judged on the rest."""
        train, val, test = (self.samples(part) for part in range(3))
        tried: list[tuple[float, float, Any]] = []
        for rate in self.request.learning_rates:
            progress(f"{name}: rate {rate:g}")
            trainer = self._trained(name, rate, train, val)
            tried.append((trainer.evaluate(val).accuracy, rate, trainer))
        value, rate, trainer = max(tried, key=lambda one: one[0])
        inputs, y = test
        probabilities = trainer.predict_proba(inputs)
        alone = {block: (trainer.predict({block: x}) == y).numpy() for block, x in inputs.items()}
        hidden, columns, classes = self.request.hidden, self.rows.columns, self.rows.classes
        model = FusionModel(
            name, trainer.ensemble, self.mean, self.scale, {k: columns[k] for k in inputs}, classes, hidden
        )
        right = (probabilities.argmax(1) == y).numpy()
        return Contender(name, rate, value, probabilities.numpy(), right, alone, trainer.history, model)

    def _trained(
        self, name: str, rate: float, train: _Labelled, val: _Labelled
    ) -> ReconBoostTrainer | LateFusionTrainer:
        request, classes = self.request, len(self.rows.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            learners = {block: make_learner(x.shape[1], request.hidden, classes) for block, x in train[0].items()}
        given: dict[str, Any] = {"lr": rate, "batch_size": request.batch_size, "seed": request.seed}
        if name == "reconboost":
            boosted = ReconBoostTrainer(
                learners, classes, epochs_per_stage=_TURN, rectify_epochs=_RECTIFICATION, **given
            )
            return boosted.fit(train, val, max_stages=stages_of(request.epochs, len(learners)))
        return LateFusionTrainer(learners, classes, method=_FUSION[name], **given).fit(
            train, val, epochs=request.epochs
        )


def stages_of(epochs: int, blocks: int) -> int:
    """Stages in which no learner has more epochs than the others' budget.

    A cycle of stages gives each learner a turn of two epochs and a rectification for every block.

    >>> stages_of(24, 2), stages_of(24, 3), stages_of(1, 2)
    (12, 14, 1)
    """
    return max(1, epochs * blocks // (_TURN + _RECTIFICATION * blocks))


def accuracy(right: Right) -> Interval:
    """The share that is right, with Wilson's interval over rows, which stays between 0 and 1."""
    n, share, z = len(right), float(right.mean()), NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Interval(share, min(share, middle - half), max(share, middle + half))


def ahead(one: Right, other: Right) -> Interval:
    """How much more often the one is right than the other, paired by rows."""
    return paired_interval((one.astype(np.float64) - other).tolist(), LEVEL)
