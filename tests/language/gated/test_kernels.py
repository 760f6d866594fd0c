"""The integrals of activations, and the expected kernels of two-layer nets."""

import math

import numpy as np
import pytest
import torch

from equipoise.language import activation_kernel, two_layer_ntk
from equipoise.language.gated.activations import ACTIVATIONS, resolve_activation

pytestmark = pytest.mark.filterwarnings("error")
_KINKED = {"relu": (0.0,), "leaky_relu": (0.0,)}


def _nodes(kinks):
    """Gauss-Legendre nodes and weights times the normal density over [−9, 9], in panels that end at kinks."""
    ends = np.unique(np.concatenate([np.linspace(-9, 9, 13), [kink for kink in kinks if -9 < kink < 9]]))
    z, weight = np.polynomial.legendre.leggauss(24)
    half = np.diff(ends)[:, None] / 2
    nodes = (half * z + (ends[1:] + ends[:-1])[:, None] / 2).ravel()
    return nodes, (half * weight).ravel() * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)


def _by_quadrature(function, s, t, rho, kinks=()):
    """E[f(s z) f(t (ρ z + √(1 − ρ²) w))] by panels that are split at the kinks of both factors."""
    outer, weights = _nodes([kink / s for kink in kinks])
    spread, total = math.sqrt(1 - rho * rho), 0.0
    for z, weight in zip(outer, weights, strict=True):
        inner, along = _nodes([(kink / t - rho * z) / spread for kink in kinks])
        values = function(torch.from_numpy(t * (rho * z + spread * inner))).numpy()
        total += weight * float(function(torch.tensor(s * z, dtype=torch.float64))) * (along @ values)
    return total


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "identity"])
def test_both_integrals_are_those_of_panel_quadrature(name):
    one = resolve_activation(name)
    for s, t, rho in ((0.7, 1.6, -0.6), (1.2, 0.9, 0.95)):
        k11, k22, k12 = (torch.tensor([each], dtype=torch.float64) for each in (s * s, t * t, s * t * rho))
        found = activation_kernel(name, k11, k22, k12)
        for value, function in ((found.a1, one.function), (found.a0, one.derivative)):
            wanted = _by_quadrature(function, s, t, rho, _KINKED.get(name, ()))
            assert value.item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", ["gelu", "erf"])
def test_the_expansion_and_the_grid_give_the_closed_forms(name):
    one = resolve_activation(name)
    draws = torch.Generator().manual_seed(0)
    k11, k22 = (4 * torch.rand(60, generator=draws, dtype=torch.float64) for _ in range(2))
    rho = 2 * torch.rand(60, generator=draws, dtype=torch.float64) - 1
    rho[:4] = torch.tensor([1.0, -1.0, 0.9999, -0.99999])
    wanted = activation_kernel(name, k11, k22, rho * (k11 * k22).sqrt())
    found = activation_kernel((one.function, one.derivative), k11, k22, rho * (k11 * k22).sqrt())
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
    by_autograd = activation_kernel(one.function, k11, k22, rho * (k11 * k22).sqrt())
    torch.testing.assert_close(by_autograd, wanted, rtol=1e-11, atol=1e-13)


def test_large_inputs_of_a_smooth_activation_are_integrated_too():
    k = torch.full((1,), 400.0, dtype=torch.float64)
    for rho in (0.3, 0.9, 0.999, 1.0):
        found = activation_kernel("silu", k, k, rho * k)
        wanted = activation_kernel("relu", k, k, rho * k)
        # At 20 standard deviations SiLU is nearly ReLU.
        assert found.a1.item() == pytest.approx(wanted.a1.item(), rel=0.02)
        assert found.a0.item() == pytest.approx(wanted.a0.item(), rel=0.05)


def test_a_kink_that_the_nodes_cannot_see_is_told():
    one = resolve_activation("relu")
    k = torch.ones(1)
    with pytest.warns(UserWarning, match="not smooth"):
        activation_kernel((one.function, one.derivative), k, k, 0.3 * k)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_collinear_antipodal_and_zero_rows_have_values(name):
    row = torch.randn(6, generator=torch.Generator().manual_seed(1))
    x = torch.stack([row, 3 * row, -row, row, torch.zeros(6), torch.zeros(6), 1e-30 * row, row + 1e-7])
    for gated in (False, True):
        found = two_layer_ntk(x, 10, name, gated)
        for kernel in found:
            assert torch.isfinite(kernel).all()
            torch.testing.assert_close(kernel, kernel.T)
        assert found.ntk[0, 3] == found.ntk[0, 0]
    # Two rows of zeros count as uncorrelated: f' has mean φ'(0) for the smooth, ½ for ReLU.
    zero = torch.zeros(1)
    a1, a0 = activation_kernel(name, zero, zero, zero)
    if name == "relu":
        assert (a1.item(), a0.item()) == (0.0, 0.25)
    elif name != "leaky_relu":
        one = resolve_activation(name)
        at_zero = torch.zeros(1, dtype=torch.float64)
        torch.testing.assert_close(a1, one.function(at_zero) ** 2)
        torch.testing.assert_close(a0, one.derivative(at_zero) ** 2)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "erf"])
