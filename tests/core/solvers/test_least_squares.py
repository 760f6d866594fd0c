import pytest
import torch

from equipoise.core.solvers.least_squares import GroupedLeastSquares

DOUBLE = {"dtype": torch.float64}


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@pytest.mark.parametrize("d", [2, 15])
def test_the_value_the_gradient_and_the_ridge_are_those_of_each_owner(d):
    rows, response, owner = _drawn(17, d), _drawn(17, seed=1), torch.arange(17) % 3
    losses = GroupedLeastSquares(rows, response, owner, 3)
    assert (losses.forms is None) == (d == 15)
    weights = _drawn(d, 3, seed=2).requires_grad_()
    wanted = sum((rows[owner == k] @ weights[:, k] - response[owner == k]).square().sum() / 2 for k in range(3))
    value, gradient = losses.value_and_gradient(weights.detach())
    assert value == pytest.approx(wanted.item())
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, weights)[0])
    found = losses.ridge(0.3)
    for k in range(3):
        own = rows[owner == k]
        exact = torch.linalg.solve(own.T @ own + 0.3 * torch.eye(d, **DOUBLE), own.T @ response[owner == k])
        torch.testing.assert_close(found[:, k], exact)
    top = max(float(torch.linalg.matrix_norm(rows[owner == k], 2)) ** 2 for k in range(3))
    assert losses.curvature() >= top * (1 - 1e-9)


def test_an_owner_without_rows_has_no_loss():
    losses = GroupedLeastSquares(_drawn(9, 2), _drawn(9, seed=1), torch.arange(9) % 2 * 2, 3)
    assert losses.forms is not None
    assert losses.value_and_gradient(torch.ones(2, 3, **DOUBLE))[1][:, 1].tolist() == [0.0, 0.0]
    assert losses.ridge(1.0)[:, 1].tolist() == [0.0, 0.0]
