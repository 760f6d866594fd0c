"""A gradient method with momentum whose objective never rises, convex or not: two candidates a step, the lower wins.

    y = x + t₋/t (z − x) + (t₋ − 1)/t (x − x₋)          z = y − α ∇f(y)          v = x − α ∇f(x)

    t₋, t ← t, (1 + √(1 + 4 t²)) / 2                     x₋ ← x                    x ← z or v, whichever is lower

z makes the pace, v makes sure. Either step length α begins at Barzilai and Borwein's, from the last change of the
gradient, and is divided by 1.5 until f(z) ≤ f(y) + ⟨∇f(y), z − y⟩ + ‖z − y‖² / 2α.

Li and Lin, "Accelerated Proximal Gradient Methods for Nonconvex Programming", NeurIPS 2015, in the form of the linear
solver of "Learning with Multiclass AUC: Theory and Algorithms", TPAMI 2021, whose published code the constants are
from. Here x stays where it is when neither candidate is lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.solvers.proximal import Point, ProximalResult
from equipoise.core.types import Count, NonNegative, Positive

_SHRINK = 1.5
# What is added to the curvature that Barzilai and Borwein see, and the least sum that a step is made of.
_FLOOR = 0.01
_ROUNDING = 1e-12

Smooth = Callable[[Point], tuple[float, Point]]


@checked
def monotone_accelerated_gradient(
    start: Point,
    smooth: Smooth,
    *,
    step: Positive = 0.1,
    max_tries: Count = 30,
    max_iter: Count = 1000,
    tol: NonNegative = 1e-5,
    patience: Count = 5,
) -> ProximalResult:
    """Minimise a smooth function.

    Args:
        start: tensors to begin with; left as they are.
        smooth: point → value and gradient.
        step: α > 0 where there is no change of the gradient to learn one from.
        max_tries: step lengths tried at most, each 1.5 times shorter; the last one is taken.
        max_iter: steps at most.
        tol: a step is small where the objective falls by less than this.
        patience: stop after so many small steps in a row.

    Returns:
        The result; `lipschitz` is the inverse of the last step length.

    >>> target = torch.tensor([3.0, 0.2])
    >>> def distance(point):
    ...     return float((point[0] - target).square().sum()) / 2, (point[0] - target,)
    >>> monotone_accelerated_gradient((torch.zeros(2),), distance).point[0]
    tensor([3.0000, 0.2000])
    """
    x = previous = z = start
    at_x = smooth(x)
    history, t, last_t, quiet = [at_x[0]], 1.0, 0.0, 0
    last_y: tuple[Point, Point] | None = None
    length = step
    for _ in range(max_iter):
        y = tuple(
            here + last_t / t * (ahead - here) + (last_t - 1) / t * (here - before)
            for here, ahead, before in zip(x, z, previous, strict=True)
        )
        at_y = smooth(y)
        first = step if last_y is None else _barzilai_borwein(x, at_x[1], *last_y, otherwise=step)
        z, at_z, length = _descend(y, at_y, smooth, first, max_tries)
        v, at_v, _ = _descend(x, at_x, smooth, first, max_tries)
        last_t, t = t, (1 + math.sqrt(1 + 4 * t**2)) / 2
        last_y, previous = (y, at_y[1]), x
        best, at_best = (z, at_z) if at_z[0] <= at_v[0] else (v, at_v)
        if at_best[0] <= at_x[0]:
            x, at_x = best, at_best
        history.append(at_x[0])
        quiet = quiet + 1 if history[-2] - history[-1] < tol else 0
        if quiet == patience:
            return ProximalResult(x, history, 1 / length, True)
    return ProximalResult(x, history, 1 / length, False)


def _barzilai_borwein(x: Point, gradient: Point, y: Point, gradient_y: Point, *, otherwise: float) -> float:
    moved = [a - b for a, b in zip(x, y, strict=True)]
    bent = [a - b for a, b in zip(gradient, gradient_y, strict=True)]
    square, curvature = _dot(moved, moved), _dot(moved, bent)
    below = curvature + _FLOOR * square
    return square / below if below > _FLOOR else otherwise


def _descend(
    origin: Point, at_origin: tuple[float, Point], smooth: Smooth, length: float, tries: int
) -> tuple[Point, tuple[float, Point], float]:
    """A gradient step of a length whose quadratic bound holds, and what the function is there."""
    value, gradient = at_origin
    fall = _dot(gradient, gradient) / 2
    for left in reversed(range(tries)):
        candidate = tuple(p - length * g for p, g in zip(origin, gradient, strict=True))
        at_candidate = smooth(candidate)
        # The bound at the step itself: f + ⟨∇f, −α ∇f⟩ + ‖α ∇f‖² / 2α.
        if at_candidate[0] <= value - length * fall + _ROUNDING * max(1.0, abs(value)) or not left:
            break
        length /= _SHRINK
    return candidate, at_candidate, length


def _dot(one: Point | list[Tensor], other: Point | list[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))
