import math

import numpy as np
import pytest
import torch

from equipoise.crowd import (
    dmoe_admm_step,
    dmoe_fit,
    dmoe_objective,
    hinge_prox,
    nuclear_prox,
    psd_projection,
)
from equipoise.crowd.embedding.distributional import solve_normal
from equipoise.crowd.embedding.margins import AnswerMap, as_answers

DOUBLE = {"dtype": torch.float64}


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def _world(n=8, m=30, noise=0.1, seed=0, dim=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, **DOUBLE)
    rows = torch.stack([torch.randperm(n, generator=generator)[:3] for _ in range(m)])
    near, far = ((x[rows[:, 0]] - x[rows[:, k]]).square().sum(1) for k in (1, 2))
    flip = (near > far) ^ (torch.rand(m, generator=generator) < noise)
    return torch.where(flip[:, None], rows[:, [0, 2, 1]], rows)


def _psd(n, seed=0, rank=3):
    x = _drawn(n, rank, seed=seed)
    return x @ x.T


@pytest.mark.parametrize("p", [1, 2])
def test_the_objective_is_its_definition(p):
    gram, rows = _psd(8), _world()
    wanted = 0.3 * float(gram.trace())
    for a, b, c in rows.tolist():
        m = float(gram[c, c] - 2 * gram[a, c] - gram[b, b] + 2 * gram[a, b])
        wanted += 2.0 * max(0.7 - m, 0) ** p + 0.5 * max(m - 0.7, 0) ** p
    weights = {"lower_weight": 2.0, "upper_weight": 0.5}
    assert float(dmoe_objective(gram, rows, p, 0.7, 0.3, **weights)) == pytest.approx(wanted)


def test_the_gradient_is_symmetric_and_that_by_finite_differences():
    gram, rows = _psd(6).requires_grad_(), _world(6, 12)
    (slope,) = torch.autograd.grad(dmoe_objective(gram, rows, 2, 1.0, 0.3), gram)
    torch.testing.assert_close(slope, slope.T)
    assert torch.autograd.gradcheck(lambda g: dmoe_objective((g + g.T) / 2, rows, 2, 1.0, 0.3), gram)


def test_the_scale_law():
    gram, rows = _psd(8), _world()
    for p in (1, 2):
        plain = dmoe_objective(gram, rows, p, 1.0, 0.5)
        torch.testing.assert_close(dmoe_objective(3 * gram, rows, p, 3.0, 3 ** (p - 1) * 0.5), 3**p * plain)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("mu", [0.3, 2.0])
def test_the_hinge_prox_is_the_minimum_of_what_it_minimises(p, mu):
    s = torch.cat([3 * _drawn(20), torch.tensor([0.0, 1 / mu, -1.0], **DOUBLE)])
    found = hinge_prox(s, p, mu)

    def cost(e):
        return e.clamp_min(0) ** p + mu / 2 * (e - s).square()

    grid = torch.linspace(-12, 12, 6001, **DOUBLE)
    assert (cost(found) <= cost(grid[:, None]).min(0).values + 1e-9).all()


def test_the_projection_and_the_nuclear_prox_are_better_than_what_is_near():
    matrix = _drawn(5, 5)
    for found, cost in (
        (psd_projection(matrix), lambda g: (g - (matrix + matrix.T) / 2).square().sum()),
        (nuclear_prox(matrix, 0.8), lambda g: (g - matrix).square().sum() / 2 + 0.8 * torch.linalg.svdvals(g).sum()),
    ):
        for seed in range(100):
            move = _psd(5, seed) if found is not None and torch.allclose(found, found.T) else _drawn(5, 5, seed=seed)
            other = found + (1e-3 if seed % 2 else 0.1) * move
            assert cost(found) <= cost(other) + 1e-12
    assert torch.linalg.eigvalsh(psd_projection(matrix)).min() > -1e-12
    torch.testing.assert_close(psd_projection(_psd(5)), _psd(5))
    assert float(nuclear_prox(matrix, 99.0).abs().max()) == 0
    assert nuclear_prox(_drawn(4, 2), 0.1).shape == (4, 2)


def test_conjugate_gradients_solve_the_dense_system():
    rows = _world(6, 20)
    quads, n = as_answers(rows, 6)
    answers = AnswerMap(quads, n)
    dense = torch.stack([answers.transposed(torch.eye(20, **DOUBLE)[k]).flatten() for k in range(20)])
    wanted = _psd(6, 4)
    exact = torch.linalg.solve(torch.eye(36, **DOUBLE) + dense.T @ dense, wanted.flatten()).view(6, 6)
    torch.testing.assert_close(solve_normal(answers, wanted, torch.zeros(6, 6, **DOUBLE)), exact)


