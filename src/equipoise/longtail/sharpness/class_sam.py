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
Tail Classes Gradually through Stage-Wise SAM", AAAI 2025; Zhou et al., "ImbSAM", 2023 [names of the last from memory].
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
from equipoise.core.solvers.group_sam import GroupSAM
from equipoise.core.validate import check_fraction, check_nonnegative, check_positive, warn_once


class SAM(GroupSAM):
    """Sharpness-aware minimisation: one perturbation by the loss of all samples.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        rho: radius, at least 0.
        options: `adaptive`, `model` and `sync` of `GroupSAM`, and those of the base optimizer.

    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> model = torch.nn.Linear(3, 2)
    >>> sam = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.5, momentum=0.9)
    >>> for _ in range(20):
    ...     loss = sam.step(lambda: torch.nn.functional.cross_entropy(model(x), y, reduction="none"))
    >>> loss.item() < 0.3
    True
    """

    def __init__(
        self, params: Iterable[Any], base_optimizer: type[Optimizer], rho: float = 0.05, **options: Any
    ) -> None:
        super().__init__(params, base_optimizer, [rho], **options)


class ImbSAM(GroupSAM):
    """SAM that perturbs by the loss of tail classes only.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: samples of every class of the training set.
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

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        rho: float = 0.05,
        *,
        eta: float | None = None,
        tail: Sequence[int] | None = None,
        tail_loss_scale: float = 1.0,
        **options: Any,
    ) -> None:
        check_positive("tail_loss_scale", tail_loss_scale)
        weights = _head_and_tail(ClassStats.of(class_counts), eta, tail)
        weights[:, 1] *= tail_loss_scale
        super().__init__(params, base_optimizer, [0.0, rho], weights, **options)


class FocalSAM(GroupSAM):
    """SAM whose perturbation listens to a class by c_k = λ (1 − π_k)^γ.

        G = ∇ 1/B Σ (1 − c_y) ℓ (θ)  +  ∇ 1/B Σ c_y ℓ (θ + e)          e along the gradient of the second sum

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: samples of every class of the training set.
        rho: radius.
        gamma: focal exponent, at least 0; 0 with λ = 1 is SAM.
        lam: weight λ of sharpness, at least 0; 0 is the base optimizer. The authors go up to 1.1, where 1 − c of a
            rare class is negative.
        options: as in `SAM`.

    Raises:
        ValueError: if a setting is negative or not finite, or a count no whole number of at least 1.

    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 1).long()
    >>> model = torch.nn.Linear(3, 2)
    >>> sam = FocalSAM(model.parameters(), torch.optim.SGD, torch.bincount(y), lr=0.5)
    >>> for _ in range(20):
    ...     loss = sam.step(lambda: (torch.nn.functional.cross_entropy(model(x), y, reduction="none"), y))
    >>> loss.item() < 0.4
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        rho: float = 0.05,
        gamma: float = 1.0,
        lam: float = 0.5,
        **options: Any,
    ) -> None:
        focal = focal_coefficients(class_counts, gamma, lam)
        super().__init__(params, base_optimizer, [0.0, rho], torch.stack([1 - focal, focal], 1), **options)


