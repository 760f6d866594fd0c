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
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from equipoise.core.metrics import SampleMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, NumClasses
from equipoise.core.validate import check_classes, warn_once
from equipoise.longtail.collapse.grassmannian import frame_correlation, grassmannian_frame, optimal_coherence

GlobalMean: TypeAlias = Literal["class_average", "sample"]
MEASURES = (
    "nc1",
    "nc1_trace_ratio",
    "cdnv",
    "nc2_equinorm",
    "nc2_equiangle",
    "nc2_max_angle",
    "nc2_etf_error",
    "gnc2_gap",
)
CLASSIFIER_MEASURES = ("w_equinorm", "w_equiangle", "nc3", "gnc3")
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
    within = h - means[y]
    squares = torch.zeros(c, dtype=torch.float64, device=h.device).index_add_(0, y, within.square().sum(1))
    found = measures_of(ClassMoments(counts, means, squares), lambda v: (within @ v.T).square().sum(0), w, global_mean)
    if w is not None:
        found["nc4_disagreement"] = disagrees(h, means, w, b).double().mean()
    return found


class ClassMoments(NamedTuple):
    """What is summed over the samples of each class, float64; every class has samples.

    Attributes:
        counts: (C,) samples.
        means: (C, d) of the features.
        squares: (C,) sums of squared distances from the mean.
    """

    counts: Float[Tensor, " classes"]
    means: Float[Tensor, "classes d"]
    squares: Float[Tensor, " classes"]


def measures_of(
    moments: ClassMoments, scatter_along: Callable[[Tensor], Tensor], weight: Tensor | None, global_mean: GlobalMean
) -> dict[str, Tensor]:
    """All measures but NC4, which needs every sample again.

    Args:
        moments: of the classes.
        scatter_along: (r, d) unit vectors to the (r,) sums of squares of what features differ from their class's mean,
            along each.
        weight: (C, d) float64 of the classifier.
        global_mean: as in `neural_collapse_metrics`.
    """
    counts, means, squares = moments
    c, samples = len(counts), counts.sum()
    middle = means.mean(0) if global_mean == "class_average" else (counts @ means) / samples
    centred, variance = means - middle, squares / counts
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    rank = min(c - 1, means.shape[1])
    kept = (torch.arange(len(singular), device=means.device) < rank) & (singular > _RANK * singular.max())
    # Σ_B = MᵀM / C has eigenvalues s²/C, so that the C of the definition cancels.
    nc1 = _number(math.inf, means)
    if bool(kept.any()):
        nc1 = (scatter_along(directions[kept]) / singular[kept].square()).sum() / samples
    distance = torch.cdist(means, means, compute_mode=_EXACT).square()
    pairs = ~torch.eye(c, dtype=torch.bool, device=means.device)
    spread = (variance[:, None] + variance[None]) / (2 * distance)
    gram = centred @ centred.T
    simplex = (torch.eye(c).to(gram) - 1 / c) / math.sqrt(c - 1)
    cosines = _cosines(centred)[pairs]
    norms = centred.norm(dim=1)
    found = {
        "nc1": nc1,
        "nc1_trace_ratio": squares.sum() / samples / (centred.square().sum() / c),
        "cdnv": spread[pairs].mean(),
        "nc2_equinorm": norms.std(correction=0) / norms.mean(),
        "nc2_equiangle": cosines.std(correction=0),
        "nc2_max_angle": (cosines + 1 / (c - 1)).abs().mean(),
        "nc2_etf_error": (gram / gram.norm() - simplex).norm(),
        "gnc2_gap": _number(_gap(means), means),
    }
    if weight is not None:
        w_centred = weight - weight.mean(0)
        w_norms = w_centred.norm(dim=1)
        found |= {
            "w_equinorm": w_norms.std(correction=0) / w_norms.mean(),
            "w_equiangle": _cosines(w_centred)[pairs].std(correction=0),
            "nc3": (weight / weight.norm() - centred / centred.norm()).square().sum(),
            "gnc3": (normalize(weight, dim=1) - normalize(means, dim=1)).norm(dim=1).max(),
        }
    return found


def disagrees(
    features: Float[Tensor, "n d"],
    means: Float[Tensor, "c d"],
    weight: Float[Tensor, "c d"],
    bias: Float[Tensor, " c"],
) -> Bool[Tensor, " n"]:
    """Where the nearest mean is of another class than the classifier's."""
    nearest = torch.cdist(features, means, compute_mode=_EXACT).argmin(1)
    return (features @ weight.T + bias).argmax(1) != nearest


class WithClassifier:
    """A metric that is told the classifier."""

    classifier: tuple[Tensor | None, Tensor | None] = (None, None)

    def set_classifier(self, weight: Tensor | None, bias: Tensor | None = None) -> None:
        """Give the classifier (C, d) that NC3 and NC4 compare with; copied."""
        self.classifier = tuple(None if x is None else x.detach().clone() for x in (weight, bias))  # type: ignore[assignment]


class NeuralCollapse(WithClassifier, SampleMetric):
    """`neural_collapse_metrics` over all features seen.

    Features are kept; `StreamingNeuralCollapse` keeps sums.

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

    def nothing(self) -> Any:
        """NaN by name."""
        names = (*MEASURES, *(() if self.classifier[0] is None else (*CLASSIFIER_MEASURES, "nc4_disagreement")))
        return nan_by_name(names, self.device)

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


def classes_seen(counts: Tensor) -> Bool[Tensor, " classes"]:
    """Which classes have samples; those without are warned of once.

    Raises:
        ValueError: if fewer than two have.
    """
    seen = counts > 0
    if int(seen.sum()) < 2:
        raise ValueError("neural collapse needs samples of at least two classes")
    if not bool(seen.all()):
        warn_once(f"class {int((~seen).nonzero()[0, 0])} has no sample and is left out of the measures of collapse")
    return seen


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
    seen = classes_seen(torch.bincount(y, minlength=c))
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
