"""What a model is judged by, chosen by name: a metric together with the region of the curve it looks at.

Early stopping, model selection, reports and the command line all speak of one `Criterion`, so that the same numbers
mean the same thing everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from equipoise.core.validate import check_choice, check_fraction
from equipoise.ranking.metrics import auroc, average_precision, multiclass_auroc, tpauc


@dataclass(frozen=True)
class _Kind:
    title: str
    multiclass: bool = False
    uses_max_fpr: bool = False
    uses_min_tpr: bool = False


CRITERIA: dict[str, _Kind] = {
    "auroc": _Kind("AUROC"),
    "opauc": _Kind("OPAUC", uses_max_fpr=True),
    "tpauc": _Kind("TPAUC", uses_max_fpr=True, uses_min_tpr=True),
    "average_precision": _Kind("average precision"),
    "ovo_auroc": _Kind("one-vs-one AUROC", multiclass=True),
    "ovr_auroc": _Kind("one-vs-rest AUROC", multiclass=True),
}
ALIASES = {"ap": "average_precision", "auc": "auroc", "mauc": "ovo_auroc"}


@dataclass(frozen=True)
class Criterion:
    """A metric and its region, higher being better.

    Attributes:
        name: one of `CRITERIA` or `ALIASES`.
        max_fpr: the false-positive budget in (0, 1]; for `opauc` and `tpauc` only.
        min_tpr: the least true-positive rate in [0, 1); for `tpauc` only.

    Raises:
        ValueError: if the name is unknown, or a bound is missing, out of range or not used by this metric.

    >>> opauc_5 = Criterion("opauc", max_fpr=0.05)
    >>> opauc_5.title
    'OPAUC (FPR ≤ 0.05)'
    >>> float(opauc_5(torch.tensor([0.9, 0.1, 0.4]), torch.tensor([1, 0, 0])))
    1.0
    """

    name: str
    max_fpr: float | None = None
    min_tpr: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", ALIASES.get(self.name, self.name))
        check_choice("metric", self.name, [*CRITERIA, *ALIASES])
        kind = CRITERIA[self.name]
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
        if self.max_fpr is not None:
            check_fraction("max_fpr", self.max_fpr)
        if self.min_tpr is not None:
            check_fraction("min_tpr", self.min_tpr, zero=True, one=False)

    @property
    def multiclass(self) -> bool:
        """Whether it judges scores (n, C) rather than (n,)."""
        return CRITERIA[self.name].multiclass

    @property
    def title(self) -> str:
        """The name for a reader, with the region."""
        bounds = [
            f"{symbol} {value:g}"
            for symbol, value in (("FPR ≤", self.max_fpr), ("TPR ≥", self.min_tpr))
            if value is not None
        ]
        return CRITERIA[self.name].title + (f" ({', '.join(bounds)})" if bounds else "")

    def __call__(self, scores: Tensor, target: Tensor) -> Tensor:
        """Judge scores (n,) or (n, C) by targets (n,); NaN with one warning where it is undefined."""
        if self.multiclass:
            return multiclass_auroc(scores, target, average="ovo" if self.name == "ovo_auroc" else "ovr")
        if self.name == "average_precision":
            return average_precision(scores, target)
        if self.max_fpr is None:
            return auroc(scores, target)
        return tpauc(scores, target, self.max_fpr, self.min_tpr or 0.0)
