import itertools
import math

import pytest
import torch
from scipy.optimize import minimize

from equipoise.crowd import (
    BlockDiagonalRegularizer,
    block_diagonal_penalty,
    capped_simplex_projection,
    spectral_assignment,
)
from equipoise.crowd.tasks.spectral import weight_components

DOUBLE = {"dtype": torch.float64}


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def _blocks():
    weight = torch.zeros(5, 4, **DOUBLE)
    weight[:2, :2], weight[2:4, 2:] = _drawn(2, 2), _drawn(2, 2, seed=1)
    # The last feature is in no task.
    return weight


def _laplacian(weight):
    d, tasks = weight.shape
    graph = torch.zeros(d + tasks, d + tasks, **DOUBLE)
    for i, j in itertools.product(range(d), range(tasks)):
        graph[i, d + j] = graph[d + j, i] = abs(weight[i, j])
    return torch.diag(graph.sum(1)) - graph


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_the_penalty_is_the_sum_of_the_smallest_eigenvalues_of_the_graph(k):
    weight = _drawn(4, 3)
    found = block_diagonal_penalty(weight, k)
    torch.testing.assert_close(found.laplacian, _laplacian(weight))
    torch.testing.assert_close(found.value, torch.linalg.eigvalsh(_laplacian(weight))[:k].sum(), rtol=1e-9, atol=1e-12)
    assert found.n_components == 1


def test_blocks_have_no_penalty_up_to_their_number():
    weight = _blocks()
    found = block_diagonal_penalty(weight, 3)
    assert found.n_components == 3
    assert abs(float(found.value)) < 1e-12
    assert float(block_diagonal_penalty(weight, 4).value) > 0.1
    features, tasks = weight_components(weight)
    assert [features.tolist(), tasks.tolist()] == [[0, 0, 1, 1, 2], [0, 0, 1, 1]]


def test_all_eigenvalues_are_twice_the_sum_of_weights_and_one_is_nothing():
    weight = _drawn(4, 3)
    torch.testing.assert_close(block_diagonal_penalty(weight, 7).value, 2 * weight.abs().sum())
    assert abs(float(block_diagonal_penalty(weight, 1).value)) < 1e-12


