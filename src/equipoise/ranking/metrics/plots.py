"""Pictures of curves, with the region that a partial metric looks at shaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equipoise.core.curves.roc import RocCurve


def plot_roc(curve: RocCurve, *, max_fpr: float = 1.0, min_tpr: float = 0.0, ax: Any = None) -> Any:
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
    figure, ax = _axes(ax)
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
    figure, ax = _axes(ax)
    precision, recall, _ = curve.precision_recall()
    start = torch.zeros(1, dtype=recall.dtype)
    ax.step(torch.cat([start, recall]), torch.cat([precision[:1], precision]), where="pre", color="C0")
    ax.axhline(curve.n_pos / (curve.n_pos + curve.n_neg), linestyle=":", color="0.6", linewidth=1)
    ax.set_title(f"average precision {float(curve.average_precision()):.3f}")
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.005))
    return figure, ax


def plot_pair_matrix(matrix: Tensor, *, ax: Any = None) -> Any:
    """Draw a matrix of pairwise AUROCs; returns (figure, axes).

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure, ax = _axes(ax)
    image = ax.imshow(matrix.cpu().numpy(), vmin=0.5, vmax=1.0, cmap="viridis")
    figure.colorbar(image, ax=ax, label="AUROC")
    ax.set(xlabel="against class", ylabel="class")
    return figure, ax


def _axes(ax: Any) -> tuple[Any, Any]:
    if ax is not None:
        return ax.figure, ax
    from matplotlib.figure import Figure

    # A figure of its own: pyplot's global state stays as it is.
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    return figure, figure.add_subplot()
