"""What a model is judged by, chosen by name: a metric together with the region of the curve it looks at.

Early stopping, model selection, reports and the command line all speak of one `Criterion`, so that the same numbers
mean the same thing everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from equipoise.catalog.declarations import declared
from equipoise.core.registry import CriterionKind
from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, ProperFraction
from equipoise.core.validate import check_choice


@checked
@dataclass(frozen=True)
class Criterion:
    """A metric and its region, higher being better.

    Attributes:
        name: what a room declares as a `CriterionKind`, or an alias of it.
        max_fpr: the false-positive budget in (0, 1]; for `opauc` and `tpauc` only.
        min_tpr: the least true-positive rate in [0, 1); for `tpauc` only.
        k: length of the list for `top_k_accuracy` and `autkc` only; 5, or one less than there are classes, if absent.

    Raises:
        ValueError: if the name is unknown, or a bound is missing, out of range or not used by this metric.

    >>> opauc_5 = Criterion("opauc", max_fpr=0.05)
    >>> opauc_5.title
    'OPAUC (FPR ≤ 0.05)'
    >>> float(opauc_5(torch.tensor([0.9, 0.1, 0.4]), torch.tensor([1, 0, 0])))
    1.0
    """

    name: str
    max_fpr: Fraction | None = None
    min_tpr: ProperFraction | None = None
    k: Count | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", criterion_kind(self.name).name)
        kind = self.kind
        for argument, value, used in (
            ("max_fpr", self.max_fpr, kind.uses_max_fpr),
            ("min_tpr", self.min_tpr, kind.uses_min_tpr),
        ):
            if used and value is None:
                raise ValueError(f"metric {self.name!r} needs {argument}, for example {argument}=0.05")
            if not used and value is not None:
                raise ValueError(
                    f"metric {self.name!r} does not use {argument}={value!r}; drop it, or choose "
                    + ("'tpauc'" if argument == "min_tpr" else "'opauc' or 'tpauc'")
                )
        if self.k is not None and not kind.uses_k:
            raise ValueError(f"metric {self.name!r} does not use k={self.k!r}; drop it, or choose 'top_k_accuracy'")

    @property
    def kind(self) -> CriterionKind:
        """What the room declares of it."""
        return criterion_kind(self.name)

    @property
    def multiclass(self) -> bool:
        """Whether it judges scores (n, C) rather than (n,)."""
        return self.kind.multiclass

    @property
    def title(self) -> str:
        """The name for a reader, with the region."""
        bounds = [
            f"{symbol} {value:g}"
            for symbol, value in (("FPR ≤", self.max_fpr), ("TPR ≥", self.min_tpr), ("k =", self.k))
            if value is not None
        ]
        return self.kind.summary + (f" ({', '.join(bounds)})" if bounds else "")

    def __call__(self, scores: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Judge scores (n,) or (n, C) by targets (n,), weighted by (n,); NaN with one warning where it is undefined."""
        settings = {"max_fpr": self.max_fpr, "min_tpr": self.min_tpr, "k": self.k, "sample_weight": sample_weight}
        return self.kind.function(scores, target, **{name: v for name, v in settings.items() if v is not None})


def criterion_kind(name: str) -> CriterionKind:
    """What is declared under a name or an alias.

    Raises:
        ValueError: if nothing is.

    >>> criterion_kind("ap").name
    'average_precision'
    """
    kinds = declared(CriterionKind)
    aliases = {alias: kind for kind in kinds.values() for alias in kind.aliases}
    check_choice("metric", name, [*kinds, *aliases])
    return kinds.get(name) or aliases[name]


def fitting_criterion(
    metric: str | None,
    num_classes: int,
    *,
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    k: int | None = None,
) -> Criterion:
    """The criterion of that name, with those of the bounds that it uses.

    Args:
        metric: its name; None for TPAUC or OPAUC where bounds are given, else AUROC, one-vs-one for several classes.
        num_classes: of the target.
        max_fpr: as in `Criterion`; may be meant for the objective alone.
        min_tpr: as `max_fpr`.
        k: as `max_fpr`.

    Raises:
        ValueError: as `Criterion`, or if the metric does not fit the number of classes.

    >>> fitting_criterion(None, 2, max_fpr=0.05).title
    'OPAUC (FPR ≤ 0.05)'
    """
    if metric is None:
        binary = "auroc" if max_fpr is None else "opauc" if min_tpr is None else "tpauc"
        metric = binary if num_classes == 2 else "ovo_auroc"
    kind = criterion_kind(metric)
    if kind.multiclass != (num_classes > 2):
        known = ", ".join(repr(c.name) for c in declared(CriterionKind).values() if c.multiclass != kind.multiclass)
        wanted = "several" if kind.multiclass else "two"
        raise ValueError(f"metric={metric!r} is for {wanted} classes, got {num_classes}; choose one of {known}")
    return Criterion(
        kind.name,
        max_fpr if kind.uses_max_fpr else None,
        min_tpr if kind.uses_min_tpr else None,
        k if kind.uses_k else None,
    )
