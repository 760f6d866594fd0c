"""SAM for classes that are hardly there: which samples decide where the loss is made flat.

    SAM          all samples alike                                    2 forward, 2 backward passes
    ImbSAM       perturbs for tail classes only                       2, 3
    Focal-SAM    every class by c_k = λ (1 − π_k)^γ, in one go        2, 3 whatever the number of classes
    SSE-SAM      head and tail each by its own loss, and from a share γ of the epochs on for the tail alone
                                                                      3, 4 and later 2, 3
    class-conditional SAM    every class by its own loss              1 + classes of the batch

All are settings of `core.solvers.group_sam.GroupSAM`, where what they share is said. Losses are divided by the size of
the batch in all of them.

Li et al., "Focal Sharpness-Aware Minimization for Long-Tailed Classification", ICML 2025; "SSE-SAM: Balancing Head and
Tail Classes Gradually through Stage-Wise SAM", AAAI 2025; Zhou et al., "ImbSAM: A Closer Look at Sharpness-Aware
Minimization in Class-Imbalanced Recognition", ICCV 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from equipoise.core.class_stats import ClassStats
from equipoise.core.signature import checked
from equipoise.core.solvers.group_sam import GroupSAM
from equipoise.core.types import Count, NonNegative, Positive, Probability, Whole
from equipoise.core.validate import warn_once


class SAM(GroupSAM):
    """Sharpness-aware minimisation: one perturbation by the loss of all samples.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        rho: radius, at least 0.
        options: `adaptive`, `norm`, `bn_stats`, `sync`, `skip_nonfinite` and `same_dropout` of `GroupSAM`, and those of
            the base optimizer.

    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> model = torch.nn.Linear(3, 2)
    >>> sam = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.5, momentum=0.9)
    >>> for _ in range(20):
    ...     loss = sam.step(lambda: torch.nn.functional.cross_entropy(model(x), y, reduction="none"))
    >>> loss.item() < 0.3
    True
    """

    @checked
    def __init__(
        self, params: Iterable[Any], base_optimizer: type[Optimizer], rho: NonNegative = 0.05, **options: Any
    ) -> None:
        super().__init__(params, base_optimizer, rho, **options)


class ImbSAM(GroupSAM):
    """SAM that perturbs by the loss of tail classes only.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: training samples per class.
        rho: radius of the tail.
        eta: classes with fewer samples are the tail; see `tail_classes`.
        tail: the tail classes themselves, in place of `eta`.
        tail_loss_scale: factor on the loss of the tail. The first authors' code doubles it; 1 is the plain form.
        options: as in `SAM`.

    >>> sam = ImbSAM([torch.nn.Parameter(torch.ones(1))], torch.optim.SGD, [500, 50, 5], eta=20, lr=0.1)
    >>> sam.group_weights.T
    tensor([[1., 1., 0.],
            [0., 0., 1.]], dtype=torch.float64)
    """

    @checked
    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        rho: NonNegative = 0.05,
        *,
        eta: Positive | None = None,
        tail: Sequence[Whole] | None = None,
        tail_loss_scale: Positive = 1.0,
        **options: Any,
    ) -> None:
        weights = _head_and_tail(ClassStats.of(class_counts), eta, tail)
        weights[:, 1] *= tail_loss_scale
        super().__init__(params, base_optimizer, rho, weights, **options)

    def radii(self, rho: float) -> list[float]:
        """0 for the head, `rho` for the tail."""
        return super().radii([0.0, rho])


class FocalSAM(GroupSAM):
    """SAM whose perturbation listens to a class by c_k = λ (1 − π_k)^γ.

        G = ∇ 1/B Σ (1 − c_y) ℓ (θ)  +  ∇ 1/B Σ c_y ℓ (θ + e)          e along the gradient of the second sum

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: training samples per class.
        rho: radius.
        gamma: focal exponent, at least 0; 0 with λ = 1 is SAM.
        lam: weight λ of sharpness, at least 0; 0 is the base optimizer. The authors go up to 1.1, where 1 − c of a
            rare class is negative.
        options: as in `SAM`.

    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 1).long()
    >>> model = torch.nn.Linear(3, 2)
    >>> sam = FocalSAM(model.parameters(), torch.optim.SGD, torch.bincount(y), lr=0.5)
    >>> for _ in range(20):
    ...     loss = sam.step(lambda: (torch.nn.functional.cross_entropy(model(x), y, reduction="none"), y))
    >>> loss.item() < 0.4
    True
    """

    @checked
    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        rho: NonNegative = 0.05,
        gamma: NonNegative = 1.0,
        lam: NonNegative = 0.5,
        **options: Any,
    ) -> None:
        focal = focal_coefficients(class_counts, gamma, lam)
        super().__init__(params, base_optimizer, rho, torch.stack([1 - focal, focal], 1), **options)

    def radii(self, rho: float) -> list[float]:
        """0 for the plain share of every sample, `rho` for the focal one."""
        return super().radii([0.0, rho])


class SSESAM(GroupSAM):
    """Head and tail each with its own perturbation; from epoch γ·T on the tail alone.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: training samples per class.
        total_epochs: T, at least 1.
        rho_head: radius of the head before the switch.
        rho_tail: radius of the tail.
        gamma: share of the epochs before the switch, in [0, 1]; 0 is ImbSAM from the start, 1 never switches.
        eta: classes with fewer samples are the tail; see `tail_classes`.
        tail: the tail classes themselves, in place of `eta`.
        options: as in `SAM`.

    Call `set_epoch` at the start of every epoch (a step before is warned of once); the stage follows from the epoch's
    number and is part of the state. A parameter group's own `rho` is the pair (`rho_head`, `rho_tail`).

    >>> sam = SSESAM([torch.nn.Parameter(torch.ones(1))], torch.optim.SGD, [500, 5], total_epochs=10, lr=0.1)
    >>> sam.set_epoch(7)
    >>> sam.stage, sam.rho
    (2, [0.0, 0.1])
    """

    @checked
    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        *,
        total_epochs: Count,
        rho_head: NonNegative = 0.05,
        rho_tail: NonNegative = 0.10,
        gamma: Probability = 0.7,
        eta: Positive | None = None,
        tail: Sequence[Whole] | None = None,
        **options: Any,
    ) -> None:
        self.total_epochs, self.gamma = total_epochs, gamma
        self.epoch: int | None = None
        weights = _head_and_tail(ClassStats.of(class_counts), eta, tail)
        super().__init__(params, base_optimizer, [rho_head, rho_tail], weights, **options)

    @checked
    def set_epoch(self, epoch: Whole) -> None:
        """Say which epoch begins, from 0; beyond the last the stage is that of the last (warned once)."""
        if epoch >= self.total_epochs:
            warn_once(f"epoch {epoch} is beyond total_epochs={self.total_epochs}: SSE-SAM stays as in the last")
        self.epoch = epoch

    @property
    def stage(self) -> int:
        """1 while the head is perturbed, 2 afterwards."""
        last = min(self.epoch or 0, self.total_epochs - 1)
        return 1 if sse_rho_head_schedule(self.total_epochs, self.gamma, 1.0)[last] else 2

    def radii(self, rho: Sequence[float]) -> list[float]:
        """Of head and tail, the head's only in stage 1."""
        head, tail = super().radii(rho)
        return [head if self.stage == 1 else 0.0, tail]

    def _prepare(self) -> None:
        if self.epoch is None and 0 < self.gamma < 1:
            warn_once("SSE-SAM was not told the epoch and stays in its first stage; call set_epoch in every epoch")

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and the epoch."""
        return {**super().state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, the epoch included."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "epoch"})
        self.epoch = state_dict.get("epoch")


class ClassConditionalSAM(GroupSAM):
    """Every class with its own perturbation of radius ρ₀ (n_max / n_c)^power.

    One more pass per class in the batch. The radii are reconstructed; the published CC-SAM perturbs the classifier
    only, by another rule.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: training samples per class.
        rho: ρ₀, the radius of the largest class.
        power: at least 0.
        options: as in `SAM`.
    """

    @checked
    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        rho: NonNegative = 0.05,
        power: NonNegative = 0.5,
        **options: Any,
    ) -> None:
        stats = ClassStats.of(class_counts)
        self.relative = (stats.counts.max() / stats.counts.double()).pow(power).tolist()
        weights = torch.eye(stats.num_classes, dtype=torch.float64)
        super().__init__(params, base_optimizer, rho, weights, **options)

    def radii(self, rho: float) -> list[float]:
        """`rho` for the largest class, wider for smaller ones."""
        return super().radii([rho * factor for factor in self.relative])


@checked
def focal_coefficients(class_counts: Any, gamma: NonNegative = 1.0, lam: NonNegative = 0.5) -> Float[Tensor, " c"]:
    """c_k = λ (1 − π_k)^γ, float64.

    >>> focal_coefficients([90, 10], gamma=1.0, lam=1.0)
    tensor([0.1000, 0.9000], dtype=torch.float64)
    """
    return lam * (1 - ClassStats.of(class_counts).prior).pow(gamma)


@checked
def tail_classes(class_counts: Any, eta: Positive | None = None) -> Int[Tensor, " tail"]:
    """Classes with fewer than η samples.

    Args:
        class_counts: training samples per class.
        eta: η; by default 100 where a class has fewer, else the median count (our choice).

    >>> tail_classes([500, 100, 99], eta=100)
    tensor([2])
    """
    counts = ClassStats.of(class_counts).counts
    if eta is None:
        eta = 100.0 if bool((counts < 100).any()) else float(counts.double().median())
    return (counts < eta).nonzero().flatten()


@checked
def sse_rho_head_schedule(total_epochs: Count, gamma: Probability = 0.7, rho_head: NonNegative = 0.05) -> list[float]:
    """The head's radius per epoch, from 0: `rho_head` while the epoch is below γ·T, then 0.

    >>> sse_rho_head_schedule(4, 0.5, 0.1)
    [0.1, 0.1, 0.0, 0.0]
    """
    # 0.7 · 10 must be 7 and not 7.0000001.
    switch = math.ceil(gamma * total_epochs - 1e-9)
    return [rho_head if epoch < switch else 0.0 for epoch in range(total_epochs)]


def _head_and_tail(stats: ClassStats, eta: Positive | None, tail: Sequence[Whole] | None) -> Tensor:
    """(C, 2) indicators."""
    if eta is not None and tail is not None:
        raise ValueError("give eta or tail, not both")
    chosen = tail_classes(stats, eta).tolist() if tail is None else list(tail)
    if len(set(chosen)) < len(chosen) or any(not 0 <= c < stats.num_classes for c in chosen):
        raise ValueError(f"tail must hold different classes from 0 to {stats.num_classes - 1}, got {chosen}")
    if len(chosen) in (0, stats.num_classes):
        warn_once(f"all {stats.num_classes} classes are {'head' if not chosen else 'tail'}; give eta or tail")
    weights = torch.zeros(stats.num_classes, 2, dtype=torch.float64)
    weights[:, 0] = 1
    weights[chosen, 0], weights[chosen, 1] = 0, 1
    return weights