def test_the_gradient_of_the_penalty_is_that_by_finite_differences_and_that_of_the_regularizer():
    weight = _drawn(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: block_diagonal_penalty(w, 3).value, weight)
    (wanted,) = torch.autograd.grad(block_diagonal_penalty(weight, 3).value, weight)
    value = BlockDiagonalRegularizer(3, 2.0)(weight)
    (found,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(found, 2 * wanted)
    torch.testing.assert_close(value, 2 * block_diagonal_penalty(weight, 3).value)


@pytest.mark.parametrize("seed", range(6))
def test_the_projection_is_the_nearest_point_of_the_capped_simplex(seed):
    v = 2 * _drawn(6, seed=seed)
    if seed == 5:
        v = v.round()
    for total in (0.0, 0.7, 2.0, 4.5, 6.0):
        found = capped_simplex_projection(v, total)
        assert float(found.sum()) == pytest.approx(total)
        assert found.min() >= 0
        assert found.max() <= 1
        best = minimize(
            lambda c: float(((torch.from_numpy(c) - v) ** 2).sum()),
            torch.full((6,), total / 6).numpy(),
            bounds=[(0, 1)] * 6,
            constraints={"type": "eq", "fun": lambda c, total=total: c.sum() - total},
            options={"maxiter": 500, "ftol": 1e-14},
        )
        assert float(((found - v) ** 2).sum()) <= best.fun + 1e-6


def test_the_projection_of_equal_numbers_shares_and_a_far_one_is_capped():
    torch.testing.assert_close(
        capped_simplex_projection(torch.zeros(4, **DOUBLE), 3.0), torch.full((4,), 0.75, **DOUBLE)
    )
    far = torch.tensor([1e9, 0.0, -1e9], **DOUBLE)
    torch.testing.assert_close(capped_simplex_projection(far, 1.5), torch.tensor([1.0, 0.5, 0.0], **DOUBLE))


@pytest.mark.parametrize("total", [-0.1, 3.1])
def test_a_total_that_no_entries_have_is_refused(total, plain_inputs):
    with pytest.raises(ValueError, match="total"):
        capped_simplex_projection(torch.zeros(3), total)


def _feasible(size, k, seed):
    vectors = torch.linalg.qr(_drawn(size, size, seed=seed)).Q
    share = capped_simplex_projection(3 * _drawn(size, seed=seed + 1), float(k))
    return (vectors * share) @ vectors.T


@pytest.mark.parametrize("alpha3", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_assignment_is_the_best_of_all_feasible_matrices(k, alpha3):
    weight = _drawn(4, 3)
    found = spectral_assignment(weight, k, 0.8, alpha3)

    def cost(u):
        return float(0.8 * (_laplacian(weight) * u).sum() + alpha3 / 2 * u.square().sum())

    assert float(found.U.diagonal().sum()) == pytest.approx(k)
    eigenvalues = torch.linalg.eigvalsh(found.U)
    assert eigenvalues.min() > -1e-9
    assert eigenvalues.max() < 1 + 1e-9
    assert all(cost(found.U) <= cost(_feasible(7, k, seed)) + 1e-9 for seed in range(60))
    # Steps towards feasible matrices are no better, either.
    for seed in range(20):
        assert cost(found.U) <= cost(0.99 * found.U + 0.01 * _feasible(7, k, seed)) + 1e-9
    torch.testing.assert_close(found.penalty, (_laplacian(weight) * found.U).sum(), rtol=1e-8, atol=1e-10)
    assert found.distance.min() >= 0


def test_without_alpha3_the_penalty_is_that_of_the_smallest_eigenvalues():
    weight = _drawn(5, 4)
    for k in range(1, 10):
        torch.testing.assert_close(
            spectral_assignment(weight, k).penalty, block_diagonal_penalty(weight, k).value, rtol=1e-8, atol=1e-10
        )


def test_equals_share_and_that_is_the_limit_of_a_small_alpha3():
    weight = _blocks()
    torch.testing.assert_close(spectral_assignment(torch.zeros(4, 3, **DOUBLE), 2).U, 2 / 7 * torch.eye(7, **DOUBLE))
    torch.testing.assert_close(
        spectral_assignment(torch.zeros(4, 3, **DOUBLE), 2).distance, torch.full((4, 3), 4 / 7, **DOUBLE)
    )
    # Three components and k = 2: each has a share of two thirds.
    sharp, smooth = spectral_assignment(weight, 2), spectral_assignment(weight, 2, 1.0, 1e-4)
    torch.testing.assert_close(sharp.U, smooth.U, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(sharp.weight[:3], torch.full((3,), 2 / 3, **DOUBLE))
    torch.testing.assert_close(sharp.distance[0, 2], torch.tensor(2 / 3 * 2 / 4, **DOUBLE))


def test_distances_are_zero_within_blocks_and_permuting_permutes():
    weight = _blocks()
    found = spectral_assignment(weight, 3).distance
    assert float(found[:2, :2].abs().max()) < 1e-12
    assert float(found[2:4, 2:].abs().max()) < 1e-12
    assert float(found[:2, 2:].min()) > 0.1
    order, columns = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    moved = spectral_assignment(weight[order][:, columns], 3).distance
    torch.testing.assert_close(moved, found[order][:, columns], rtol=1e-9, atol=1e-9)


def test_an_alpha1_of_zero_leaves_only_the_size_of_the_assignment():
    torch.testing.assert_close(spectral_assignment(_drawn(3, 2), 2, 0.0, 1.0).U, 0.4 * torch.eye(5, **DOUBLE))


def test_single_precision_stays_and_bad_input_is_named(plain_inputs):
    weight = _drawn(3, 2).float()
    assert spectral_assignment(weight, 2).U.dtype is torch.float32
    assert block_diagonal_penalty(weight, 2).value.dtype is torch.float32
    for bad in (lambda: spectral_assignment(weight, 6), lambda: block_diagonal_penalty(weight, 6)):
        with pytest.raises(ValueError, match="k=6 must be at most 5"):
            bad()
    with pytest.raises(ValueError, match="k=6"):
        BlockDiagonalRegularizer(6)(weight)
    with pytest.raises(ValueError, match="alpha3"):
        spectral_assignment(weight, 2, 1.0, -1.0)
    with pytest.raises(ValueError, match="weight"):
        spectral_assignment(weight * math.nan, 2)
