"""Neural collapse of more features than fit into memory: sums over batches and processes give the measures exactly.

Of each class the count n, the mean μ and Q = Σ ‖h − μ‖² are kept, and of all together the scatter S = Σ (h − μ)(h − μ)ᵀ
about the means of their classes. Two parts a, b of the samples are joined with δ = μ_b − μ_a, class by class:

    μ = μ_a + δ n_b / n        Q = Q_a + Q_b + ‖δ‖² n_a n_b / n        S = S_a + S_b + Σ_c δ δᵀ n_a n_b / n

Nothing is a difference of second moments, which near collapse would lose all digits. S is what NC1 needs:
tr(Σ_W Σ_B⁺) / C = Σ_k v_kᵀ S v_k / (N s_k²) with singular values s and directions v of the centred means. NC4 compares
every sample with the final means, which is a second pass.

The update over parts: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983. Measures: see
`longtail.collapse.metrics`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Count, NumClasses
from equipoise.core.validate import check_classes
from equipoise.longtail.collapse.metrics import (
    CLASSIFIER_MEASURES,
    MEASURES,
    ClassMoments,
    GlobalMean,
    WithClassifier,
    classes_seen,
    disagrees,
    measures_of,
)


class StreamingNeuralCollapse(WithClassifier, WholeMetric):
    """`neural_collapse_metrics` over all features seen, from C (d + 2) + d² sums; no feature is kept.

    Args:
        num_classes: C, at least 2.
        num_features: d.
        global_mean: as in `neural_collapse_metrics`.
        kwargs: of `torchmetrics.Metric`.

    >>> x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    >>> x = x.double() + 5 * torch.eye(4)[y]
    >>> weight = torch.eye(3, 4, dtype=torch.float64)
    >>> metric = StreamingNeuralCollapse(num_classes=3, num_features=4)
    >>> metric.set_classifier(weight)
    >>> for batch in torch.arange(60).split(25):
    ...     metric.update(x[batch], y[batch])
    >>> round(float(metric.compute()["nc1"]), 4)
    0.0722
    >>> agreement = metric.second_pass()
    >>> for batch in torch.arange(60).split(25):
    ...     agreement.update(x[batch])
    >>> float(agreement.compute())
    0.0
    """

    is_differentiable = False
    higher_is_better = False

    moments: Tensor

    @checked
    def __init__(
        self, num_classes: NumClasses, num_features: Count, *, global_mean: GlobalMean = "class_average", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.num_features, self.global_mean = num_classes, num_features, global_mean
        # One state, since means cannot be joined without their counts.
        size = num_classes * (num_features + 2) + num_features**2
        self.add_state(
            "moments",
            default=torch.zeros(size, dtype=torch.float64),
            dist_reduce_fx=functools.partial(_joined, num_classes=num_classes, num_features=num_features),
        )

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name((*MEASURES, *(() if self.classifier[0] is None else CLASSIFIER_MEASURES)), self.device)

    @checked
    def update(self, features: Float[Tensor, "n d"], target: ClassTarget) -> None:
        """Take a batch of features (n, d) and classes (n,)."""
        check_classes(target, self.num_classes)
        _check_width(features, self.num_features)
        h, c = features.detach().double(), self.num_classes
        counts = torch.bincount(target, minlength=c).double()
        sums = torch.zeros(c, self.num_features, dtype=torch.float64, device=h.device).index_add_(0, target, h)
        means = sums / counts.clamp_min(1)[:, None]
        within = h - means[target]
        squares = torch.zeros_like(counts).index_add_(0, target, within.square().sum(1))
        batch = _packed(counts, squares, means, within.T @ within)
        self.moments = _joined(torch.stack([self.moments, batch]), c, self.num_features)

    def compute(self) -> dict[str, Tensor]:
        """The measures without NC4; those of the classifier if `set_classifier` gave one.

        Raises:
            ValueError: if fewer than two classes have samples.
        """
        counts, squares, means, scatter = self._unpacked()
        seen = classes_seen(counts)
        weight = self.classifier[0]
        if weight is not None:
            weight = weight.to(means)[seen]
        return measures_of(
            ClassMoments(counts[seen], means[seen], squares[seen]),
            lambda v: ((v @ scatter) * v).sum(1),
            weight,
            self.global_mean,
        )

    def second_pass(self) -> NearestMeanDisagreement:
        """A metric of NC4, which is to be given all features once more.

        Raises:
            ValueError: without a classifier, or if fewer than two classes have samples.
        """
        weight, bias = self.classifier
        if weight is None:
            raise ValueError("NC4 compares the means with a classifier; call set_classifier(weight, bias) first")
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            counts, _, means, _ = self._unpacked()
        seen = classes_seen(counts)
        w = weight.to(means)[seen]
        return NearestMeanDisagreement(means[seen], w, None if bias is None else bias.to(means)[seen])

    def _unpacked(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return tuple(x[0] for x in _split(self.moments[None], self.num_classes, self.num_features))  # type: ignore[return-value]


class NearestMeanDisagreement(WholeMetric):
    """NC4: the share of features whose nearest class mean is of another class than the classifier's decision.

    Args:
        means: (C, d) of the classes, of all features, such as `StreamingNeuralCollapse.second_pass` has them.
        weight: (C, d) of the classifier.
        bias: (C,); zeros if absent.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = NearestMeanDisagreement(torch.eye(2), torch.eye(2))
    >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 1.0]]))
    >>> float(metric.compute())
    0.0
    """

    is_differentiable = False
    higher_is_better = False

    means: Tensor
    weight: Tensor
    bias: Tensor
    disagreeing: Tensor
    total: Tensor

    @checked
    def __init__(
        self,
        means: Float[Tensor, "c d"],
        weight: Float[Tensor, "c d"],
        bias: Float[Tensor, " c"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        zeros = torch.zeros(len(means)) if bias is None else bias
        for name, value in (("means", means), ("weight", weight), ("bias", zeros)):
            self.register_buffer(name, value.detach().double().to(means.device), persistent=False)
        for name in ("disagreeing", "total"):
            self.add_state(name, default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.to(means.device)

    @checked
    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Take a batch of features (n, d)."""
        _check_width(features, self.means.shape[1])
        self.disagreeing += disagrees(features.detach().double(), self.means, self.weight, self.bias).sum()
        self.total += len(features)

    def compute(self) -> Tensor:
        """The share, a float64 scalar."""
        return self.disagreeing.double() / self.total


