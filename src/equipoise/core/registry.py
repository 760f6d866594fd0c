"""What a method declares of itself once, so that `fit`, the estimators, the catalogue, docs and tests find it.

Every room lists its declarations in `equipoise.<room>.registry.DECLARED`; `equipoise.catalog.declared` reads them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

# A selection by the scores of an untrained model is a selection at random: the first fifth of the epochs, and at least
# one, trains on a plainer loss before a selecting objective looks at the hardest.
_WARM_UP = 0.2
DEFAULT_K = 5


@dataclass(frozen=True)
class Request:
    """What an objective or an optimizer is built from.

    Attributes:
        num_classes: 2 for logits (n,), more for (n, C).
        class_counts: training samples of every class, or the sums of their weights.
        max_fpr: false-positive budget, where the objective has one.
        min_tpr: least true-positive rate, where the objective has one.
        total_epochs: length of the training, which schedules derive from.
        k: length of the list that a top-k objective looks at; see `list_length`.
    """

    num_classes: int
    class_counts: tuple[float, ...]
    max_fpr: float | None = None
    min_tpr: float | None = None
    total_epochs: int = 1
    k: int | None = None

    @property
    def warm_up_epochs(self) -> int:
        """How many first epochs a selecting objective trains on a plainer loss."""
        return max(1, round(_WARM_UP * self.total_epochs))


@dataclass(frozen=True)
class Declaration:
    """Something that is chosen by name.

    Attributes:
        name: what it is called in arguments and on the command line.
        summary: what it does, in a line.
        paper: slug of the paper that it is of, if any.
    """

    name: str
    summary: str
    paper: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Objective(Declaration):
    """A training objective: a loss of (logits, target), logits (n,) for two classes and (n, C) for more.

    Attributes:
        build: makes the loss of a request.
        binary: whether it takes two classes.
        multiclass: whether it takes more than two.
        needs_max_fpr: whether a request must have `max_fpr`.
        needs_min_tpr: whether a request must have `min_tpr`.
        decides: whether the order of a sample's scores (n, C) is what was trained for, such as a decision for classes
            of equal share; a calibration of it must not shift classes against each other.
        cosines: whether logits must be cosines of features and class vectors.
        weighs_samples: whether the loss takes weights (n,) of the samples as `sample_weight`.
    """

    build: Callable[[Request], nn.Module]
    binary: bool = True
    multiclass: bool = False
    needs_max_fpr: bool = False
    needs_min_tpr: bool = False
    decides: bool = False
    cosines: bool = False
    weighs_samples: bool = False

    def takes(self, num_classes: int) -> bool:
        """Whether it trains so many classes."""
        return self.binary if num_classes == 2 else self.multiclass


@dataclass(frozen=True)
class CriterionKind(Declaration):
    """A metric to judge by, higher being better; `summary` is its name for a reader.

    Attributes:
        function: of (scores, target) and, by name, `sample_weight` (n,) and the bounds that it uses, to a scalar.
        multiclass: whether it judges scores (n, C) rather than (n,).
        uses_max_fpr: whether it has a false-positive budget.
        uses_min_tpr: whether it has a least true-positive rate.
        uses_k: whether it looks at the first k classes of a list.
        compares_classes: whether it looks at the order of a sample's scores (n, C), which offsets of classes change;
            without, a metric sees the order of samples in each column only.
        aliases: other names.
    """

    function: Callable[..., Tensor]
    multiclass: bool = False
    uses_max_fpr: bool = False
    uses_min_tpr: bool = False
    uses_k: bool = False
    compares_classes: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class OptimizerChoice(Declaration):
    """An optimizer around AdamW.

    Attributes:
        build: makes it of parameter groups, a request and the base's options.
        late: share of the epochs before its last stage; weights of earlier ones are not kept.
    """

    build: Callable[..., Optimizer]
    late: float = 0.0


def list_length(k: int | None, num_classes: int) -> int:
    """The k that was asked for, or 5, or one less than there are classes where they are fewer.

    >>> list_length(None, 100), list_length(None, 4), list_length(2, 4)
    (5, 3, 2)
    """
    return min(DEFAULT_K, num_classes - 1) if k is None else k


def rarer_half(class_counts: Sequence[float]) -> list[int]:
    """The rarer half of the classes, rounded down.

    >>> rarer_half([500, 5, 50])
    [1]
    """
    return sorted(range(len(class_counts)), key=lambda c: class_counts[c])[: len(class_counts) // 2]


def by_name(declarations: Sequence[Any]) -> dict[str, Any]:
    """The declarations by their names.

    Raises:
        ValueError: if a name stands twice.
    """
    found: dict[str, Any] = {}
    for declaration in declarations:
        if declaration.name in found:
            raise ValueError(f"{type(declaration).__name__} {declaration.name!r} is declared twice")
        found[declaration.name] = declaration
    return found