@pytest.mark.parametrize("p", [1, 2])
def test_steps_of_the_scheme_of_the_authors_lead_to_the_optimum(p):
    rows, lam = _world(6, 15), 0.4
    state = dmoe_admm_step(_psd(6), rows, p, 1.0, lam, 1.0)
    for _ in range(200):
        multipliers = {name: getattr(state, name) for name in ("z1", "z2", "Z3", "Z4")}
        state = dmoe_admm_step(state.G, rows, p, 1.0, lam, 1.0, **multipliers)
    best = dmoe_fit(rows, 6, p, 1.0, lam)
    found = dmoe_objective(state.G2, rows, p, 1.0, lam)
    assert float(found) == pytest.approx(best.objective, rel=5e-3)
    assert float(found) >= best.objective - best.gap - 1e-9


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.3, 2.0)])
@pytest.mark.parametrize("lam", [0.3, 3.0, 100.0])
@pytest.mark.parametrize("p", [1, 2])
def test_the_fit_is_the_optimum(p, lam, weights):
    rows = _world()
    settings = {"lower_weight": weights[0], "upper_weight": weights[1]}
    found = dmoe_fit(rows, 8, p, 1.0, lam, solver="admm", **settings)
    assert found.converged
    assert -1e-6 * found.objective <= found.gap <= 1e-4 * found.objective
    assert torch.linalg.eigvalsh(found.gram).min() > -1e-9
    assert float(dmoe_objective(found.gram, rows, p, 1.0, lam, **settings)) == pytest.approx(found.objective)
    if p == 2:
        other = dmoe_fit(rows, 8, p, 1.0, lam, solver="gradient", **settings)
        assert other.objective == pytest.approx(found.objective, rel=1e-5)
        assert found.objective - found.gap <= other.objective
    generator = torch.Generator().manual_seed(1)
    for scale in (1e-3, 0.03):
        for _ in range(20):
            x = torch.randn(8, 2, generator=generator, **DOUBLE)
            near = found.gram + scale * x @ x.T
            assert float(dmoe_objective(near, rows, p, 1.0, lam, **settings)) >= found.objective - found.gap - 1e-9


def test_the_optimum_is_centred_and_a_large_lam_leaves_nothing():
    found = dmoe_fit(_world(), 8, lam=0.5)
    assert float(found.gram.sum(1).abs().max()) < 1e-9
    nothing = dmoe_fit(_world(), 8, lam=1e4)
    assert float(nothing.gram.abs().max()) == 0
    assert nothing.train_error == 1
    assert nothing.objective == pytest.approx(30.0)


def test_a_start_near_the_solution_spares_steps():
    rows = _world(20, 300)
    cold = dmoe_fit(rows, 20, lam=1.0)
    warm = dmoe_fit(rows, 20, lam=1.0, start=cold.gram)
    assert len(warm.history) < len(cold.history) / 2
    assert warm.objective == pytest.approx(cold.objective, rel=1e-6)


def test_without_a_penalty_there_is_no_bound_and_too_few_steps_are_told():
    assert dmoe_fit(_world(m=10), 8, lam=0.0).gap == math.inf
    with pytest.warns(UserWarning, match="stopped after max_iter=2"):
        dmoe_fit(_world(), 8, max_iter=2)


def test_quadruples_are_taken():
    rows = _world()
    quads = torch.cat([rows[:, :2], rows[:, [0, 2]]], 1)
    assert dmoe_fit(quads, 8).objective == pytest.approx(dmoe_fit(rows, 8).objective, rel=1e-9)


def test_margins_that_vary_less_for_their_mean():
    rows = _world(30, 300, 0.0)
    two, one = (dmoe_fit(rows, 30, lam=3.0, upper_weight=w).margins for w in (1.0, 0.0))
    spread = [float(m.std() / m.mean()) for m in (two, one)]
    assert spread[0] < spread[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"triplets": torch.tensor([[0, 1, 1]])}, "row 0"),
        ({"triplets": torch.tensor([[0, 1, 9]])}, "row 0"),
        ({"p": 3}, "p="),
        ({"gamma0": 0.0}, "gamma0"),
        ({"lam": -1.0}, "lam"),
        ({"p": 1, "solver": "gradient"}, "solver='gradient' needs p=2"),
        ({"start": torch.eye(3)}, "start must have shape"),
        ({"start": torch.ones(8, 8).triu()}, "start must be symmetric"),
        ({"n_items": 2}, "wanted items of 0 to 1"),
    ],
)
def test_bad_input_is_named(change, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        dmoe_fit(**{"triplets": _world(), "n_items": 8, **change})


@pytest.mark.parametrize("bad", [np.eye(3), torch.full((3, 3), math.nan), torch.ones(3, 3).triu(), torch.ones(2, 3)])
def test_a_bad_gram_matrix_is_named(bad, plain_inputs):
    for call in (dmoe_objective, dmoe_admm_step):
        with pytest.raises(ValueError, match="gram"):
            call(bad, torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="mu"):
        dmoe_admm_step(torch.eye(3), torch.tensor([[0, 1, 2]]), mu=0.0)
