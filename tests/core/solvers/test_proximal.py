import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.core.solvers.proximal import (
    prox_group_columns,
    prox_l1,
    prox_largest_of_rows,
    prox_nuclear,
    prox_squared_l2,
    prox_tail_spectrum,
    proximal_gradient,
)

MAPS = {
    "l1": (lambda z, step: prox_l1(z, step), lambda x: x.abs().sum()),
    "squared": (lambda z, step: prox_squared_l2(z, step), lambda x: x.square().sum()),
    "columns": (lambda z, step: prox_group_columns(z, step), lambda x: x.norm(dim=0).sum()),
    "nuclear": (lambda z, step: prox_nuclear(z, step), lambda x: torch.linalg.svdvals(x).sum()),
    "largest of rows": (lambda z, step: prox_largest_of_rows(z, step), lambda x: x.abs().amax(1).sum()),
    "tail 0": (lambda z, step: prox_tail_spectrum(z, step, 0), lambda x: x.square().sum()),
    "tail 2": (
        lambda z, step: prox_tail_spectrum(z, step, 2),
        lambda x: torch.linalg.svdvals(x)[2:].square().sum(),
    ),
}


@pytest.mark.parametrize("name", MAPS)
@given(seed=st.integers(0, 10_000), step=st.sampled_from([0.01, 0.3, 1.0, 5.0]))
def test_nothing_near_or_far_is_better_than_the_proximal_point(name, seed, step):
    prox, penalty = MAPS[name]
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(5, 4, generator=generator, dtype=torch.float64) * 2
    found = prox(z, step)

    def objective(x):
        return (x - z).square().sum() / 2 + step * penalty(x)

    best = objective(found)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(8):
            other = found + size * torch.randn(5, 4, generator=generator, dtype=torch.float64)
            assert best <= objective(other) + 1e-10
    for other in (z, torch.zeros_like(z)):
        assert best <= objective(other) + 1e-10


def test_the_head_of_the_spectrum_stays_and_the_tail_shrinks():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, after = torch.linalg.svdvals(z), torch.linalg.svdvals(prox_tail_spectrum(z, 0.7, 2))
    torch.testing.assert_close(after, torch.cat([before[:2], before[2:] / 2.4]))
    assert torch.equal(prox_tail_spectrum(z, 0.7, 4), z)


def test_zero_and_short_columns_become_zero_without_dividing_by_it():
    z = torch.tensor([[0.0, 0.3, 3.0], [0.0, 0.4, 4.0]])
    torch.testing.assert_close(prox_group_columns(z, 0.5), torch.tensor([[0.0, 0.0, 2.7], [0.0, 0.0, 3.6]]))
    assert torch.equal(prox_group_columns(z, 0.0), z)


def _lasso(seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    b = torch.randn(30, generator=generator, dtype=torch.float64)

    def smooth(point):
        rest = a @ point[0] - b
        return float(rest.square().sum()) / 2, (a.T @ rest,)

    return a, smooth, lambda p: 3.0 * float(p[0].abs().sum()), lambda p, step: (prox_l1(p[0], 3.0 * step),)


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("backtrack", [False, True])
@given(seed=st.integers(0, 1000))
def test_the_objective_never_rises_and_ends_where_no_step_helps(accelerate, backtrack, seed):
    a, smooth, penalty, prox = _lasso(seed)
    bound = float(torch.linalg.eigvalsh(a.T @ a)[-1])
    found = proximal_gradient(
        (torch.zeros(8, dtype=torch.float64),),
        smooth,
        penalty,
        prox,
        lipschitz=0.1 if backtrack else bound,
        backtrack=backtrack,
        accelerate=accelerate,
        max_iter=2000,
        tol=1e-14,
    )
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found.objective))
    again = prox((found.point[0] - smooth(found.point)[1][0] / bound,), 1 / bound)[0]
    torch.testing.assert_close(again, found.point[0], rtol=0, atol=1e-5)
    assert found.lipschitz <= 2 * bound


def test_momentum_needs_fewer_steps_on_a_narrow_valley():
    curvature = torch.logspace(0, 3, 20, dtype=torch.float64)

    def smooth(point):
        return float((curvature * (point[0] - 1).square()).sum()) / 2, (curvature * (point[0] - 1),)

    steps = {
        accelerate: len(
            proximal_gradient(
                (torch.zeros(20, dtype=torch.float64),),
                smooth,
                lambda p: 0.0,
                lambda p, step: p,
                lipschitz=1000.0,
                accelerate=accelerate,
                max_iter=20_000,
                tol=1e-12,
            ).objective
        )
        for accelerate in (False, True)
    }
    assert steps[True] < steps[False] / 3


def test_the_start_is_left_as_it_was_and_a_wrong_gradient_is_said():
    start = (torch.ones(3, dtype=torch.float64),)
    proximal_gradient(
        start, lambda p: (float(p[0].sum()), (torch.ones_like(p[0]),)), lambda p: 0.0, lambda p, s: p, max_iter=3
    )
    assert start[0].eq(1).all()
    with pytest.raises(ArithmeticError, match="no curvature"):
        proximal_gradient(
            start, lambda p: (float(p[0].square().sum()), (-p[0],)), lambda p: 0.0, lambda p, s: p, max_iter=3
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prox_l1(torch.ones(2), -1.0), "step=-1"),
        (lambda: prox_tail_spectrum(torch.ones(2), 1.0, 1), "must have shape \\(rows, columns"),
        (lambda: prox_tail_spectrum(torch.ones(2, 2), 1.0, -1), "kappa=-1"),
        (lambda: prox_group_columns(torch.ones(2), 1.0), "must have shape \\(rows, columns"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()


def test_backtracking_lowers_a_guess_of_the_curvature_that_is_too_high():
    target = torch.tensor([3.0, 0.2], dtype=torch.float64)

    def distance(point):
        return float((point[0] - target).square().sum()) / 2, (point[0] - target,)

    found = proximal_gradient(
        (torch.zeros(2, dtype=torch.float64),),
        distance,
        lambda point: float(point[0].abs().sum()),
        lambda point, step: (prox_l1(point[0], step),),
        lipschitz=1000.0,
        tol=1e-12,
    )
    assert found.converged
    assert found.lipschitz < 2
    torch.testing.assert_close(found.point[0], torch.tensor([2.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-5)
