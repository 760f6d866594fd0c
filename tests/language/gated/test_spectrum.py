"""Spectra, the mean mode, and predicted training against explicit recursion."""

import math

import pytest
import torch

from equipoise.language import (
    NTK,
    expected_gd_loss,
    loss_crossing_step,
    loss_phases,
    ntk_spectrum,
    two_layer_ntk,
)


def _kernel(n=7, features=20, seed=0):
    x = torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ x.T


def test_the_numbers_are_those_of_the_eigenvalues():
    kernel = _kernel()
    values = torch.linalg.eigvalsh(kernel).flip(0)
    found = ntk_spectrum(kernel)
    torch.testing.assert_close(found.eigenvalues, values)
    assert found.condition_number == pytest.approx(float(values[0] / values[-1]))
    assert found.top_share == pytest.approx(float(values[0] / kernel.trace()))
    assert (found.effective_rank, found.resolved) == (7, True)
    rank_two = torch.diag(torch.tensor([1.0, 0.5, 1e-7, 1e-8], dtype=torch.float64))
    assert ntk_spectrum(rank_two).effective_rank == 2


def test_without_the_mean_the_kernel_is_that_of_centred_features():
    x = torch.randn(9, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    found = ntk_spectrum(x @ x.T)
    centred = x - x.mean(0)
    wanted = torch.linalg.eigvalsh(centred @ centred.T).flip(0)[:-1]
    torch.testing.assert_close(found.without_mean.eigenvalues, wanted)
    assert found.without_mean.condition_number < 0.2 * found.condition_number
    assert found.without_mean.without_mean is None


def test_the_spectrum_does_not_depend_on_order_and_scales():
    kernel, order = _kernel(), torch.randperm(7, generator=torch.Generator().manual_seed(1))
    found, other = ntk_spectrum(kernel), ntk_spectrum(3 * kernel[order][:, order])
    assert other.condition_number == pytest.approx(found.condition_number)
    assert other.lambda_min == pytest.approx(3 * found.lambda_min)
    assert other.without_mean.top_share == pytest.approx(found.without_mean.top_share)


def test_repeated_samples_and_float32_are_told_apart_from_a_bad_condition():
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="least eigenvalue .* is rounding"):
        found = ntk_spectrum(two_layer_ntk(torch.cat([x, x[:1]]), 100).ntk)
    assert math.isinf(found.condition_number)
    assert not found.resolved
    ill = torch.diag(torch.tensor([1.0, 1.0, 1e-7], dtype=torch.float64))
    assert ntk_spectrum(ill).condition_number == pytest.approx(1e7)
    with pytest.warns(UserWarning, match="rounding"):
        assert math.isinf(ntk_spectrum(ill.float()).condition_number)
    with pytest.warns(UserWarning, match="zero"):
        assert math.isnan(ntk_spectrum(torch.zeros(3, 3)).condition_number)


def _recursion(kernel, start, y, eta, steps):
    """Mean losses of gradient descent, one step after another."""
    found, residual = [], start - y
    for step in range(max(steps) + 1):
        if step in steps:
            found.append(float(residual @ residual) / (2 * len(y)))
        residual = residual - eta * (kernel @ residual)
    return torch.tensor(found, dtype=torch.float64)


def test_the_predicted_loss_is_that_of_the_recursion():
    kernel, y = _kernel(), torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    steps = [0, 1, 2, 30, 200]
    for share in (0.01, 0.5, 0.999):
        eta = share * 2 / float(torch.linalg.eigvalsh(kernel)[-1])
        found = expected_gd_loss(kernel, y, eta, steps, init_cov="zero")
        torch.testing.assert_close(found, _recursion(kernel, 0 * y, y, eta, steps), rtol=1e-8, atol=1e-12)
        # Outputs at the start that are the columns of a root of S₀ give its expectation exactly.
        cov = _kernel(seed=5) / 20
        root = torch.linalg.cholesky(cov) * 7**0.5
        mean = torch.stack([_recursion(kernel, sign * u, y, eta, steps) for u in root.T for sign in (1, -1)]).mean(0)
        torch.testing.assert_close(expected_gd_loss(kernel, y, eta, steps, init_cov=cov), mean, rtol=1e-8, atol=1e-12)
        both = NTK(kernel, cov)
        torch.testing.assert_close(expected_gd_loss(both, y, eta, steps), mean, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        expected_gd_loss(both, y, eta, steps, init_cov="ntk"),
        expected_gd_loss(kernel, y, eta, steps, init_cov=kernel),
    )


