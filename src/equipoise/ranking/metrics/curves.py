"""The ROC and the precision-recall curve, and pictures of them with the region of a partial metric shaded."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.roc import RocCurve
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Fraction, ProperFraction, SampleWeight, Scores

Points: TypeAlias = Float[Tensor, " points"]


@checked
def roc_curve(
    scores: Scores, target: BinaryTarget, *, sample_weight: SampleWeight | None = None
) -> tuple[Points, Points, Points]:
    """Corners (fpr, tpr, thresholds) of the ROC polygon, from (0, 0) at threshold +inf to (1, 1).

    Every distinct score is a corner; none is dropped. For a part of the curve see `core.curves.roc.RocCurve.region`.

    Args:
        scores: (n,) scores, higher means more positive.
        target: (n,) in {0, 1}.
        sample_weight: (n,) non-negative, how often each sample counts; the score of one without weight is no corner.

    Raises:
        ValueError: if one class is absent, or has no weight.

    >>> roc_curve(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 0, 1]))[0]
    tensor([0., 0., 1., 1.], dtype=torch.float64)
    """
    curve = defined_curve(scores, target, sample_weight, name="the ROC curve")
    fpr, tpr, thresholds = (x.to(scores.device) for x in curve.roc())
    return fpr, tpr, thresholds


@checked
def precision_recall_curve(
    scores: Scores, target: BinaryTarget, *, sample_weight: SampleWeight | None = None
) -> tuple[Points, Points, Points]:
    """(precision, recall, thresholds) at every distinct score, from the highest down.

    Args:
        scores: as in `roc_curve`.
        target: as in `roc_curve`.
        sample_weight: as in `roc_curve`.

    Raises:
        ValueError: as `roc_curve`.

    >>> precision_recall_curve(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 0, 1]))[1]
    tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    curve = defined_curve(scores, target, sample_weight, name="the precision-recall curve")
    precision, recall, thresholds = (x.to(scores.device) for x in curve.precision_recall())
    return precision, recall, thresholds


def defined_curve(
    scores: Tensor, target: Tensor, sample_weight: Tensor | None = None, *, name: str = "a curve"
) -> RocCurve:
    """The counts of a curve.

    Raises:
        ValueError: if the scores are of several labels, or one class is absent.
    """
    if scores.ndim != 1:
        raise ValueError(f"{name} is drawn of binary scores (n,); plot the labels one by one")
    curve = RocCurve.from_scores(scores, target, sample_weight)
    if not curve.defined:
        raise ValueError(f"{name} needs both classes, got {curve.n_pos} positives and {curve.n_neg} negatives")
    return curve


@checked
def plot_roc(curve: RocCurve, *, max_fpr: Fraction = 1.0, min_tpr: ProperFraction = 0.0, ax: Any = None) -> Any:
    """Draw an ROC curve and shade what of it lies in FPR ≤ max_fpr, TPR ≥ min_tpr.

    Args:
        curve: of a sample with both classes.
        max_fpr: right end of the region in (0, 1].
        min_tpr: lower end of the region in [0, 1).
        ax: matplotlib axes to draw on; a new figure if absent.

    Returns:
        (figure, axes).

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure, ax = new_axes(ax)
    fpr, tpr, _ = curve.roc()
    ax.plot([0, 1], [0, 1], linestyle=":", color="0.6", linewidth=1)
    ax.plot(fpr, tpr, color="C0")
    if max_fpr < 1 or min_tpr > 0:
        inside_fpr, inside_tpr = curve.region(max_fpr, min_tpr)
        ax.fill_between(inside_fpr, min_tpr, inside_tpr, color="C0", alpha=0.25, linewidth=0)
        ax.axvline(max_fpr, color="0.4", linewidth=0.8)
        ax.axhline(min_tpr, color="0.4", linewidth=0.8)
        area = float(curve.partial_area(max_fpr, min_tpr))
        ax.set_title(f"normalised area {area:.3f} for FPR ≤ {max_fpr:g}" + (f", TPR ≥ {min_tpr:g}" * (min_tpr > 0)))
    else:
        ax.set_title(f"AUROC {float(curve.auroc()):.3f}")
    ax.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(0, 1), ylim=(0, 1.005))
    return figure, ax


def plot_precision_recall(curve: RocCurve, *, ax: Any = None) -> Any:
    """Draw a precision-recall curve with the base rate as a line; returns (figure, axes).

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure, ax = new_axes(ax)
    precision, recall, _ = curve.precision_recall()
    start = torch.zeros(1, dtype=recall.dtype)
    ax.step(torch.cat([start, recall]), torch.cat([precision[:1], precision]), where="pre", color="C0")
    ax.axhline(curve.n_pos / (curve.n_pos + curve.n_neg), linestyle=":", color="0.6", linewidth=1)
    ax.set_title(f"average precision {float(curve.average_precision()):.3f}")
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.005))
    return figure, ax


def new_axes(ax: Any) -> tuple[Any, Any]:
    """The axes given with their figure, or a new figure's."""
    if ax is not None:
        return ax.figure, ax
    from matplotlib.figure import Figure

    # A figure of its own: pyplot's global state stays as it is.
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    return figure, figure.add_subplot()