def _check_width(features: Tensor, wanted: int) -> None:
    if features.shape[1] != wanted:
        raise ValueError(f"features must have shape (n, {wanted}), got {tuple(features.shape)}")


def _packed(counts: Tensor, squares: Tensor, means: Tensor, scatter: Tensor) -> Tensor:
    return torch.cat([counts, squares, means.flatten(), scatter.flatten()])


def _split(parts: Tensor, num_classes: int, num_features: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts, squares, means and scatter of (parts, size), each with the dimension of parts before its own."""
    counts, squares, means, scatter = parts.split(
        [num_classes, num_classes, num_classes * num_features, num_features**2], dim=1
    )
    return (
        counts,
        squares,
        means.reshape(len(parts), num_classes, num_features),
        scatter.reshape(len(parts), num_features, num_features),
    )


def _joined(parts: Tensor, num_classes: int, num_features: int) -> Tensor:
    """(parts, size) moments of disjoint samples to those of all."""
    counts, squares, means, scatter = _split(parts, num_classes, num_features)
    total = counts.sum(0)
    # Of a part without a class's samples the mean does not count; the difference to a part that has them is small.
    base = means.gather(0, counts.argmax(0)[None, :, None].expand(1, -1, num_features))[0]
    mean = base + (counts[..., None] * (means - base)).sum(0) / total.clamp_min(1)[:, None]
    offset = counts.sqrt()[..., None] * (means - mean)
    rows = offset.reshape(-1, num_features)
    return _packed(total, squares.sum(0) + offset.square().sum((0, 2)), mean, scatter.sum(0) + rows.T @ rows)