def test_a_step_of_one_over_an_eigenvalue_removes_it():
    found = expected_gd_loss(torch.diag(torch.tensor([1.0, 2.0])), torch.ones(2), 0.5, [0, 1], init_cov="zero")
    torch.testing.assert_close(found, torch.tensor([0.5, 0.0625], dtype=torch.float64))


def test_tiny_steps_keep_their_digits():
    kernel, y = torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    found = expected_gd_loss(kernel, y, 1e-18, [10**17], init_cov="zero")
    assert found.item() == pytest.approx(0.5 * math.exp(-0.2), rel=1e-12)


def test_the_crossing_is_that_of_the_recursion():
    x = torch.randn(60, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.relu(x @ torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    plain, gated = (two_layer_ntk(x, 2000, "relu", kind) for kind in (False, True))
    largest = max(ntk_spectrum(each.ntk).lambda_max for each in (plain, gated))
    for share in (0.01, 0.1, 1.0):
        eta = share / largest
        steps = list(range(4000))
        curves = [_recursion(each.ntk, 0 * y, y, eta, steps) for each in (plain, gated)]
        below = (curves[1] < curves[0]) & (torch.arange(4000) > 0)
        wanted = int(below.nonzero()[0]) if below.any() else None
        assert wanted is not None
        assert wanted > 1
        assert loss_crossing_step(plain, gated, y, eta, init_cov="zero") == wanted
        assert loss_crossing_step(plain, gated, y, eta, init_cov="zero", max_steps=wanted) == wanted
        assert loss_crossing_step(plain, gated, y, eta, init_cov="zero", max_steps=wanted - 1) is None
        assert loss_crossing_step(gated, plain, y, eta, init_cov="zero", max_steps=4000) is None
        assert loss_crossing_step(plain, plain, y, eta, init_cov="zero", max_steps=4000) is None


def test_the_phases_are_the_first_slope_and_the_last_rate():
    kernel, y = _kernel(), torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    eta = 1e-6
    first = expected_gd_loss(kernel, y, eta, [0, 1], init_cov="zero")
    found = loss_phases(kernel, y, eta)
    assert float(first[1] - first[0]) == pytest.approx(found.early_slope, rel=1e-3)
    assert found.quadratic_form == pytest.approx(float(y @ kernel @ y))
    eta = 1.0 / float(torch.linalg.eigvalsh(kernel)[-1])
    late = expected_gd_loss(kernel, y, eta, [100, 101], init_cov="zero")
    assert float(late[1] / late[0]) == pytest.approx(loss_phases(kernel, y, eta).late_rate)
    assert found.largest_step == pytest.approx(2 * eta)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_one_sentence():
    kernel, y = torch.diag(torch.tensor([4.0, 1.0])), torch.ones(2)
    skew = torch.tensor([[1.0, 0.5], [0.4, 1.0]])
    with pytest.raises(ValueError, match="kernel must be symmetric"):
        ntk_spectrum(skew)
    with pytest.raises(ValueError, match="kernel must have shape"):
        ntk_spectrum(torch.ones(2, 3))
    with pytest.raises(ValueError, match="at least 2 samples"):
        ntk_spectrum(torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"diverges: eta must be < 2/lambda_max = 0\.5 of kernel"):
        expected_gd_loss(kernel, y, 0.5, [1], init_cov="zero")
    with pytest.raises(ValueError, match=r"diverges.*of gated"):
        loss_crossing_step(torch.eye(2), kernel, y, 0.6, init_cov="zero")
    with pytest.raises(ValueError, match="needs both kernels"):
        expected_gd_loss(kernel, y, 0.1, [1])
    with pytest.raises(ValueError, match="value for each of the 2 samples"):
        expected_gd_loss(NTK(kernel, kernel), torch.ones(3), 0.1, [1])
    with pytest.raises(ValueError, match="eta"):
        loss_phases(kernel, y, 0.0)
    with pytest.raises(ValueError, match="zero, so nothing is learned"):
        loss_phases(torch.zeros(2, 2), y, 0.1)
