"""How many samples a class has, and what follows from it: priors, weights, and the groups of many, medium and few.

    π_c = n_c / Σ n        effective number: w_c ∝ (1 − β) / (1 − β^{n_c})        aligned: w_c ∝ π_c^{−ν}

One validated object, so that every loss, sampler, metric and report of a long tail reads the same counts and refuses
the same mistakes.

Effective number: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019. Aligned weights:
Wang et al., "A Unified Perspective for Loss-Oriented Imbalanced Learning via Localization", TPAMI 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.arrays import as_tensor
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, ProperFraction


@dataclass(frozen=True, eq=False)
class ClassStats:
    """The counts of a training set by class; make it with `ClassStats.of` or `ClassStats.from_target`.

    Attributes:
        counts: samples of every class, shape (C,), int64, at least 1 each, on the CPU.
    """

    counts: Int[Tensor, " C"]

    @classmethod
    def of(cls, counts: Any) -> ClassStats:
        """Check `counts`, a sequence, array or tensor of one whole number a class; a `ClassStats` passes through.

        Raises:
            ValueError: if there is no class, or a count is not a finite whole number of at least 1; the class is named.

        >>> ClassStats.of([30, 6, 4]).prior
        tensor([0.7500, 0.1500, 0.1000], dtype=torch.float64)
        """
        if isinstance(counts, ClassStats):
            return counts
        try:
            values = as_tensor(counts).detach().to("cpu", torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"class_counts needs one whole number for each class, got {counts!r}") from None
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"class_counts needs one count for each class, got shape {tuple(values.shape)}")
        for label, count in enumerate(values.tolist()):
            if count == 0:
                raise ValueError(f"class {label} has 0 samples in class_counts; drop it or smooth the counts")
            if not (count > 0 and count == count // 1 and count < float("inf")):
                raise ValueError(f"class_counts[{label}] is {count:g}; a count is a whole number, 1 or more")
        return cls(values.to(torch.int64))

    @classmethod
    def from_target(cls, target: Any, num_classes: int | None = None) -> ClassStats:
        """Count the class indices of `target`, a sequence, array or tensor; `num_classes` is one more than the largest
        where it is not given.

        Raises:
            ValueError: if a label is negative or too large, or a class has no sample.

        >>> ClassStats.from_target([0, 0, 1, 2, 0]).counts
        tensor([3, 1, 1])
        """
        labels = as_tensor(target).detach().to("cpu")
        if labels.ndim != 1 or len(labels) == 0:
            raise ValueError(f"target needs class indices of shape (n,), at least one, got shape {tuple(labels.shape)}")
        if labels.is_floating_point():
            raise ValueError(
                f"target must hold integers or booleans, got {labels.dtype}; convert it with target.long()"
            )
        labels = labels.long()
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or (num_classes is not None and high >= num_classes):
            raise ValueError(f"target holds class {low if low < 0 else high}; classes go from 0 to num_classes - 1")
        return cls.of(torch.bincount(labels, minlength=num_classes or 0))

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def prior(self) -> Float[Tensor, " C"]:
        """π: the share of every class, float64, sums to 1."""
        return self.counts.double() / self.counts.sum()

    @property
    def log_prior(self) -> Float[Tensor, " C"]:
        """log π, float64."""
        return self.prior.log()

    @checked
    def effective_number_weights(self, beta: ProperFraction = 0.9999) -> Float[Tensor, " C"]:
        """(1 − β) / (1 − β^n), scaled to sum to C; β = 0 weighs all classes alike.

        Raises:
            ValueError: if `beta` is outside [0, 1).

        >>> ClassStats.of([1, 10**9]).effective_number_weights(0.9)
        tensor([1.8182, 0.1818], dtype=torch.float64)
        """
        # 1 − βⁿ cancels when βⁿ is close to 1.
        growth = torch.tensor(beta, dtype=torch.float64).log()
        return self._scaled(1 / -torch.expm1(self.counts.double() * growth))

    @checked
    def aligned_weights(self, nu: NonNegative = 1.0) -> Float[Tensor, " C"]:
        """π^{−ν}, scaled to sum to C; ν = 0 weighs all classes alike, ν = 1 by the inverse of their share.

        Raises:
            ValueError: if `nu` is negative or not finite.

        >>> ClassStats.of([9, 1]).aligned_weights()
        tensor([0.2000, 1.8000], dtype=torch.float64)
        """
        # Scaled before the power, so that no share underflows.
        return self._scaled((self.counts.double() / self.counts.min()).pow(-nu))

    @checked
    def groups(self, many: Count = 100, few: Count = 20) -> dict[str, Int[Tensor, " size"]]:
        """The classes with more than `many` samples, fewer than `few`, and those between, as class indices.

        The usual thresholds 100 and 20 belong to CIFAR-100 and ImageNet-LT; for CIFAR-10 with a ratio of 100 the field
        uses 1000 and 200.

        Raises:
            ValueError: if not 1 <= `few` <= `many`.

        >>> ClassStats.of([500, 60, 5]).groups()
        {'many': tensor([0]), 'medium': tensor([1]), 'few': tensor([2])}
        """
        if few > many:
            raise ValueError(f"few={few} must be at most many={many}")
        is_many, is_few = self.counts > many, self.counts < few
        masks = {"many": is_many, "medium": ~(is_many | is_few), "few": is_few}
        return {name: mask.nonzero().flatten() for name, mask in masks.items()}

    def _scaled(self, weights: Tensor) -> Tensor:
        return weights * (self.num_classes / weights.sum())
