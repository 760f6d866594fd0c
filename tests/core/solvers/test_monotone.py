import itertools
import math

import pytest
import torch

from equipoise.core.solvers.monotone import monotone_accelerated_gradient
from equipoise.core.solvers.proximal import proximal_gradient

CURVATURE = torch.logspace(-1, 2, 12, dtype=torch.float64)
START = (torch.zeros(12, dtype=torch.float64),)


def _valley(point):
    rest = point[0] - 1
    return float((CURVATURE * rest.square()).sum()) / 2, (CURVATURE * rest,)


def _waves(point):
    """Not convex."""
    x = point[0]
    return float((x.square() / 2 + 2 * (3 * x + 1).cos()).sum()), (x - 6 * (3 * x + 1).sin(),)


def _published(smooth, x, step, numiter, iterinner, shrink=1.5):
    """The solver line by line, on plain tensors."""

    def loss(w):
        return smooth((w,))[0]

    def gradient(w):
        return smooth((w,))[1][0]

    def search(origin, alpha):
        for _ in range(iterinner):
            moved = origin - alpha * gradient(origin)
            gap = moved - origin
            bound = loss(origin) + float(gradient(origin) @ gap) + float(gap @ gap) / (2 * alpha)
            if loss(moved) <= bound + 1e-12 * max(1.0, abs(loss(origin))):
                return moved
            alpha /= shrink
        return moved

    z = x_old = x
    t, t_old, y_old, history = 1.0, 0.0, None, [loss(x)]
    for _ in range(numiter):
        y = x + (t_old / t) * (z - x) + ((t_old - 1) / t) * (x - x_old)
        alpha = step
        if y_old is not None:
            s, r = x - y_old, gradient(x) - gradient(y_old)
            a, b = float(s @ s), float(s @ r)
            alpha = a / (b + 0.01 * a) if b + 0.01 * a > 0.01 else step
        z, v = search(y, alpha), search(x, alpha)
        t_old, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
        x_old, y_old = x, y
        lower = z if loss(z) <= loss(v) else v
        x = lower if loss(lower) <= loss(x) else x
        history.append(loss(x))
    return history


@pytest.mark.parametrize("smooth", [_valley, _waves])
@pytest.mark.parametrize(("step", "tries"), [(0.1, 30), (5.0, 30), (5.0, 2)])
def test_every_step_is_that_of_the_published_lines(smooth, step, tries):
    start = torch.linspace(-2, 2, 12, dtype=torch.float64)
    found = monotone_accelerated_gradient(
        (start,), smooth, step=step, max_tries=tries, max_iter=25, tol=0.0, patience=99
    )
    assert found.objective == pytest.approx(_published(smooth, start, step, 25, tries), rel=1e-9)


@pytest.mark.parametrize("smooth", [_valley, _waves])
def test_the_objective_never_rises_and_ends_where_the_gradient_is_zero(smooth):
    found = monotone_accelerated_gradient(START, smooth, tol=1e-15, max_iter=3000)
    assert found.converged
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.objective))
    assert smooth(found.point)[1][0].abs().max() < 1e-5
    assert START[0].eq(0).all()


def test_it_is_further_than_plain_steps_after_as_many():
    found = monotone_accelerated_gradient(START, _valley, tol=0.0, max_iter=60)
    plain = proximal_gradient(START, _valley, lambda p: 0.0, lambda p, step: p, lipschitz=100.0, max_iter=60, tol=0.0)
    assert found.objective[-1] < plain.objective[-1] / 10


def test_it_stops_after_so_many_small_steps_in_a_row():
    flat = monotone_accelerated_gradient(START, lambda p: (1.0, (torch.zeros_like(p[0]),)), patience=3)
    assert flat.converged
    assert len(flat.objective) == 4
    assert not monotone_accelerated_gradient(START, _valley, max_iter=3).converged


def test_a_wrong_gradient_leaves_the_point_where_it_is():
    found = monotone_accelerated_gradient(START, lambda p: (_valley(p)[0], (-_valley(p)[1][0],)))
    assert found.point[0].eq(0).all()


def test_bad_settings_are_named(plain_inputs):
    for name, value in (("step", 0.0), ("max_tries", 0), ("max_iter", 0), ("tol", -1.0), ("patience", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            monotone_accelerated_gradient(START, _valley, **{name: value})
