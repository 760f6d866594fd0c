"""Training objectives by name: what `equipoise fit --objective` and the estimators offer.

Every objective takes (logits, target): logits (n,) for two classes and (n, C) for more. The ranking objectives are
means over pairs and the cross-entropies means over samples, so that one learning rate serves them all.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equipoise.catalog.declarations import declared
from equipoise.core.phases import PhasedLoss
from equipoise.core.reduction import Reduction, attached_zero, reduce_losses
from equipoise.core.registry import Objective, Request, by_name
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, SampleWeight, Scalar, Scores
from equipoise.core.validate import check_choice, check_fraction, warn_once


class CrossEntropy(nn.Module):
    """Log loss of logits (n,) or (n, C), optionally weighted by class.

    Args:
        class_weight: (C,) weight of each class; equal if absent.
        reduction: "mean" over samples, not renormalised by the batch's weights; "sum"; or "none" for (n,).

    >>> CrossEntropy()(torch.tensor([0.0]), torch.tensor([1]))
    tensor(0.6931)
    """

    class_weight: Tensor | None

    def __init__(self, class_weight: Sequence[float] | None = None, reduction: Reduction = "mean") -> None:
        super().__init__()
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
        self.register_buffer("class_weight", weight)
        self.reduction: Reduction = reduction

    @checked
    def forward(
        self, logits: Scores | ClassScores, target: ClassTarget, sample_weight: SampleWeight | None = None
    ) -> Scalar | Float[Tensor, " n"]:
        """The loss of every sample, weighted by class and by how often it counts, and reduced.

        The mean is over counts, Σ w_i c_y ℓ_i / Σ w_i; zero, attached to the graph, where no sample has a weight
        (warned once).
        """
        if logits.ndim == 1:
            each = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        else:
            each = F.cross_entropy(logits, target, reduction="none")
        # PyTorch's weighted mean divides by the batch's own weights, which undoes them on a batch of one class.
        weight = None if self.class_weight is None else self.class_weight[target].to(each.dtype)
        if sample_weight is not None:
            total = sample_weight.sum()
            if self.reduction == "mean" and not float(total) > 0:
                warn_once("the cross-entropy is zero: no sample of the batch has a weight")
                return attached_zero(logits)
            count = sample_weight * (len(each) / total) if self.reduction == "mean" else sample_weight
            weight = count if weight is None else weight * count
            weight = weight.to(each.dtype)
        return reduce_losses(each, self.reduction, weight=weight)


def _weighted_cross_entropy(request: Request) -> nn.Module:
    # Inverse frequency, scaled so that the mean weight of a training sample is 1.
    total, classes = sum(request.class_counts), len(request.class_counts)
    return CrossEntropy([total / (classes * (count or 1)) for count in request.class_counts])


def weighs_samples(loss: nn.Module) -> bool:
    """Whether a loss takes weights of samples as `sample_weight`, in all of its phases.

    >>> weighs_samples(CrossEntropy()), weighs_samples(nn.CrossEntropyLoss())
    (True, False)
    """
    if isinstance(loss, PhasedLoss):
        return weighs_samples(loss.early) and weighs_samples(loss.late)
    return "sample_weight" in inspect.signature(loss.forward).parameters


OBJECTIVES: dict[str, Objective] = by_name(
    [
        Objective("cross_entropy", "plain log loss", lambda _: CrossEntropy(), multiclass=True, weighs_samples=True),
        Objective(
            "weighted_cross_entropy",
            "log loss, every class with the same weight",
            _weighted_cross_entropy,
            multiclass=True,
            decides=True,
            weighs_samples=True,
        ),
        *declared(Objective).values(),
    ]
)


def make_objective(
    name: str,
    *,
    num_classes: int,
    class_counts: Sequence[float],
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    total_epochs: int = 1,
    k: int | None = None,
) -> nn.Module:
    """Build the loss of that name.

    Args:
        name: one of `OBJECTIVES`.
        num_classes: 2 for logits (n,), more for (n, C).
        class_counts: training samples of every class, or the sums of their weights.
        max_fpr: false-positive budget in (0, 1].
        min_tpr: least true-positive rate in [0, 1).
        total_epochs: length of the training.
        k: length of the list of a top-k objective; 5, or one less than there are classes, if absent.

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
    if not objective.takes(num_classes):
        known = ", ".join(repr(o.name) for o in OBJECTIVES.values() if o.takes(num_classes))
        wanted, those = ("several", "two") if num_classes == 2 else ("two", "more")
        # The first words are those that scikit-learn asks of its classifiers.
        start = "" if num_classes == 2 else "Only binary classification is supported. The "
        raise ValueError(
            f"{start}objective {name!r} is for {wanted} classes, got {num_classes}; for {those} there are {known}"
        )
    return objective.build(Request(num_classes, tuple(class_counts), max_fpr, min_tpr, total_epochs, k))
