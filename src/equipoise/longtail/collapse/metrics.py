"""How far has a network collapsed? The four properties of neural collapse, and their form for many classes.

With class means μ_c, their mean μ_G (over classes), M the centred means, Σ_W the covariance within classes and Σ_B that
of the centred means:

    NC1   tr(Σ_W Σ_B⁺) / C                                  features of a class shrink to their mean
    NC2   spread of the norms and of the cosines of M       means become a simplex
    NC3   ‖ W/‖W‖ − M/‖M‖ ‖²                                classifier and means are the same
    NC4   share of samples where the nearest mean decides otherwise than the classifier

For more classes than dimensions + 1 the means form a Grassmannian frame rather than a simplex; `gnc2_gap` is how far
the largest cosine of the means, not centred, is above the best possible.

Papyan, Han and Donoho, "Prevalence of Neural Collapse", PNAS 2020; "A Study of Neural Collapse Phenomenon:
Grassmannian Frame, Symmetry and Generalization", 2023.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from equipoise.core.metrics import SampleMetric
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, NumClasses
from equipoise.core.validate import check_classes, warn_once
from equipoise.longtail.collapse.grassmannian import frame_correlation, grassmannian_frame, optimal_coherence

GlobalMean: TypeAlias = Literal["class_average", "sample"]
# Directions of the means that are smaller than this, relative to the largest, are no directions.
_RANK = 1e-12
# Distances by differences: inner products lose the digits of means that lie far from the origin.
_EXACT = "donot_use_mm_for_euclid_dist"
# Searching for the optimal frame of more classes takes minutes.
_SEARCHED = 100


@checked
def neural_collapse_metrics(
    features: Float[Tensor, "n d"],
    target: ClassTarget,
    weight: Float[Tensor, "classes d"] | None = None,
    bias: Float[Tensor, " classes"] | None = None,
    *,
    num_classes: NumClasses | None = None,
    global_mean: GlobalMean = "class_average",
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
        (to the best that a search finds where the optimum is not known, which takes seconds, once per C and d; NaN
        there with more than 100 classes), and with a classifier w_equinorm, w_equiangle, nc3, gnc3 and
        nc4_disagreement. Infinite or NaN where all means are equal.

    Raises:
        ValueError: if fewer than two classes have samples.

    >>> frame = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> found = neural_collapse_metrics(frame.repeat(3, 1), torch.arange(6) % 2, frame)
    >>> float(found["nc1"]), float(found["nc3"]), float(found["nc4_disagreement"])
    (0.0, 0.0, 0.0)
    """
    h, y, w, b = _present(features, target, weight, bias, num_classes)
    c = len(b)
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
    distance = torch.cdist(means, means, compute_mode=_EXACT).square()
    pairs = ~torch.eye(c, dtype=torch.bool, device=h.device)
    spread = (variance[:, None] + variance[None]) / (2 * distance)
    gram = centred @ centred.T
    simplex = (torch.eye(c).to(gram) - 1 / c) / math.sqrt(c - 1)
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
        logits = h @ w.T + b
        nearest = torch.cdist(h, means, compute_mode=_EXACT).argmin(1)
        found |= {
            "w_equinorm": w_norms.std(correction=0) / w_norms.mean(),
            "w_equiangle": _cosines(w_centred)[pairs].std(correction=0),
            "nc3": (w / w.norm() - centred / centred.norm()).square().sum(),
            "gnc3": (normalize(w, dim=1) - normalize(means, dim=1)).norm(dim=1).max(),
            "nc4_disagreement": (logits.argmax(1) != nearest).double().mean(),
        }
    return found


class NeuralCollapse(SampleMetric):
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

    higher_is_better = False
    kept = ("features", "target")

    @checked
    def __init__(self, num_classes: NumClasses, *, global_mean: GlobalMean = "class_average", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.global_mean = num_classes, global_mean
        self.classifier: tuple[Tensor | None, Tensor | None] = (None, None)

    def set_classifier(self, weight: Tensor | None, bias: Tensor | None = None) -> None:
        """Give the classifier (C, d) that NC3 and NC4 compare with; copied."""
        self.classifier = tuple(None if x is None else x.detach().clone() for x in (weight, bias))  # type: ignore[assignment]

    @checked
    def update(self, features: Float[Tensor, "n d"], target: ClassTarget) -> None:
        """Take a batch of features (n, d) and classes (n,)."""
        check_classes(target, self.num_classes)
        self.keep(features, target)

    def compute(self) -> dict[str, Tensor]:
        """The measures; those of the classifier if `set_classifier` gave one."""
        features, target = self.samples()
        weight, bias = self.classifier
        return neural_collapse_metrics(
            features, target, weight, bias, num_classes=self.num_classes, global_mean=self.global_mean
        )


def _present(
    features: Tensor, target: Tensor, weight: Tensor | None, bias: Tensor | None, num_classes: int | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """In double precision, with the classes that have samples renumbered."""
    c = num_classes if num_classes is not None else (int(target.max()) + 1 if weight is None else len(weight))
    check_classes(target, c)
    if weight is not None and len(weight) != c:
        raise ValueError(f"weight must have shape {(c, features.shape[1])}, got {tuple(weight.shape)}")
    h, y = features.detach().double(), target
    w, b = (None if x is None else x.detach().to(h) for x in (weight, bias))
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
    best = _best_coherence(*means.shape)
    return math.nan if bool((means.norm(dim=1) == 0).any()) else frame_correlation(means).max_cosine - best


@functools.cache
def _best_coherence(c: int, d: int) -> float:
    known = optimal_coherence(c, d)
    if known is None:
        return grassmannian_frame(c, d, restarts=2).max_cosine if c <= _SEARCHED else math.nan
    return known


def _number(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=like.device)
