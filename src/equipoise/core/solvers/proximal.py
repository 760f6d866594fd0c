"""Proximal maps, and the gradient method that uses them.

    prox(z) = argmin_x ½‖x − z‖² + step · penalty(x)        minimise smooth(x) + penalty(x) by x ← prox(x − ∇smooth / L)

With a step that fits the curvature of the smooth part, a plain step never raises the objective, whether or not the
penalty is convex.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole

Point = tuple[Tensor, ...]

# A difference this small beside the objective is rounding.
_ROUNDING = 1e-12
_MOST_DOUBLINGS = 30
_EASE = 0.9


@checked
def prox_l1(z: Float[Tensor, " ..."], step: NonNegative) -> Float[Tensor, " ..."]:
    """Of ‖x‖₁: every entry moves towards 0 by `step` and stops there.

    >>> prox_l1(torch.tensor([1.0, -0.2, -3.0]), 0.5)
    tensor([ 0.5000, -0.0000, -2.5000])
    """
    return z.sign() * (z.abs() - step).clamp_min(0)


@checked
def prox_squared_l2(z: Float[Tensor, " ..."], step: NonNegative) -> Float[Tensor, " ..."]:
    """Of ‖x‖²: z / (1 + 2 step).

    >>> prox_squared_l2(torch.tensor([3.0]), 0.25)
    tensor([2.])
    """
    return z / (1 + 2 * step)


@checked
def prox_group_columns(z: Float[Tensor, "rows columns"], step: NonNegative) -> Float[Tensor, "rows columns"]:
    """Of the sum of the columns' norms: every column is shortened by `step`, short ones to zero.

    >>> prox_group_columns(torch.tensor([[3.0, 0.1], [4.0, 0.0]]), 1.0)
    tensor([[2.4000, 0.0000],
            [3.2000, 0.0000]])
    """
    norm = z.norm(dim=0)
    # A column of zeros stays one.
    return z * torch.where(norm > step, 1 - step / norm, 0.0)


@checked
def prox_tail_spectrum(
    z: Float[Tensor, "rows columns"], step: NonNegative, kappa: Whole
) -> Float[Tensor, "rows columns"]:
    """Of the sum of squared singular values beyond the kappa largest, Σ_{i > κ} σ_i².

    It is the squared distance to the nearest matrix of rank kappa, and not convex. The minimiser divides the tail of
    the spectrum by 1 + 2 step and leaves the head; it is unique where σ_κ > σ_{κ+1}
    (derived here, not in the paper).

    Args:
        z: a matrix.
        step: at least 0.
        kappa: singular values left alone, at least 0.

    >>> prox_tail_spectrum(torch.diag(torch.tensor([3.0, 2.0])), 0.5, 1)
    tensor([[3., 0.],
            [0., 1.]])
    """
    if kappa == 0 or step == 0:
        return z / (1 + 2 * step)
    if kappa >= min(z.shape):
        return z.clone()
    left, sigma, right = torch.linalg.svd(z, full_matrices=False)
    # Only the head is needed: the whole is shrunk, and the head put back to its length.
    head = (left[:, :kappa] * sigma[:kappa]) @ right[:kappa]
    return (z + 2 * step * head) / (1 + 2 * step)


@checked
def prox_nuclear(z: Float[Tensor, "rows columns"], step: NonNegative) -> Float[Tensor, "rows columns"]:
    """Of the sum of singular values: each moves towards 0 by `step` and stops there.

    >>> prox_nuclear(torch.diag(torch.tensor([3.0, 0.5])), 1.0)
    tensor([[2., 0.],
            [0., 0.]])
    """
    with torch.autocast(z.device.type, enabled=False):
        left, sigma, right = torch.linalg.svd(z, full_matrices=False)
        return (left * (sigma - step).clamp_min(0)) @ right


@checked
def prox_largest_of_rows(z: Float[Tensor, "rows columns"], step: NonNegative) -> Float[Tensor, "rows columns"]:
    """Of the sum over rows of their largest magnitude: the largest entries of a row come down to one level together.

    What is taken off a row is its projection onto the ball of sum `step`.

    >>> prox_largest_of_rows(torch.tensor([[3.0, -2.0, 1.0], [0.2, 0.1, 0.0]]), 2.0)
    tensor([[ 1.5000, -1.5000,  1.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    size = z.abs()
    down = size.sort(dim=1, descending=True).values
    count = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
    levels = (down.cumsum(1) - step) / count
    # The level holds for as many entries as lie above it.
    above = (down > levels).sum(1, keepdim=True).clamp_min(1)
    level = levels.gather(1, above - 1).clamp_min(0)
    return z.sign() * torch.minimum(size, level)


@dataclass(frozen=True)
class ProximalResult:
    """Where the proximal gradient method ended.

    Attributes:
        point: the variables.
        objective: its value at the start and after every step.
        lipschitz: the last L.
        converged: whether the relative decrease fell below the tolerance.
    """

    point: Point
    objective: list[float] = field(repr=False)
    lipschitz: float
    converged: bool


@checked
def proximal_gradient(
    start: Point,
    smooth: Callable[[Point], tuple[float, Point]],
    penalty: Callable[[Point], float],
    prox: Callable[[Point, float], Point],
    *,
    lipschitz: Positive = 1.0,
    backtrack: bool = True,
    accelerate: bool = False,
    max_iter: Count = 500,
    tol: NonNegative = 1e-6,
) -> ProximalResult:
    """Minimise smooth(x) + penalty(x).

    Args:
        start: tensors to begin with; left as they are.
        smooth: point → value and gradient of the smooth part.
        penalty: point → value of the penalty.
        prox: (point, step) → the proximal map of step · penalty.
        lipschitz: L, the curvature that steps 1/L assume: a first guess, or a bound without `backtrack`.
        backtrack: lower L by a tenth before every step, and double it until the quadratic bound holds at the new point.
        accelerate: Nesterov's momentum, dropped whenever the objective would rise.
        max_iter: steps at most.
        tol: stop where the objective falls by less than this share of its size.

    Returns:
        The result, whose objective never rises (up to rounding) where L bounds the curvature.

    Raises:
        ArithmeticError: if no L fits, which a smooth part with a wrong gradient or an overflow causes.

    >>> target = torch.tensor([3.0, 0.2])
    >>> found = proximal_gradient(
    ...     (torch.zeros(2),),
    ...     lambda p: (float((p[0] - target).square().sum()) / 2, (p[0] - target,)),
    ...     lambda p: float(p[0].abs().sum()),
    ...     lambda p, step: (prox_l1(p[0], step),),
    ...     backtrack=False,
    ... )
    >>> found.point[0]
    tensor([2., 0.])
    """
    point, previous, momentum = start, start, 1.0
    at_point = smooth(point)
    history = [at_point[0] + penalty(point)]
    for _ in range(max_iter):
        origin, at_origin, next_momentum = point, at_point, 1.0
        if backtrack:
            lipschitz *= _EASE
        if accelerate and momentum > 1:
            next_momentum = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            weight = (momentum - 1) / next_momentum
            origin = tuple(p + weight * (p - q) for p, q in zip(point, previous, strict=True))
            at_origin = smooth(origin)
        candidate, at_candidate, lipschitz = _step(origin, at_origin, smooth, prox, lipschitz, backtrack)
        objective = at_candidate[0] + penalty(candidate)
        if origin is not point and objective > history[-1]:
            candidate, at_candidate, lipschitz = _step(point, at_point, smooth, prox, lipschitz, backtrack)
            objective, next_momentum = at_candidate[0] + penalty(candidate), 1.0
        if accelerate and next_momentum == 1:
            next_momentum = (1 + math.sqrt(5)) / 2
        previous, point, at_point, momentum = point, candidate, at_candidate, next_momentum
        history.append(objective)
        if history[-2] - objective <= tol * max(1.0, abs(history[-2])):
            return ProximalResult(point, history, lipschitz, True)
    return ProximalResult(point, history, lipschitz, False)


def _step(
    origin: Point,
    at_origin: tuple[float, Point],
    smooth: Callable[[Point], tuple[float, Point]],
    prox: Callable[[Point, float], Point],
    lipschitz: float,
    backtrack: bool,
) -> tuple[Point, tuple[float, Point], float]:
    """A step 1/L, with an L whose quadratic bound holds there, and the smooth part at its end."""
    value, gradient = at_origin
    for _ in range(_MOST_DOUBLINGS):
        candidate = prox(tuple(p - g / lipschitz for p, g in zip(origin, gradient, strict=True)), 1 / lipschitz)
        at_candidate = smooth(candidate)
        moves = [c - p for c, p in zip(candidate, origin, strict=True)]
        excess = at_candidate[0] - value - sum(float((g * m).sum()) for g, m in zip(gradient, moves, strict=True))
        bound = lipschitz / 2 * sum(float(m.square().sum()) for m in moves)
        if not backtrack or excess <= bound + _ROUNDING * max(1.0, abs(value)):
            return candidate, at_candidate, lipschitz
        lipschitz *= 2
    raise ArithmeticError(
        f"no curvature up to {lipschitz:.3g} bounds the smooth part; its gradient is wrong or it overflows"
    )
