"""Training objectives by name: what `equipoise fit --objective` and the estimators offer.

Every objective takes (logits, target): logits (n,) for two classes and (n, C) for more. The ranking objectives are
means over pairs and the cross-entropies means over samples, so that one learning rate serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equipoise.core.phases import Phased
from equipoise.core.solvers.saddle import SaddleLoss
from equipoise.core.validate import check_choice, check_fraction
from equipoise.ranking import (
    AUPRCLoss,
    InstancewisePartialAUCLoss,
    MinMaxAUCLoss,
    MulticlassAUCLoss,
    PairwiseAUCLoss,
    PartialAUCLoss,
    WeightedPartialAUCLoss,
)

# A selection by the scores of an untrained model is a selection at random: the first fifth of the epochs, and at least
# one, ranks all pairs before a partial objective looks at the hardest.
_WARM_UP = 0.2


@dataclass(frozen=True)
class Request:
    """What an objective is built from.

    Attributes:
        num_classes: 2 for logits (n,), more for (n, C).
        class_counts: training samples of every class.
        max_fpr: false-positive budget, where the objective has one.
        min_tpr: least true-positive rate, where the objective has one.
        total_epochs: length of the training, which schedules derive from.
    """

    num_classes: int
    class_counts: tuple[int, ...]
    max_fpr: float | None = None
    min_tpr: float | None = None
    total_epochs: int = 1


@dataclass(frozen=True)
class Objective:
    """A training objective.

    Attributes:
        name: what it is called in arguments and on the command line.
        summary: what it does, in a line.
        build: makes the loss of a request.
        multiclass: whether it takes more than two classes.
        needs_max_fpr: whether a request must have `max_fpr`.
        needs_min_tpr: whether a request must have `min_tpr`.
    """

    name: str
    summary: str
    build: Callable[[Request], nn.Module]
    multiclass: bool = False
    needs_max_fpr: bool = False
    needs_min_tpr: bool = False


class CrossEntropy(nn.Module):
    """Log loss of logits (n,) or (n, C), optionally weighted by class.

    Args:
        class_weight: (C,) weight of each class; equal if absent.

    >>> CrossEntropy()(torch.tensor([0.0]), torch.tensor([1]))
    tensor(0.6931)
    """

    class_weight: Tensor | None

    def __init__(self, class_weight: Sequence[float] | None = None) -> None:
        super().__init__()
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight)

    def forward(
        self,
        logits: Float[Tensor, " n"] | Float[Tensor, "n classes"],
        target: Int[Tensor, " n"] | Bool[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """The mean over samples, weighted by class and not renormalised by the batch's weights."""
        if logits.ndim == 1:
            each = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        else:
            each = F.cross_entropy(logits, target, reduction="none")
        # PyTorch's weighted mean divides by the batch's own weights, which undoes them on a batch of one class.
        return each.mean() if self.class_weight is None else (each * self.class_weight[target.long()]).mean()


class WarmUp(Phased):
    """One loss for the first epochs and another for the rest.

    Args:
        first: the loss of epochs below `epochs`.
        then: the loss of the others.
        epochs: how long the first one lasts.
    """

    def __init__(self, first: nn.Module, then: nn.Module, epochs: int) -> None:
        super().__init__()
        self.first, self.then, self.epochs = first, then, epochs

    def forward(self, logits: Float[Tensor, " n"], target: Int[Tensor, " n"] | Bool[Tensor, " n"]) -> Float[Tensor, ""]:
        """The loss of the phase that the clock says."""
        loss: Tensor = (self.first if self.epoch < self.epochs else self.then)(logits, target)
        return loss


class WarmStarted(nn.Module):
    """A saddle loss whose variables begin at the saddle point of the first training batch that it sees.

    Whether that was is in the state dict, so that a resumed run does not start them again.

    Args:
        loss: has a closed form, see `SaddleLoss.initialize`.
    """

    started: Tensor

    def __init__(self, loss: SaddleLoss) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("started", torch.tensor(False))

    def forward(self, logits: Float[Tensor, " n"], target: Int[Tensor, " n"] | Bool[Tensor, " n"]) -> Float[Tensor, ""]:
        """The loss, after the start where it is due; a batch of one class cannot be started from."""
        if self.training and not self.started and 0 < int(target.sum()) < len(target):
            self.loss.initialize(logits.detach(), target)
            self.started.fill_(True)
        loss: Tensor = self.loss(logits, target)
        return loss


def _weighted_cross_entropy(request: Request) -> nn.Module:
    # Inverse frequency, scaled so that the mean weight of a training sample is 1.
    total, classes = sum(request.class_counts), len(request.class_counts)
    return CrossEntropy([total / (classes * max(count, 1)) for count in request.class_counts])


