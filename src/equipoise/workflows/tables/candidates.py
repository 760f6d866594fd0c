"""Model families × objectives × optimizers: what a contest is held between, and how each contender is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from equipoise.core.registry import Request
from equipoise.core.validate import check_choice
from equipoise.estimators.families import FAMILIES, Family
from equipoise.ranking.criteria import Criterion
from equipoise.training.module import sample_losses
from equipoise.training.objectives import OBJECTIVES
from equipoise.training.optimizers import OPTIMIZERS, PLAIN

LOG_LOSS = "cross_entropy"


@dataclass(frozen=True)
class Candidate:
    """One contender.

    Attributes:
        model: one of `FAMILIES`.
        objective: one of `OBJECTIVES`.
        optimizer: one of `OPTIMIZERS`; of networks only.

    >>> Candidate("mlp", "partial_auc").name, Candidate("mlp", "ldam", "sam").name
    ('mlp · partial_auc', 'mlp · ldam · sam')
    """

    model: str
    objective: str
    optimizer: str = PLAIN

    def __post_init__(self) -> None:
        check_choice("model", self.model, FAMILIES)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)

    @property
    def plain(self) -> bool:
        """Whether it is what everybody tries first: log loss, and nothing around AdamW."""
        return self.objective == LOG_LOSS and self.optimizer == PLAIN

    @property
    def choices(self) -> dict[str, str]:
        """What was chosen, by kind; an optimizer only where it is not AdamW."""
        return {kind: name for kind, name in asdict(self).items() if (kind, name) != ("optimizer", PLAIN)}

    @property
    def name(self) -> str:
        """The name in tables."""
        return " · ".join(self.choices.values())

    @property
    def family(self) -> Family:
        """The model family."""
        return FAMILIES[self.model]

    def estimator(self, criterion: Criterion, seed: int, *, probabilities: bool = True) -> Any:
        """An unfitted classifier that stops early on `criterion`.

        Args:
            criterion: what it is judged by.
            seed: of its training.
            probabilities: whether they will be read. Where only `criterion` looks at the scores, they are calibrated
                just if that can change what it finds, because calibration may take five more trainings.

        >>> Candidate("linear", "auc").estimator(Criterion("auroc"), 0, probabilities=False).calibration
        """
        own = {"model": self.model, "optimizer": self.optimizer} if self.family.network else {}
        # A common scale changes no order, and offsets of the classes none within a column.
        shifted = criterion.kind.compares_classes and not OBJECTIVES[self.objective].decides
        # The objective's region is the metric's, where the metric has one.
        return self.family.load()(
            objective=self.objective,
            metric=criterion.name,
            max_fpr=criterion.max_fpr,
            min_tpr=criterion.min_tpr,
            k=criterion.k,
            calibration="cross_fit" if probabilities or shifted else None,
            random_state=seed,
            **own,
        )


@cache
def averages_samples(objective: str) -> bool:
    """Whether an objective is a mean of one loss per sample, which sharpness-aware optimizers take apart.

    >>> averages_samples("cross_entropy"), averages_samples("auc")
    (True, False)
    """
    declared = OBJECTIVES[objective]
    classes = 2 if declared.binary else 3
    try:
        sample_losses(declared.build(Request(classes, (20,) * classes, max_fpr=0.5, min_tpr=0.5)))
    except ValueError:
        return False
    return True


def contenders(families: Sequence[str], objectives: Sequence[str], optimizers: Sequence[str] = ()) -> list[Candidate]:
    """Every family with every objective that trains it; networks with every optimizer that fits the objective too.

    >>> [c.name for c in contenders(["linear", "lightgbm"], ["cross_entropy"], ["sam"])]
    ['linear · cross_entropy', 'linear · cross_entropy · sam', 'lightgbm · cross_entropy']
    """
    return [
        Candidate(model, objective, optimizer)
        for model in families
        for objective in objectives
        if FAMILIES[model].trains(objective)
        for optimizer in dict.fromkeys([PLAIN, *optimizers])
        if optimizer == PLAIN or (FAMILIES[model].network and averages_samples(objective))
    ]


def objectives_for(criterion: Criterion) -> list[str]:
    """The objectives worth comparing when the user cares about `criterion`: log loss first, then what aims at it.

    >>> objectives_for(Criterion("auroc"))
    ['cross_entropy', 'weighted_cross_entropy', 'auc']
    """
    if criterion.name in ("balanced_accuracy", "worst_class_accuracy"):
        return [LOG_LOSS, "weighted_cross_entropy", "balanced_softmax", "logit_adjusted", "ldam", "vs"]
    if criterion.kind.uses_k:
        return [LOG_LOSS, "weighted_cross_entropy", "balanced_softmax", "autkc"]
    usual = [LOG_LOSS, "weighted_cross_entropy", "auc"]
    if criterion.min_tpr is not None:
        return [*usual, "partial_auc", "two_way_partial_auc", "instancewise_partial_auc", "weighted_partial_auc"]
    if criterion.max_fpr is not None:
        return [*usual, "partial_auc", "instancewise_partial_auc", "weighted_partial_auc"]
    if criterion.name == "average_precision":
        return [*usual, "average_precision"]
    return usual
