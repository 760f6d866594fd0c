"""Whether two losses pull the same weights in opposite directions.

    cos = g_a · g_b / (‖g_a‖ ‖g_b‖)          a conflict where it is negative

The paper reports that a contrast of embeddings and reconstruction conflict in 86.3 % of steps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.core.validate import warn_once

Gradient: TypeAlias = Float[Tensor, "*p"] | Sequence[Float[Tensor, " ..."] | None]


class GradientCosine(NamedTuple):
    """What `gradient_cosine` found.

    Attributes:
        cosine: in [−1, 1], NaN where a gradient is zero.
        conflict: whether it is negative.
    """

    cosine: float
    conflict: bool


@checked
def gradient_cosine(grad_a: Gradient, grad_b: Gradient) -> GradientCosine:
    """The cosine of two gradients, summed in float64.

    Args:
        grad_a: a tensor of any shape, or one for each parameter, None where the loss does not reach it.
        grad_b: of the same shapes.

    Returns:
        The cosine, NaN with a warning where a gradient is zero, and whether the two conflict.

    Raises:
        ValueError: if the shapes differ, or a value is not finite.

    >>> gradient_cosine(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]))
    GradientCosine(cosine=-0.7071067811865475, conflict=True)
    """
    first, second = (list(each) if not isinstance(each, Tensor) else [each] for each in (grad_a, grad_b))
    if len(first) != len(second):
        raise ValueError(f"grad_b has gradients of {len(second)} parameters, grad_a of {len(first)}")
    dot = square_a = square_b = 0.0
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        if a is not None and b is not None:
            if a.shape != b.shape:
                raise ValueError(f"grad_b[{k}] has shape {tuple(b.shape)}, grad_a[{k}] {tuple(a.shape)}")
            dot += float((a.detach().double() * b.detach().double()).sum())
        square_a += 0.0 if a is None else float(a.detach().double().square().sum())
        square_b += 0.0 if b is None else float(b.detach().double().square().sum())
    if not (square_a > 0 and square_b > 0):
        warn_once("a gradient is zero, so its cosine with another is undefined")
        return GradientCosine(math.nan, False)
    cosine = max(-1.0, min(1.0, dot / math.sqrt(square_a) / math.sqrt(square_b)))
    return GradientCosine(cosine, cosine < 0)


@runtime_checkable
class TrainingStep(Protocol):
    """What a callback of `DCRTrainer` is given before each step.

    Attributes:
        number: of the step in its stage, from 0.
        parameters: what is trained.
    """

    @property
    def number(self) -> int:
        """Of the step in its stage, from 0."""
        ...

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained."""
        ...

    def loss(self, name: str) -> Tensor:
        """A loss of the step's batch: "dcr", "rec" or "con"."""
        ...


class ConflictMeter:
    """How often two losses conflict over a training: a callback of `DCRTrainer`, or fed by hand.

    Args:
        first: a loss of the trainer, "con" is the contrast of embeddings.
        second: another, "rec" is reconstruction.
        every: steps between two measurements, each of which takes two more backward passes.

    Attributes:
        cosines: of all measurements, in order; NaN where a gradient was zero.

    Raises:
        ValueError: if `every` is below 1.

    >>> weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> meter = ConflictMeter()
    >>> meter.update(weight.sum(), -weight[0], [weight])
    >>> round(meter.mean_cosine, 4), meter.share_of_conflicts
    (-0.7071, 1.0)
    """

    @checked
    def __init__(self, first: str = "con", second: str = "rec", every: Count = 1) -> None:
        self.first, self.second, self.every = first, second, every
        self.cosines: list[float] = []

    def __call__(self, step: TrainingStep) -> None:
        """Measure before a step of `DCRTrainer`; the gradients of the step itself are left alone."""
        if step.number % self.every == 0:
            self.update(step.loss(self.first), step.loss(self.second), step.parameters)

    def update(self, first: Tensor, second: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Measure two scalar losses by their gradients at some parameters.

        The gradient of a loss that depends on none of them, as a contrast of embeddings where the encoder is frozen,
        is zero.
        """
        held = list(parameters)
        gradients = [
            torch.autograd.grad(loss, held, retain_graph=True, allow_unused=True)
            if loss.requires_grad
            else [None] * len(held)
            for loss in (first, second)
        ]
        self.cosines.append(gradient_cosine(*gradients).cosine)

    @property
    def mean_cosine(self) -> float:
        """Over the measurements that are no NaN; NaN if there are none."""
        known = [each for each in self.cosines if each == each]
        return statistics.fmean(known) if known else math.nan

    @property
    def share_of_conflicts(self) -> float:
        """The share of negative cosines among those that are no NaN; NaN if there are none."""
        known = [each for each in self.cosines if each == each]
        return sum(each < 0 for each in known) / len(known) if known else math.nan
