"""Losses with one weight, factor and offset per class: one family, and its members by name.

    loss_i = α_y · ( log Σ_c exp(β_c z_c + Δ_c) − (β_y z_y + Δ_y) )          y = y_i, logits z = z_i

| member                    | weight α           | factor β          | offset Δ            |
|---------------------------|--------------------|-------------------|---------------------|
| cross-entropy             | 1                  | 1                 | 0                   |
| re-weighting              | any                | 1                 | 0                   |
| logit adjustment          | 1                  | 1                 | τ log π_c           |
| balanced softmax          | 1                  | 1                 | log π_c             |
| CDT                       | 1                  | (n_c / n_max)^γ   | 0                   |
| LDAM, of cosines times s  | any                | s                 | −s m_y at y only    |
| vector scaling (VS)       | any                | (n_c / n_max)^γ   | τ log π_c           |

What the analysis of the family says, and `localization_loss` does: re-weighting belongs to the last phase of training
only; weights and factors work against each other, so the factors are switched off ("truncated") when the weights are
switched on; and the weights should be a power of the prior ("aligned"). All decide by the argmax of the plain logits.

Wang et al., "A Unified Perspective for Loss-Oriented Imbalanced Learning via Localization", TPAMI 2026 (VS with TLA and
ADRW). Members: Menon et al., "Long-tail Learning via Logit Adjustment", 2021; Ren et al., "Balanced Meta-Softmax",
2020; Ye et al., "Identifying and Compensating for Feature Deviation in Imbalanced Deep Learning", 2020 (CDT); Cao et
al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", 2019; Kini et al., "Label-Imbalanced and
Group-Sensitive Classification under Overparameterization", 2021 (VS).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from equipoise.core.arrays import as_tensor
from equipoise.core.class_stats import ClassStats
from equipoise.core.phases import PhasedLoss
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, NonNegative, Positive, Probability, ProperFraction, Range
from equipoise.core.validate import warn_once

Reduction: TypeAlias = Literal["mean", "batch_mean", "sum", "none"]
ClassVector: TypeAlias = Float[Tensor, " classes"]
ClassWeight: TypeAlias = Annotated[ClassVector, Range(0, low_open=True)]
ClassIndices: TypeAlias = Integer[Tensor, " n"] | Bool[Tensor, " n"]
ClassShares: TypeAlias = Annotated[Float[Tensor, "n classes"], Range(0)]
Loss: TypeAlias = Float[Tensor, ""] | Float[Tensor, " n"]

# A class whose factor is smaller hardly sees its own logit.
_FROZEN = 1e-3


@checked
def vs_loss(
    logits: ClassScores,
    target: ClassIndices | ClassShares,
    *,
    weight: ClassWeight | None = None,
    factor: ClassVector | None = None,
    offset: ClassVector | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    label_smoothing: ProperFraction = 0.0,
) -> Loss:
    """Cross-entropy with one weight, factor and offset per class.

    Args:
        logits: (n, C) raw scores.
        target: (n,) class indices, or (n, C) probabilities, to which weights then apply class by class.
        weight: (C,) α, above 0; ones if absent.
        factor: (C,) β; ones if absent.
        offset: (C,) Δ; zeros if absent.
        reduction: "mean" divides by the sum of the weights of the targets, as PyTorch does; "batch_mean" divides by the
            number of samples, as the risk of the theory does; "sum"; "none" for (n,).
        ignore_index: class indices of this value do not count.
        label_smoothing: in [0, 1).

    Returns:
        The loss; zero, attached to the graph, where every sample is ignored (warned once).

    >>> logits, target = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> vs_loss(logits, target) == torch.nn.functional.cross_entropy(logits, target)
    tensor(True)
    """
    target = target.to(logits.dtype) if target.is_floating_point() else target.long()
    counted = _counted(target, logits.shape[1], ignore_index)
    if not counted:
        warn_once("the loss is zero: every sample is ignored")
        return attached_zero(logits) if reduction != "none" else logits[:, :0].sum(1)
    if factor is not None:
        logits = logits * factor.to(logits)
    if offset is not None:
        logits = logits + offset.to(logits)
    loss = cross_entropy(
        logits,
        target,
        weight=None if weight is None else weight.to(logits),
        ignore_index=ignore_index,
        reduction="sum" if reduction == "batch_mean" else reduction,
        label_smoothing=label_smoothing,
    )
    return loss / counted if reduction == "batch_mean" else loss


class _ClassDependent(nn.Module):
    """`vs_loss` with constants that move and are saved with the module."""

    weight: Tensor | None
    factor: Tensor | None
    offset: Tensor | None

    @checked
    def __init__(
        self,
        stats: ClassStats,
        *,
        weight: Sequence[Positive] | ClassWeight | None = None,
        factor: Float[Tensor, " _"] | None = None,
        offset: Float[Tensor, " _"] | None = None,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        label_smoothing: ProperFraction = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = stats.num_classes
        # In double precision, so that a float64 model gets what it asks for; `vs_loss` rounds them to the logits'.
        for name, values in (("weight", _weights(weight, stats)), ("factor", factor), ("offset", offset)):
            self.register_buffer(name, None if values is None else values.double())
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing

    def forward(self, logits: ClassScores, target: ClassIndices | ClassShares) -> Loss:
        """The loss of logits (n, C) by class indices (n,) or probabilities (n, C); errors as `vs_loss`."""
        return vs_loss(
            of_width(logits, self.num_classes),
            target,
            weight=self.weight,
            factor=self.factor,
            offset=self.offset,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )


class VSLoss(_ClassDependent):
    """Vector scaling: β = (n_c / n_max)^γ and Δ = τ log π_c.

    Args:
        class_counts: training samples per class: a list, array, tensor or `ClassStats`.
        gamma: γ of the factors, at least 0; 0 switches them off.
        tau: τ of the offsets, at least 0; 0 switches them off.
        weight: (C,) weights α of the classes, above 0, such as `ClassStats.aligned_weights()`.
        options: `reduction`, `ignore_index` and `label_smoothing` as in `vs_loss`.

    Raises:
        ValueError: if a count is not a whole number of at least 1, or a setting out of range.

    >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 1.3).long()
    >>> model, loss = torch.nn.Linear(4, 2), VSLoss(torch.bincount(y), gamma=0.1, tau=1.0)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()
    ...     optimizer.step()
    >>> bool((model(x).argmax(1) == y)[y == 1].float().mean() > 0.9)
    True
    """

    @checked
    def __init__(
        self, class_counts: Any, gamma: NonNegative = 0.05, tau: NonNegative = 1.0, weight: Any = None, **options: Any
    ) -> None:
        stats = ClassStats.of(class_counts)
        super().__init__(
            stats, weight=weight, factor=class_factors(stats, gamma), offset=tau * stats.log_prior, **options
        )
        self.gamma, self.tau = gamma, tau

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"num_classes={self.num_classes}, gamma={self.gamma}, tau={self.tau}, weighted={self.weight is not None}"


class LogitAdjustedLoss(VSLoss):
    """Logit adjustment: `VSLoss` without factors.

    Args:
        class_counts: as in `VSLoss`.
        tau: strength, at least 0.
        weight: as in `VSLoss`.
        options: as in `VSLoss`.

    >>> logits, target = torch.zeros(1, 2), torch.tensor([1])
    >>> LogitAdjustedLoss([3, 1])(logits, target)
    tensor(1.3863)
    """

    def __init__(self, class_counts: Any, tau: float = 1.0, weight: Any = None, **options: Any) -> None:
        super().__init__(class_counts, 0.0, tau, weight, **options)


class BalancedSoftmaxLoss(LogitAdjustedLoss):
    """Balanced softmax: logit adjustment with τ = 1.

    Args:
        class_counts: as in `VSLoss`.
        options: as in `VSLoss`.
    """

    def __init__(self, class_counts: Any, **options: Any) -> None:
        super().__init__(class_counts, 1.0, **options)


class CDTLoss(VSLoss):
    """Class-dependent temperatures: `VSLoss` without offsets.

    Args:
        class_counts: as in `VSLoss`.
        gamma: at least 0.
        weight: as in `VSLoss`.
        options: as in `VSLoss`.
    """

    def __init__(self, class_counts: Any, gamma: float = 0.3, weight: Any = None, **options: Any) -> None:
        super().__init__(class_counts, gamma, 0.0, weight, **options)


class LDAMLoss(_ClassDependent):
    """Margins that are wider for rarer classes: m_c ∝ n_c^(−1/4), the widest being `max_m`.

    Args:
        class_counts: as in `VSLoss`.
        max_m: margin of the rarest class, above 0.
        s: scale of the cosines, above 0.
        weight: as in `VSLoss`.
        logits_scaled: whether the head multiplies its cosines by s already.
        options: `reduction`, `ignore_index` and `label_smoothing` as in `vs_loss`.

    Logits must be cosines of features and class vectors (or s times that); others are warned of once.

    >>> LDAMLoss([1000, 10]).margins
    tensor([0.1581, 0.5000], dtype=torch.float64)
    """

    margins: Tensor

    @checked
    def __init__(
        self,
        class_counts: Any,
        max_m: Positive = 0.5,
        s: Positive = 30.0,
        weight: Any = None,
        *,
        logits_scaled: bool = False,
        **options: Any,
    ) -> None:
        stats = ClassStats.of(class_counts)
        super().__init__(stats, weight=weight, **options)
        rarity = stats.counts.double().pow(-0.25)
        self.register_buffer("margins", max_m * rarity / rarity.max())
        self.s, self.logits_scaled = s, logits_scaled

    @checked
    def forward(self, logits: ClassScores, target: ClassIndices) -> Loss:
        """The loss of cosines (n, C) by class indices (n,); a margin belongs to one class, so no probabilities."""
        target = target.long()
        counted = _counted(target, of_width(logits, self.num_classes).shape[1], self.ignore_index)
        most = self.s if self.logits_scaled else 1.0
        if counted and float(logits.detach().abs().max()) > most * 1.001:
            warn_once(f"LDAM wants cosines{' times s' if self.logits_scaled else ''}; logits go beyond ±{most:g}")
        known = target != self.ignore_index
        rows, columns = known.nonzero().squeeze(1), target[known]
        shift = torch.zeros_like(logits).index_put((rows, columns), -self.margins.to(logits)[columns])
        return super().forward(logits + self.s * shift if self.logits_scaled else self.s * (logits + shift), target)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"num_classes={self.num_classes}, s={self.s}, widest={float(self.margins.max()):g}"


@checked
def localization_loss(
    class_counts: Any,
    gamma: NonNegative = 0.05,
    tau: NonNegative = 1.0,
    nu: NonNegative = 0.25,
    start: Probability = 0.8,
    *,
    late_tau: NonNegative | None = None,
    **options: Any,
) -> PhasedLoss:
    """VS with truncated factors and aligned, deferred weights (VS + TLA + ADRW).

    Args:
        class_counts: as in `VSLoss`.
        gamma: of the factors of the first phase.
        tau: of the offsets.
        nu: exponent of the aligned weights of the last phase.
        start: share of the epochs after which the last phase begins.
        late_tau: of the offsets of the last phase, if another.
        options: `reduction`, `ignore_index` and `label_smoothing` as in `vs_loss`.

    >>> loss = localization_loss([500, 50, 5])
    >>> loss.early.factor, loss.late.factor.unique()
    (tensor([1.0000, 0.8913, 0.7943], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    stats = ClassStats.of(class_counts)
    last = tau if late_tau is None else late_tau
    return PhasedLoss(
        VSLoss(stats, gamma, tau, **options), VSLoss(stats, 0.0, last, stats.aligned_weights(nu), **options), start
    )


@checked
def post_hoc_adjust(logits: ClassScores, class_counts: Any, tau: NonNegative = 1.0) -> ClassScores:
    """z − τ log π: logit adjustment of a model that was trained with plain cross-entropy.

    >>> post_hoc_adjust(torch.tensor([[1.0, 0.0]]), [9, 1]).argmax()
    tensor(1)
    """
    stats = ClassStats.of(class_counts)
    return of_width(logits, stats.num_classes) - (tau * stats.log_prior).to(logits)


@checked
def consistency_gap(tau: NonNegative, nu: NonNegative) -> float:
    """|ν + τ − 1|: 0 where offsets τ log π with weights π^−ν are Fisher consistent for the balanced error.

    Reconstructed from the condition α_c = δ_c / π_c with Δ_c = log δ_c of Menon et al., 2021; factors must be 1.

    >>> consistency_gap(0.75, 0.25)
    0.0
    """
    return abs(nu + tau - 1)


@checked
def class_factors(class_counts: Any, gamma: NonNegative) -> ClassVector:
    """β_c = (n_c / n_max)^γ, float64.

    >>> class_factors([100, 25], 0.5)
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    counts = ClassStats.of(class_counts).counts.double()
    factor = (counts / counts.max()).pow(gamma)
    if float(factor.min()) < _FROZEN:
        warn_once(f"gamma={gamma} gives the rarest class a factor below {_FROZEN:g}: its logit hardly counts")
    return factor


def _weights(weight: Any, stats: ClassStats) -> Tensor | None:
    if weight is None:
        return None
    values = as_tensor(weight, torch.float64).detach()
    if values.shape != (stats.num_classes,):
        raise ValueError(f"weight must hold {stats.num_classes} positive numbers, got shape {tuple(values.shape)}")
    return values


def of_width(logits: Tensor, num_classes: int) -> Tensor:
    """The logits; `ValueError` if they are not as wide as there are classes."""
    if isinstance(logits, Tensor) and (logits.ndim != 2 or logits.shape[1] != num_classes):
        raise ValueError(f"logits must have shape (n, {num_classes}) for these class counts, got {tuple(logits.shape)}")
    return logits


def _counted(target: Tensor, num_classes: int, ignore_index: int) -> int:
    """How many samples count."""
    if target.is_floating_point():
        return len(target)
    known = target[target != ignore_index]
    if known.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in known.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(f"target holds {low if low < 0 else high}; classes are 0 to {num_classes - 1}")
    return known.numel()
