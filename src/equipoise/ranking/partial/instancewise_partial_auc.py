"""Partial AUC one sample at a time, as losses that hold the variables of their minimax form.

`instancewise_objective` has the formula and its two relaxations. A loss here is a `SaddleLoss`: a, b, the thresholds
and the multipliers descend with the network, γ and learned weights ascend, each in its box. Every solver reads
that from the loss: `core.solvers.saddle.descent_ascent` makes one of a PyTorch optimizer, and the papers' own is
`core.solvers.saddle_solvers.AcceleratedDescentAscent`.

    InstancewisePartialAUCLoss             softplus: smooth, with a bias that falls with κ (PAUCI)
    UnbiasedInstancewisePartialAUCLoss     a weight in [0, 1] for every sample: no bias, or little with ω > 0 (UPAUCI)

Shao et al., NeurIPS 2022 and TPAMI 2025. The released code descends on γ, which its own saddle problem maximises; here
it ascends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equipoise.core.distributed import gather_batch, gather_rows
from equipoise.core.pairs.loss import split_classes
from equipoise.core.pairs.sides import as_probabilities
from equipoise.core.signature import checked
from equipoise.core.solvers.saddle import Box, SaddleLoss
from equipoise.core.types import (
    BinaryTarget,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Probability,
    ProperFraction,
    SampleIndex,
    Scalar,
    Scores,
)
from equipoise.core.validate import check_sample_index
from equipoise.ranking.partial.instancewise_objective import (
    InnerVariables,
    inner_solution,
    instance_losses,
    instancewise_partial_auc_objective,
)

Constraint: TypeAlias = Literal["lagrange", "project"]


class KeptFractions(NamedTuple):
    """What share of each class counts at the present thresholds; NaN for a class that is absent.

    Attributes:
        neg: of the negatives, to be held against `max_fpr`.
        pos: of the positives, to be held against 1 − `min_tpr`.
    """

    neg: float
    pos: float


class _InstancewiseLoss(SaddleLoss):
    """The variables that both relaxations have, their boxes and their closed-form start."""

    a: nn.Parameter
    b: nn.Parameter
    gamma: nn.Parameter
    s_pos: nn.Parameter | None
    s_neg: nn.Parameter | None
    theta_a: nn.Parameter | None
    theta_b: nn.Parameter | None

    def __init__(
        self, max_fpr: float, min_tpr: float, omega: float, from_logits: bool, constraint: Constraint, gather: bool
    ) -> None:
        super().__init__()
        self.max_fpr, self.min_tpr, self.omega = max_fpr, min_tpr, omega
        self.from_logits, self.constraint, self.gather = from_logits, constraint, gather
        two_way, multipliers = min_tpr > 0, constraint == "lagrange"
        # At a = 1, b = γ = 0 thresholds of −1 and 1 keep every sample of an untrained model, whose scores are all 1/2.
        for name, start, used in (
            ("a", 1.0, True),
            ("b", 0.0, True),
            ("gamma", 0.0, True),
            ("s_pos", -1.0, two_way),
            ("s_neg", 1.0, max_fpr < 1),
            ("theta_a", 0.0, two_way and multipliers),
            ("theta_b", 0.0, multipliers),
        ):
            self.register_parameter(name, nn.Parameter(torch.tensor(start)) if used else None)

    @property
    def inner(self) -> InnerVariables:
        """The variables as the functional form takes them."""
        return InnerVariables(self.a, self.b, self.gamma, self.s_pos, self.s_neg, self.theta_a, self.theta_b)

    def min_parameters(self) -> Sequence[nn.Parameter]:
        """a, b, the thresholds and the multipliers."""
        found = (self.a, self.b, self.s_pos, self.s_neg, self.theta_a, self.theta_b)
        return [parameter for parameter in found if parameter is not None]

    def max_parameters(self) -> Sequence[nn.Parameter]:
        """γ, and the weights where they are learned."""
        return [self.gamma]

    def bounds(self) -> Mapping[nn.Parameter, Box]:
        """The papers' boxes; that of γ follows a and b under `constraint="project"`."""
        lowest: Tensor | float = -1.0
        if self.constraint == "project":
            lowest = self.b.detach() - 1
            lowest = torch.maximum(lowest, -self.a.detach()) if self.min_tpr > 0 else lowest
        boxes: tuple[tuple[nn.Parameter | None, Box], ...] = (
            (self.a, (0.0, 1.0)),
            (self.b, (0.0, 1.0)),
            (self.s_pos, (-4.0, 1.0)),
            (self.s_neg, (0.0, 5.0)),
            (self.theta_a, (0.0, 1e9)),
            (self.theta_b, (0.0, 1e9)),
            (self.gamma, (lowest, 1.0)),
        )
        return {parameter: box for parameter, box in boxes if parameter is not None}

    @torch.no_grad()
    def _solve(self, scores: Tensor, target: Tensor) -> Tensor:
        """Go to the saddle point of the plain hinge for these scores; returns c of every sample there."""
        best, weight = inner_solution(
            scores, target, max_fpr=self.max_fpr, min_tpr=self.min_tpr, from_logits=self.from_logits
        )
        for name, value in best._asdict().items():
            parameter = getattr(self, name)
            if parameter is not None:
                parameter.copy_(value)
        return weight

    def _objective(self, scores: Tensor, target: Tensor, **options: Any) -> Tensor:
        return instancewise_partial_auc_objective(
            scores,
            target,
            self.inner,
            max_fpr=self.max_fpr,
            min_tpr=self.min_tpr,
            omega=self.omega,
            from_logits=self.from_logits,
            **options,
        )

    def _excess(self, scores: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """P and N above their thresholds; None for a class that counts as a whole."""
        pos, neg = split_classes(as_probabilities(scores.detach(), self.from_logits), target == 1)
        pos_loss, neg_loss = instance_losses(pos, neg, self.inner)
        return (
            None if self.s_pos is None else pos_loss - self.s_pos,
            None if self.s_neg is None else neg_loss - self.s_neg,
        )


class InstancewisePartialAUCLoss(_InstancewiseLoss):
    """The softplus form (PAUCI): smooth, with a bias that falls with κ.

    The variables start where the papers found it best, at a = 1 and b = γ = 0. `initialize` puts them at the saddle
    point of a batch instead, which spares most of the tuning of their step sizes.

    Args:
        max_fpr: share β of the negatives that counts, in (0, 1].
        min_tpr: 1 − share α of the positives that counts, in [0, 1); 0 is the one-way partial AUC.
        kappa: κ. The published code has 2, whose bias is large: see `smoothing_gap`.
        omega: ω, added concavity in γ, whose saddle point it moves towards 0: γ = (b − a) / (1 + ω).
        from_logits: apply the sigmoid to the scores.
        constraint: "lagrange" keeps γ ≥ max(−a, b − 1) by multipliers, as published; "project" by projection, with no
            multipliers (reconstructed).
        gather: one batch of all processes of torch.distributed; see `core.distributed`.

    Attributes:
        strongly_concave: whether κ/β + κ/α < 2 + 2ω (without κ/α where α = 1), which the published rate of convergence
            rests on (reconstructed: the papers' own condition leaves out α and β). What trains well seldom has it.

    >>> from equipoise.core.solvers.saddle import descent_ascent
    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) < 40
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), InstancewisePartialAUCLoss(max_fpr=0.3)
    >>> loss.initialize(model(x).squeeze(1), y)
    >>> optimizer = descent_ascent(torch.optim.Adam, model, loss, lr=0.1)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> from equipoise.ranking import opauc
    >>> bool(opauc(model(x).squeeze(1), y, 0.3) > 0.6)
    True
    """

    @checked
    def __init__(
        self,
        max_fpr: Fraction,
        min_tpr: ProperFraction = 0.0,
        kappa: Positive = 8.0,
        omega: NonNegative = 0.0,
        *,
        from_logits: bool = True,
        constraint: Constraint = "lagrange",
        gather: bool = False,
    ) -> None:
        super().__init__(max_fpr, min_tpr, omega, from_logits, constraint, gather)
        self.kappa = kappa

    @property
    def strongly_concave(self) -> bool:
        """Whether the objective is strongly concave in γ, whatever the scores."""
        of_positives = self.kappa / (1 - self.min_tpr) if self.min_tpr > 0 else 0.0
        return self.kappa / self.max_fpr + of_positives < 2 + 2 * self.omega

    def initialize(self, scores: Tensor, target: Tensor) -> None:
        """Set the variables to the saddle point for these scores, see `inner_solution`.

        Raises:
            ValueError: as `inner_solution`.
        """
        self._solve(scores, target)

    def forward(self, scores: Scores, target: BinaryTarget) -> Scalar:
        """The objective of scores (n,) by targets (n,): 1 below the risk that it stands for."""
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
        return self._objective(scores, target, relaxation="softplus", kappa=self.kappa)

    @torch.no_grad()
    @checked
    def kept_fractions(self, scores: Scores, target: BinaryTarget) -> KeptFractions:
        """The share of each class whose loss is above its threshold."""
        pos, neg = (1.0 if e is None else float((e > 0).float().mean()) for e in self._excess(scores, target))
        return KeptFractions(neg, pos)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return (
            f"max_fpr={self.max_fpr}, min_tpr={self.min_tpr}, kappa={self.kappa}, omega={self.omega}, "
            f"constraint={self.constraint}"
        )


class UnbiasedInstancewisePartialAUCLoss(_InstancewiseLoss):
    """The form with a weight c in [0, 1] for every sample (UPAUCI): no bias at ω = 0, and little at a small ω.

    With `c_mode="closed_form"` c is where the maximum over it lies, given the other variables; ω = 0 is then the plain
    hinge with its subgradient. With "learned", as published, c is a variable for every training sample, which ascends
    when its sample is drawn; the loss then needs to know the samples, `loss(scores, target, index)`. The gradient is
    sparse, for a solver that takes such: SGD, by `descent_ascent`, trained well when tried, with a step size for "c" a
    hundred times that of the network, since the gradient is divided by the size of the batch. (The estimates of
    `AcceleratedDescentAscent` are as old as a sample's last visit, and misled it.) A sample that is repeated in a batch
    gets the sum of its gradients.

    The variables start as those of `InstancewisePartialAUCLoss`.

    Args:
        max_fpr: share β of the negatives that counts, in (0, 1].
        min_tpr: 1 − share α of the positives that counts, in [0, 1); 0 is the one-way partial AUC.
        omega: ω, added concavity in γ and c. The papers find 0 worse and 1 too large.
        from_logits: as in `InstancewisePartialAUCLoss`.
        constraint: as in `InstancewisePartialAUCLoss`.
        c_mode: "closed_form" or "learned".
        num_samples: of the training set, for "learned".
        c_init: where learned weights start.
        gather: as in `InstancewisePartialAUCLoss`.

    Raises:
        ValueError: if `num_samples` is missing for learned weights.

    >>> from equipoise.core.solvers.saddle_solvers import AcceleratedDescentAscent
    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) < 40
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), UnbiasedInstancewisePartialAUCLoss(max_fpr=0.3, omega=0.05)
    >>> loss.initialize(model(x).squeeze(1), y)
    >>> optimizer = AcceleratedDescentAscent(model, loss, lr=1.0, dual_lr=0.1, m=8)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     value = loss(model(x).squeeze(1), y)
    ...     value.backward()
    ...     return value
    >>> for _ in range(100):
    ...     _ = optimizer.step(closure)
    >>> from equipoise.ranking import opauc
    >>> bool(opauc(model(x).squeeze(1), y, 0.3) > 0.6)
    True
    """

    c: nn.Parameter | None

    @checked
    def __init__(
        self,
        max_fpr: Fraction,
        min_tpr: ProperFraction = 0.0,
        omega: NonNegative = 0.05,
        *,
        from_logits: bool = True,
        constraint: Constraint = "lagrange",
        c_mode: Literal["closed_form", "learned"] = "closed_form",
        num_samples: Count | None = None,
        c_init: Probability = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__(max_fpr, min_tpr, omega, from_logits, constraint, gather)
        self.c_mode, self.c = c_mode, None
        if c_mode == "learned":
            if num_samples is None:
                raise ValueError(
                    "num_samples=None leaves c_mode='learned' without its weights, one per training sample; pass the "
                    "length of the training set"
                )
            self.c = nn.Parameter(torch.full((num_samples, 1), c_init))

    def max_parameters(self) -> Sequence[nn.Parameter]:
        """γ, and c where it is learned."""
        return [self.gamma] if self.c is None else [self.gamma, self.c]

    def bounds(self) -> Mapping[nn.Parameter, Box]:
        """The papers' boxes; that of γ follows a and b under `constraint="project"`."""
        boxes = dict(super().bounds())
        if self.c is not None:
            boxes[self.c] = (0.0, 1.0)
        return boxes

    @torch.no_grad()
    @checked
    def initialize(self, scores: Scores, target: BinaryTarget, index: SampleIndex | None = None) -> None:
        """Set the variables to the saddle point for these scores, see `inner_solution`; c of the samples in `index`.

        Raises:
            ValueError: as `inner_solution`; if an index is not one of a sample.
        """
        weight = self._solve(scores, target)
        if self.c is not None and index is not None:
            check_sample_index(index, len(self.c))
            self.c[index] = weight.to(self.c.dtype).unsqueeze(1)

    def forward(self, scores: Scores, target: BinaryTarget, index: SampleIndex | None = None) -> Scalar:
        """The objective of a batch: 1 below the risk that it stands for, at ω = 0.

        Args:
            scores: (n,).
            target: (n,) in {0, 1}.
            index: (n,) which training samples these are, for `c_mode="learned"`; not looked at otherwise.

        Raises:
            ValueError: if the index is missing, or not one of a sample.
        """
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
            index = None if index is None else gather_rows(index)
        return self._loss(scores, target, index)

    @checked
    def _loss(self, scores: Scores, target: BinaryTarget, index: SampleIndex | None) -> Scalar:
        return self._objective(scores, target, relaxation="auxiliary", weight=self._weights_of(index))

    def _weights_of(self, index: Tensor | None) -> Tensor | None:
        """Learned weights of a batch, None where they are not learned."""
        if self.c is None:
            return None
        if index is None:
            raise ValueError("index is missing: c_mode='learned' has one weight per training sample, named by it")
        check_sample_index(index, len(self.c))
        return F.embedding(index, self.c, sparse=True).squeeze(1)

    @torch.no_grad()
    @checked
    def kept_fractions(self, scores: Scores, target: BinaryTarget, index: SampleIndex | None = None) -> KeptFractions:
        """The mean weight c of each class."""
        weight = self._weights_of(index)
        excess = self._excess(scores, target)
        if weight is not None:
            pos, neg = (
                1.0 if e is None else float(c.mean())
                for e, c in zip(excess, split_classes(weight, target == 1), strict=True)
            )
        else:
            pos, neg = (
                1.0 if e is None else float(best_weight(e, self.omega * share).mean())
                for e, share in zip(excess, (1 - self.min_tpr, self.max_fpr), strict=True)
            )
        return KeptFractions(neg, pos)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return (
            f"max_fpr={self.max_fpr}, min_tpr={self.min_tpr}, omega={self.omega}, c_mode={self.c_mode}, "
            f"constraint={self.constraint}"
        )


def best_weight(excess: Tensor, mu: float) -> Tensor:
    """c = clip(x / 2μ, 0, 1), where c x − μ c² is largest; 1[x > 0] at μ = 0."""
    return (excess / (2 * mu)).clamp(0, 1) if mu > 0 else (excess > 0).to(excess.dtype)