def test_the_derivatives_are_those_of_autograd(name):
    one = resolve_activation(name)
    u = torch.linspace(-4, 4, 24, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(one.function(u).sum(), u)
    torch.testing.assert_close(one.derivative(u.detach()), wanted)


def _random_net_kernels(x, activation, gated, width, nets, variances):
    """Mean tangent kernel and output covariance over random nets, from the definition, by autograd-free products."""
    one, draws = resolve_activation(activation), torch.Generator().manual_seed(3)
    w2, v2, p2 = variances
    gram = x @ x.T
    ntk, nngp = torch.zeros(2, len(x), len(x), dtype=torch.float64)
    for _ in range(nets):
        w = math.sqrt(w2) * torch.randn(width, x.shape[1], generator=draws, dtype=torch.float64)
        p = math.sqrt(p2) * torch.randn(width, x.shape[1], generator=draws, dtype=torch.float64)
        v = math.sqrt(v2) * torch.randn(width, generator=draws, dtype=torch.float64)
        hidden, slope = one.function(x @ w.T), one.derivative(x @ w.T)
        linear = x @ p.T if gated else torch.ones_like(hidden)
        ntk += (linear * hidden) @ (linear * hidden).T + gram * ((linear * slope * v**2) @ (linear * slope).T)
        if gated:
            ntk += gram * ((hidden * v**2) @ hidden.T)
        out = (linear * hidden) @ v
        nngp += torch.outer(out, out)
    return ntk / nets, nngp / nets


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_expected_kernels_are_means_over_random_nets(activation, gated):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variances = (0.5, 0.3, 0.2)
    names = dict(zip(("sigma_w2", "sigma_v2", "sigma_p2"), variances, strict=True))
    found = two_layer_ntk(x, 20, activation, gated, **names)
    ntk, nngp = _random_net_kernels(x, activation, gated, 20, 6000, variances)
    torch.testing.assert_close(found.ntk, ntk, rtol=0.05, atol=0.04)
    torch.testing.assert_close(found.nngp, nngp, rtol=0.1, atol=0.1)


def test_the_gated_kernel_is_the_plain_one_times_the_gram_matrix_and_a_small_term():
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, gated = (two_layer_ntk(x, 5000, "gelu", kind) for kind in (False, True))
    gram = x @ x.T / 20
    torch.testing.assert_close(gated.ntk, plain.ntk * gram + 20 * gram * plain.nngp)
    error = (gated.ntk - plain.ntk * gram).norm() / gated.ntk.norm()
    assert 0.5 * 20 / 5000 < error < 1.2 * 20 / 5000


def test_kernels_do_not_change_under_rotation_and_order():
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    for name in ("relu", "tanh"):
        wanted = two_layer_ntk(x, 7, name, True)
        for kernel, turned in zip(wanted, two_layer_ntk((x @ turn)[order], 7, name, True), strict=True):
            torch.testing.assert_close(turned, kernel[order][:, order])


def test_half_precision_inputs_are_computed_in_float64():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).half()
    found = two_layer_ntk(x, 8, "silu")
    assert found.ntk.dtype is torch.float64
    torch.testing.assert_close(found.ntk, two_layer_ntk(x.double(), 8, "silu").ntk)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_one_sentence():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="at least 2 samples"):
        two_layer_ntk(x[:1], 4)
    with pytest.raises(ValueError, match="'relu', 'leaky_relu', 'gelu'"):
        two_layer_ntk(x, 4, "swish-ish")
    with pytest.raises(ValueError, match="activation=3"):
        two_layer_ntk(x, 4, 3)
    with pytest.raises(ValueError, match="no derivative"):
        two_layer_ntk(x, 4, lambda u: torch.from_numpy(np.tanh(u.detach().numpy())))
    with pytest.raises(ValueError, match="sigma_v2"):
        two_layer_ntk(x, 4, sigma_v2=-1.0)
    with pytest.raises(ValueError, match="broadcast"):
        activation_kernel("relu", torch.ones(3), torch.ones(2), torch.ones(3))
