"""Class factors fitted from how confident a model is and how often it is right: the calibrated vector-scaling loss.

    first phase    u = z π_c^γ / κ_c                       no offset, no weight
    last phase     u = z + τ log(π_c / κ_c)                weight π_c^(−ρ), not scaled

κ_c is found once an epoch from a bank of recent logits. Of the samples predicted as c, confidence is binned; a line
through the origin is fitted to accuracy over confidence, weighted by the bins' counts; κ_c is one over its slope. A
class that is right less often than it is confident has κ_c above 1.

Journal part of Wang et al., "A Unified Perspective for Loss-Oriented Imbalanced Learning via Localization", TPAMI 2026.
Source: the authors' code. The bank holds logits of the training mode, with
augmentation, as theirs does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.arrays import as_tensor
from equipoise.core.class_stats import ClassStats
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Count, NonNegative, Positive, Range
from equipoise.longtail.reweighting.class_dependent import of_width, vs_loss

Bins: TypeAlias = Annotated[int, Range(2)]
_SMOOTHING = 0.9
_BANK = 1000


class CVSLoss(nn.Module):
    """The calibrated vector-scaling loss; `set_stage` says which phase it is in and with which κ.

    Args:
        class_counts: training samples per class: a list, array, tensor or `ClassStats`.
        gamma: γ, at least 0.
        tau: τ, at least 0.
        rho: ρ, at least 0.

    >>> loss = CVSLoss([90, 10])
    >>> loss.set_stage(2, torch.tensor([0.1, 0.2]))
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1])).shape
    torch.Size([])
    """

    prior: Tensor
    kappa: Tensor
    _stage: Tensor

    @checked
    def __init__(
        self, class_counts: Any, gamma: NonNegative = 0.15, tau: NonNegative = 0.9, rho: NonNegative = 0.15
    ) -> None:
        super().__init__()
        stats = ClassStats.of(class_counts)
        self.gamma, self.tau, self.rho = gamma, tau, rho
        self.register_buffer("prior", stats.prior)
        self.register_buffer("kappa", torch.ones(stats.num_classes, dtype=torch.float64))
        self.register_buffer("_stage", torch.tensor(1))

    @property
    def stage(self) -> int:
        """1 for the first phase, 2 for the last."""
        return int(self._stage)

    def set_stage(self, stage: int, kappa: Float[Tensor, " c"] | None = None) -> None:
        """Enter a phase.

        Args:
            stage: 1 or 2.
            kappa: (C,) scales above 0; ones if absent, as in the warm-up.

        Raises:
            ValueError: if the stage is neither 1 nor 2, or the scales are not C positive numbers.
        """
        if stage not in (1, 2):
            raise ValueError(f"stage={stage!r} must be 1 or 2")
        scales = torch.ones_like(self.kappa) if kappa is None else as_tensor(kappa).detach().to(self.kappa)
        if scales.shape != self.kappa.shape or not bool((scales.isfinite() & (scales > 0)).all()):
            raise ValueError(
                f"kappa must hold {len(self.kappa)} positive numbers, got shape {tuple(scales.shape)}; None is for none"
            )
        self.kappa.copy_(scales)
        self._stage.fill_(stage)

    def forward(self, logits: ClassScores, target: ClassTarget) -> Float[Tensor, ""]:
        """The loss of logits (n, C) by class indices (n,); errors as `vs_loss`."""
        if self.stage == 1:
            return vs_loss(logits, target, factor=self.prior.pow(self.gamma) / self.kappa)
        offset = self.tau * (self.prior / self.kappa).log()
        return vs_loss(logits, target, offset=offset, weight=self.prior.pow(-self.rho))


@checked
def fit_confidence_scale(
    logits: ClassScores,
    target: ClassTarget,
    *,
    n_bins: Bins = 20,
    min_scale: Positive = 0.05,
    max_scale: Positive = 0.2,
    min_samples: Count = 10,
) -> Float[Tensor, " classes"]:
    """κ per class, float64: one over the slope of accuracy over confidence.

    Args:
        logits: (n, C), for example those of a `ConfidenceScaleBank`.
        target: (n,) class indices.
        n_bins: equal bins (l, u] of confidence in (0, 1].
        min_scale: κ is not below; above 0.
        max_scale: κ is not above.
        min_samples: a class that is predicted less often keeps κ = 1.

    Raises:
        ValueError: if min_scale is above max_scale.

    >>> logits = torch.tensor([[3.0, 0.0]] * 8 + [[0.5, 0.0]] * 8)
    >>> fit_confidence_scale(logits, torch.tensor([0] * 8 + [1] * 8), min_scale=0.1, max_scale=10.0)
    tensor([1.3593, 1.0000], dtype=torch.float64)
    """
    confidence, pred = logits.detach().double().softmax(1).max(1)
    fit = _Fit(n_bins, min_scale, max_scale, min_samples)
    return fit(confidence, pred, pred == target, logits.shape[1])


@checked
@dataclass(frozen=True)
class _Fit:
    n_bins: Bins = 20
    min_scale: Positive = 0.05
    max_scale: Positive = 0.2
    min_samples: Count = 10

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale={self.min_scale} must not be above max_scale={self.max_scale}")

    def __call__(self, confidence: Tensor, pred: Tensor, hit: Tensor, num_classes: int) -> Tensor:
        # A bin holds its upper end.
        bins = (confidence * self.n_bins).ceil().long().clamp(1, self.n_bins) - 1
        cell = pred * self.n_bins + bins
        size = num_classes * self.n_bins

        def summed(values: Tensor) -> Tensor:
            return torch.bincount(cell, weights=values.double(), minlength=size).view(num_classes, self.n_bins)

        count = summed(torch.ones_like(confidence))
        some = count.clamp_min(1)
        q, a = summed(confidence) / some, summed(hit) / some
        slope = (count * q * a).sum(1) / (count * q * q).sum(1).clamp_min(1e-300)
        scale = (1 / (slope + 1e-6)).clamp(self.min_scale, self.max_scale)
        enough = (count.sum(1) >= self.min_samples) & ((count > 0).sum(1) >= 2) & ((count * q * q).sum(1) > 1e-6)
        return torch.where(enough, scale, 1.0)


class ConfidenceScaleBank:
    """The last predictions per class, and κ smoothed over epochs.

    Of a logit vector three numbers are kept: the predicted class, its confidence, whether it was right.

    Args:
        class_counts: training samples per class; a class keeps at most so many, and never more than 1,000.
        options: `n_bins`, `min_scale`, `max_scale` and `min_samples` of `fit_confidence_scale`.

    >>> bank = ConfidenceScaleBank([100, 10])
    >>> bank.update(torch.randn(4, 2), torch.tensor([0, 1, 0, 0]))
    >>> bank.fit()
    tensor([1., 1.], dtype=torch.float64)
    """

    def __init__(self, class_counts: Any, **options: Any) -> None:
        stats = ClassStats.of(class_counts)
        self._rows: list[deque[tuple[float, int, bool]]] = [
            deque(maxlen=min(_BANK, count)) for count in stats.counts.tolist()
        ]
        self._fit = _Fit(**options)
        self.kappa = torch.ones(stats.num_classes, dtype=torch.float64)

    @checked
    def update(self, logits: ClassScores, target: ClassTarget) -> None:
        """Take a batch; the oldest of a class give way."""
        confidence, pred = of_width(logits, len(self.kappa)).detach().double().softmax(1).max(1)
        hits = (pred == target).tolist()
        for label, *row in zip(target.tolist(), confidence.tolist(), pred.tolist(), hits, strict=True):
            self._rows[label].append((row[0], row[1], row[2]))

    def fit(self) -> Float[Tensor, " c"]:
        """Fit κ to what is in the bank and move the smoothed κ a tenth of the way there; returns the smoothed one."""
        return self.fit_to(self.rows)

    def fit_to(self, rows: Float[Tensor, "held 4"]) -> Float[Tensor, " c"]:
        """`fit` to `rows` of this bank, or of several."""
        if len(rows):
            _, confidence, pred, hit = rows.cpu().unbind(1)
            found = self._fit(confidence, pred.long(), hit.bool(), len(self.kappa))
            self.kappa = _SMOOTHING * self.kappa + (1 - _SMOOTHING) * found
        return self.kappa

    @property
    def rows(self) -> Float[Tensor, "held 4"]:
        """What is in the bank: class, confidence, predicted class, and whether that was right; the oldest first."""
        held = [(label, *row) for label, rows in enumerate(self._rows) for row in rows]
        return torch.tensor(held, dtype=torch.float64).reshape(-1, 4)

    @rows.setter
    def rows(self, rows: Float[Tensor, "held 4"]) -> None:
        for kept in self._rows:
            kept.clear()
        for label, confidence, pred, hit in rows.tolist():
            self._rows[int(label)].append((confidence, int(pred), bool(hit)))

    def restart(self) -> None:
        """Begin to smooth anew from ones, as at the start of the last phase."""
        self.kappa = torch.ones_like(self.kappa)