class SSESAM(GroupSAM):
    """Head and tail each with its own perturbation; from epoch γ·T on the tail alone.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: samples of every class of the training set.
        total_epochs: T, at least 1.
        rho_head: radius of the head before the switch.
        rho_tail: radius of the tail.
        gamma: share of the epochs before the switch, in [0, 1]; 0 is ImbSAM from the start, 1 never switches.
        eta: classes with fewer samples are the tail; see `tail_classes`.
        tail: the tail classes themselves, in place of `eta`.
        options: as in `SAM`.

    Call `set_epoch` at the start of every epoch; the stage follows from the epoch's number and is part of the state.

    >>> sam = SSESAM([torch.nn.Parameter(torch.ones(1))], torch.optim.SGD, [500, 5], total_epochs=10, lr=0.1)
    >>> sam.set_epoch(7)
    >>> sam.stage, sam.rho
    (2, [0.0, 0.1])
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        *,
        total_epochs: int,
        rho_head: float = 0.05,
        rho_tail: float = 0.10,
        gamma: float = 0.7,
        eta: float | None = None,
        tail: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        self.schedule = sse_rho_head_schedule(total_epochs, gamma, rho_head)
        self.rho_tail, self.epoch = rho_tail, 0
        weights = _head_and_tail(ClassStats.of(class_counts), eta, tail)
        super().__init__(params, base_optimizer, [self.schedule[0], rho_tail], weights, **options)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0; beyond the last the stage is that of the last (warned once).

        Raises:
            ValueError: if it is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch={epoch} must not be negative")
        if epoch >= len(self.schedule):
            warn_once(f"epoch {epoch} is beyond total_epochs={len(self.schedule)}: SSE-SAM stays as in the last")
        self.epoch = epoch
        self.set_rho([self.schedule[min(epoch, len(self.schedule) - 1)], self.rho_tail])

    @property
    def stage(self) -> int:
        """1 while the head is perturbed, 2 afterwards."""
        return 1 if self.rho[0] > 0 else 2

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and the epoch."""
        return {**super().state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, the epoch included."""
        held = dict(state_dict)
        epoch = held.pop("epoch", 0)
        super().load_state_dict(held)
        self.set_epoch(epoch)


class ClassConditionalSAM(GroupSAM):
    """Every class with its own perturbation of radius ρ₀ (n_max / n_c)^power.

    One more pass for every class in the batch. The radii are inferred; the paper's CC-SAM perturbs the classifier only,
    by another rule.

    Args:
        params: as in `GroupSAM`.
        base_optimizer: as in `GroupSAM`.
        class_counts: samples of every class of the training set.
        rho: ρ₀, the radius of the largest class.
        power: at least 0.
        options: as in `SAM`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        class_counts: Any,
        rho: float = 0.05,
        power: float = 0.5,
        **options: Any,
    ) -> None:
        check_nonnegative("power", power)
        stats = ClassStats.of(class_counts)
        radii = rho * (stats.counts.max() / stats.counts).double().pow(power)
        super().__init__(
            params, base_optimizer, radii.tolist(), torch.eye(stats.num_classes, dtype=torch.float64), **options
        )


def focal_coefficients(class_counts: Any, gamma: float = 1.0, lam: float = 0.5) -> Float[Tensor, " c"]:
    """c_k = λ (1 − π_k)^γ, float64.

    Raises:
        ValueError: if a setting is negative or not finite.

    >>> focal_coefficients([90, 10], gamma=1.0, lam=1.0)
    tensor([0.1000, 0.9000], dtype=torch.float64)
    """
    check_nonnegative("gamma", gamma)
    check_nonnegative("lam", lam)
    return lam * (1 - ClassStats.of(class_counts).prior).pow(gamma)


def tail_classes(class_counts: Any, eta: float | None = None) -> Int[Tensor, " tail"]:
    """Classes with fewer than η samples.

    Args:
        class_counts: samples of every class.
        eta: η; by default 100 where a class has fewer, else the median count [inferred].

    Raises:
        ValueError: if η is not positive.

    >>> tail_classes([500, 100, 99], eta=100)
    tensor([2])
    """
    counts = ClassStats.of(class_counts).counts
    if eta is None:
        eta = 100.0 if bool((counts < 100).any()) else float(counts.double().median())
    check_positive("eta", eta)
    return (counts < eta).nonzero().flatten()


def sse_rho_head_schedule(total_epochs: int, gamma: float = 0.7, rho_head: float = 0.05) -> list[float]:
    """The head's radius of every epoch, from 0: `rho_head` while the epoch is below γ·T, then 0.

    Raises:
        ValueError: if a setting is out of range.

    >>> sse_rho_head_schedule(4, 0.5, 0.1)
    [0.1, 0.1, 0.0, 0.0]
    """
    if total_epochs < 1:
        raise ValueError(f"total_epochs={total_epochs} must be at least 1")
    check_fraction("gamma", gamma, zero=True)
    check_nonnegative("rho_head", rho_head)
    # 0.7 · 10 must be 7 and not 7.0000001.
    switch = math.ceil(gamma * total_epochs - 1e-9)
    return [rho_head if epoch < switch else 0.0 for epoch in range(total_epochs)]


def _head_and_tail(stats: ClassStats, eta: float | None, tail: Sequence[int] | None) -> Tensor:
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
