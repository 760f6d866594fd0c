"""How far has a network collapsed? The four properties of neural collapse, and their form for many classes.

With class means μ_c, their mean μ_G (over classes), M the centred means, Σ_W the covariance within classes and Σ_B that
of the centred means:

    NC1   tr(Σ_W Σ_B⁺) / C                                  features of a class shrink to their mean
    NC2   spread of the norms and of the cosines of M       means become a simplex
    NC3   ‖ W/‖W‖ − M/‖M‖ ‖²                                classifier and means are the same
    NC4   share of samples where the nearest mean decides otherwise than the classifier

For more classes than dimensions + 1 the means form a Grassmannian frame rather than a simplex; `gnc2_gap` is how far
the largest cosine of the means, not centred, is above the best possible.

Papyan, Han and Donoho, "Prevalence of Neural Collapse", PNAS 2020 [memory]; "A Study of Neural Collapse Phenomenon:
Grassmannian Frame, Symmetry and Generalization", 2023.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.validate import check_choice, check_finite, warn_once
from equipoise.longtail.collapse.grassmannian import frame_correlation, optimal_coherence

GLOBAL_MEANS = ("class_average", "sample")
# Directions of the means that are smaller than this, relative to the largest, are no directions.
_RANK = 1e-12


def neural_collapse_metrics(
    features: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    weight: Float[Tensor, "c d"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    *,
    num_classes: int | None = None,
    global_mean: str = "class_average",
) -> dict[str, Float[Tensor, ""]]:
    """All measures of features of one set, exactly.

    Args:
        features: (n, d) before the classifier.
        target: (n,) classes.
        weight: (C, d) of the classifier; without it the measures that need it are left out.
        bias: (C,); zeros if absent.
        num_classes: C; one more than the largest class if absent. Classes without samples are left out (warned once).
        global_mean: μ_G over classes ("class_average") or over samples ("sample").

    Returns:
        float64 scalars: nc1, nc1_trace_ratio (tr Σ_W / tr Σ_B), cdnv (mean over pairs of the classes' variances over
        twice the squared distance of their means), nc2_equinorm, nc2_equiangle, nc2_max_angle, nc2_etf_error, gnc2_gap
        (NaN where the optimum is not known), and with a classifier w_equinorm, w_equiangle, nc3, gnc3 and
        nc4_disagreement. Infinite or NaN where all means are equal.

    Raises:
        ValueError: on wrong shapes, NaN features, classes out of range, or fewer than two classes with samples.

    >>> frame = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> found = neural_collapse_metrics(frame.repeat(3, 1), torch.arange(6) % 2, frame)
    >>> float(found["nc1"]), float(found["nc3"]), float(found["nc4_disagreement"])
    (0.0, 0.0, 0.0)
    """
    check_choice("global_mean", global_mean, GLOBAL_MEANS)
    h, y, w, b = _checked(features, target, weight, bias, num_classes)
    c = len(b) if b is not None else int(y.max()) + 1
    counts = torch.bincount(y, minlength=c).double()
    means = torch.zeros(c, h.shape[1], dtype=torch.float64, device=h.device).index_add_(0, y, h) / counts[:, None]
    middle = means.mean(0) if global_mean == "class_average" else h.mean(0)
    centred = means - middle
    within = h - means[y]
    variance = torch.zeros(c, dtype=torch.float64, device=h.device).index_add_(0, y, within.square().sum(1)) / counts
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    rank = min(c - 1, h.shape[1])
    kept = (torch.arange(len(singular), device=h.device) < rank) & (singular > _RANK * singular.max())
    # Σ_B = MᵀM / C has eigenvalues s²/C, so that the C of the definition cancels.
    projected = within @ directions[kept].T
    nc1 = (projected.square() / singular[kept].square()).sum() / len(h) if bool(kept.any()) else _number(math.inf, h)
    distance = torch.cdist(means, means).square()
    pairs = ~torch.eye(c, dtype=torch.bool, device=h.device)
    spread = (variance[:, None] + variance[None]) / (2 * distance)
    gram = centred @ centred.T
    simplex = (torch.eye(c) - 1 / c).to(gram) / math.sqrt(c - 1)
    cosines = _cosines(centred)[pairs]
    norms = centred.norm(dim=1)
    found = {
        "nc1": nc1,
        "nc1_trace_ratio": within.square().sum() / len(h) / (centred.square().sum() / c),
        "cdnv": spread[pairs].mean(),
        "nc2_equinorm": norms.std(correction=0) / norms.mean(),
        "nc2_equiangle": cosines.std(correction=0),
        "nc2_max_angle": (cosines + 1 / (c - 1)).abs().mean(),
        "nc2_etf_error": (gram / gram.norm() - simplex).norm(),
        "gnc2_gap": _number(_gap(means), h),
    }
    if w is not None:
        w_centred = w - w.mean(0)
        w_norms = w_centred.norm(dim=1)
        logits = h @ w.T + (0 if b is None else b)
        nearest = torch.cdist(h, means).argmin(1)
        found |= {
            "w_equinorm": w_norms.std(correction=0) / w_norms.mean(),
            "w_equiangle": _cosines(w_centred)[pairs].std(correction=0),
            "nc3": (w / w.norm() - centred / centred.norm()).square().sum(),
            "gnc3": (normalize(w, dim=1) - normalize(means, dim=1)).norm(dim=1).max(),
            "nc4_disagreement": (logits.argmax(1) != nearest).double().mean(),
        }
    return found


class NeuralCollapse(Metric):
    """`neural_collapse_metrics` over all features seen.

    Features are kept, so that the measures are exact; for large sets give a sample of each class.

    Args:
        num_classes: C, at least 2.
        global_mean: as in `neural_collapse_metrics`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = NeuralCollapse(num_classes=2)
    >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]))
    >>> float(metric.compute()["nc1"])
    0.0
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    features: list[Tensor]
    target: list[Tensor]

    def __init__(self, num_classes: int, *, global_mean: str = "class_average", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("global_mean", global_mean, GLOBAL_MEANS)
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes} must be at least 2")
        self.num_classes, self.global_mean = num_classes, global_mean
        self.classifier: tuple[Tensor | None, Tensor | None] = (None, None)
        self.add_state("features", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def set_classifier(self, weight: Tensor | None, bias: Tensor | None = None) -> None:
        """Give the classifier (C, d) that NC3 and NC4 compare with; copied."""
        self.classifier = tuple(None if x is None else x.detach().clone() for x in (weight, bias))  # type: ignore[assignment]

    def update(self, features: Tensor, target: Tensor) -> None:
        """Take a batch of features (n, d) and classes (n,).

        Raises:
            ValueError: on wrong shapes, features that are not finite, or classes out of range.
        """
        _checked(features, target, None, None, self.num_classes, partial=True)
        self.features.append(features.detach())
        self.target.append(target)

    def compute(self) -> dict[str, Tensor]:
        """The measures; those of the classifier if `set_classifier` gave one.

        Raises:
            RuntimeError: before the first `update`.
        """
        if not len(self.features):
            raise RuntimeError("NeuralCollapse has seen no features; call update(features, target) first")
        return neural_collapse_metrics(
            dim_zero_cat(self.features),
            dim_zero_cat(self.target),
            *self.classifier,
            num_classes=self.num_classes,
            global_mean=self.global_mean,
        )


def _checked(
    features: Tensor,
    target: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_classes: int | None,
    *,
    partial: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """In double precision, with the classes that have samples renumbered."""
    if features.ndim != 2 or not features.is_floating_point() or target.shape != features.shape[:1] or not len(target):
        raise ValueError(
            f"features and target must be float (n, d) and (n,), got {tuple(features.shape)}, {tuple(target.shape)}"
        )
    check_finite("features", features)
    c = num_classes if num_classes is not None else (int(target.max()) + 1 if weight is None else len(weight))
    if not 0 <= int(target.min()) <= int(target.max()) < c:
        raise ValueError(f"target must hold classes from 0 to {c - 1}")
    if weight is not None and weight.shape != (c, features.shape[1]):
        raise ValueError(f"weight must have shape {(c, features.shape[1])}, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (c,):
        raise ValueError(f"bias must have shape ({c},), got {tuple(bias.shape)}")
    h, y = features.detach().double(), target
    w, b = (None if x is None else x.detach().to(h) for x in (weight, bias))
    if partial:
        return h, y, w, b
    seen = torch.bincount(y, minlength=c) > 0
    if int(seen.sum()) < 2:
        raise ValueError("neural collapse needs samples of at least two classes")
    if not bool(seen.all()):
        warn_once(f"class {int((~seen).nonzero()[0, 0])} has no sample and is left out of the measures of collapse")
        y = (seen.cumsum(0) - 1)[y]
        w, b = (None if x is None else x[seen] for x in (w, b))
    # A bias of zeros says how many classes there are.
    return h, y, w, torch.zeros(int(seen.sum())).to(h) if b is None else b


def _cosines(rows: Tensor) -> Tensor:
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T


def _gap(means: Tensor) -> float:
    best = optimal_coherence(len(means), means.shape[1])
    if best is None or bool((means.norm(dim=1) == 0).any()):
        return math.nan
    return frame_correlation(means).max_cosine - best


def _number(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=like.device)