def _auc(request: Request) -> nn.Module:
    if request.num_classes > 2:
        return MulticlassAUCLoss("squared_hinge", average="ovo")
    return PairwiseAUCLoss("squared_hinge")


def _two_way_partial_auc(request: Request) -> nn.Module:
    loss = PartialAUCLoss(_given(request.max_fpr), request.min_tpr or 0.0, "squared_hinge")
    return WarmUp(_auc(request), loss, _warm_up_epochs(request))


def _one_way_partial_auc(request: Request) -> nn.Module:
    return WarmUp(_auc(request), PartialAUCLoss(_given(request.max_fpr)), _warm_up_epochs(request))


def _weighted_partial_auc(request: Request) -> nn.Module:
    return WeightedPartialAUCLoss(
        "exp",
        gamma=8.0,
        region="one_way" if request.min_tpr is None else "two_way",
        warmup_epochs=_warm_up_epochs(request),
    )


def _instancewise_partial_auc(request: Request) -> nn.Module:
    loss = InstancewisePartialAUCLoss(_given(request.max_fpr), request.min_tpr or 0.0)
    return WarmUp(_auc(request), WarmStarted(loss), _warm_up_epochs(request))


def _average_precision(request: Request) -> nn.Module:
    prior = request.class_counts[1] / sum(request.class_counts)
    return AUPRCLoss(prior)


def _warm_up_epochs(request: Request) -> int:
    return max(1, round(_WARM_UP * request.total_epochs))


def _given(value: float | None) -> float:
    if value is None:
        raise ValueError("max_fpr is missing")
    return value


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("cross_entropy", "plain log loss", lambda _: CrossEntropy(), multiclass=True),
        Objective(
            "weighted_cross_entropy",
            "log loss, every class with the same weight",
            _weighted_cross_entropy,
            multiclass=True,
        ),
        Objective("auc", "squared hinge over all pairs; one-vs-one for several classes", _auc, multiclass=True),
        Objective(
            "partial_auc",
            "squared hinge over the pairs of the highest-scored negatives",
            _one_way_partial_auc,
            needs_max_fpr=True,
        ),
        Objective(
            "two_way_partial_auc",
            "squared hinge over the pairs of the highest-scored negatives and lowest-scored positives",
            _two_way_partial_auc,
            needs_max_fpr=True,
            needs_min_tpr=True,
        ),
        Objective(
            "weighted_partial_auc",
            "square loss over all pairs, the harder a sample the more it weighs",
            _weighted_partial_auc,
        ),
        Objective(
            "minmax_auc",
            "square loss over all pairs, one sample at a time against a dual variable",
            lambda _: WarmStarted(MinMaxAUCLoss()),
        ),
        Objective(
            "instancewise_partial_auc",
            "square loss of the highest-scored negatives and, with min_tpr, the lowest-scored positives, one by one",
            _instancewise_partial_auc,
            needs_max_fpr=True,
        ),
        Objective(
            "average_precision",
            "a bound of 1 − AP at the training data's prior, whatever the batches' share of positives",
            _average_precision,
        ),
    )
}


def make_objective(
    name: str,
    *,
    num_classes: int,
    class_counts: Sequence[int],
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    total_epochs: int = 1,
) -> nn.Module:
    """Build the loss of that name.

    Args:
        name: one of `OBJECTIVES`.
        num_classes: 2 for logits (n,), more for (n, C).
        class_counts: training samples of every class.
        max_fpr: false-positive budget in (0, 1].
        min_tpr: least true-positive rate in [0, 1).
        total_epochs: length of the training.

    Raises:
        ValueError: if the name is unknown, a bound it needs is missing or out of range, or it cannot take that many
            classes.

    >>> loss = make_objective("partial_auc", num_classes=2, class_counts=[90, 10], max_fpr=0.05, total_epochs=20)
    >>> loss.epochs
    4
    """
    check_choice("objective", name, OBJECTIVES)
    objective = OBJECTIVES[name]
    for argument, value, needed in (
        ("max_fpr", max_fpr, objective.needs_max_fpr),
        ("min_tpr", min_tpr, objective.needs_min_tpr),
    ):
        if needed and value is None:
            raise ValueError(f"objective {name!r} needs {argument}, for example {argument}=0.05")
        if value is not None:
            check_fraction(argument, value, zero=argument == "min_tpr", one=argument == "max_fpr")
    if num_classes > 2 and not objective.multiclass:
        known = ", ".join(repr(o.name) for o in OBJECTIVES.values() if o.multiclass)
        raise ValueError(f"objective {name!r} is for two classes, got {num_classes}; for more there are {known}")
    return objective.build(Request(num_classes, tuple(class_counts), max_fpr, min_tpr, total_epochs))
