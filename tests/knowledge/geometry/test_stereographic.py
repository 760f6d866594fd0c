"""Spaces of constant curvature: the definitions in loops, the flat limit, isometries, far and coinciding points."""

import math

import pytest
import torch

from equipoise.knowledge import Stereographic, givens_rotation
from equipoise.knowledge.geometry.curved_functions import asin_ratio, atan_ratio, tan_ratio

KAPPAS = [-2.0, -1.0, -0.3, -1e-3, 0.0, 1e-3, 0.4, 1.5]


def _vectors(count=6, dim=4, scale=0.3, seed=0, dtype=torch.float64):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def _points(kappa, **options):
    return Stereographic(kappa).expmap0(_vectors(**options))


def _tan(kappa, t):
    if kappa == 0:
        return t
    root = math.sqrt(abs(kappa))
    return (math.tan if kappa > 0 else math.tanh)(root * t) / root


def _atan(kappa, t):
    if kappa == 0:
        return t
    root = math.sqrt(abs(kappa))
    return (math.atan if kappa > 0 else math.atanh)(root * t) / root


def _add(kappa, x, y):
    xy, x2, y2 = (sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((x, y), (x, x), (y, y)))
    below = 1 - 2 * kappa * xy + kappa**2 * x2 * y2
    first, second = 1 - 2 * kappa * xy - kappa * y2, 1 + kappa * x2
    return [(first * a + second * b) / below for a, b in zip(x, y, strict=True)]


def _norm(x):
    return math.sqrt(sum(a * a for a in x))


@pytest.mark.parametrize("kappa", KAPPAS)
def test_every_map_is_its_definition(kappa):
    space, v, w = Stereographic(kappa), _vectors(), _vectors(seed=1)
    x, y = space.expmap0(v), space.expmap0(w)
    for k in range(len(v)):
        rows = [each[k].tolist() for each in (v, x, y)]
        tangent, one, two = rows
        length = _norm(tangent)
        wanted = [_tan(kappa, length) * a / length for a in tangent]
        torch.testing.assert_close(x[k], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)
        length = _norm(one)
        wanted = [_atan(kappa, length) * a / length for a in one]
        torch.testing.assert_close(space.logmap0(x)[k], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)
        wanted = _add(kappa, one, two)
        found = space.mobius_add(x, y)[k]
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-15)
        wanted = 2 * _atan(kappa, _norm(_add(kappa, [-a for a in one], two)))
        assert float(space.dist(x, y)[k]) == pytest.approx(wanted, rel=1e-12)
        assert float(space.dist_squared(x, y)[k]) == pytest.approx(wanted**2, rel=1e-12)


def test_the_maps_agree_with_another_library():
    math_of = pytest.importorskip("geoopt.manifolds.stereographic.math")
    for kappa in (-2.0, -1.0, -0.3, -1e-3, 0.0, 1e-3, 0.4, 1.0):
        space, k = Stereographic(kappa), torch.tensor(kappa, dtype=torch.float64)
        v, w = _vectors(200, 6, 0.25), _vectors(200, 6, 0.25, seed=1)
        x, y = space.expmap0(v), space.expmap0(w)
        close = {"rtol": 0, "atol": 1e-12}
        torch.testing.assert_close(x, math_of.expmap0(v, k=k), **close)
        torch.testing.assert_close(space.logmap0(x), math_of.logmap0(x, k=k), **close)
        torch.testing.assert_close(space.mobius_add(x, y), math_of.mobius_add(x, y, k=k), **close)
        torch.testing.assert_close(space.dist(x, y), math_of.dist(x, y, k=k), **close)


@pytest.mark.parametrize("kappa", [-1e-6, 1e-6, -1e-12, 1e-300])
def test_without_curvature_the_space_is_flat(kappa):
    bent, flat = Stereographic(kappa), Stereographic(0.0)
    x, y = (torch.nn.functional.normalize(_vectors(seed=seed)) for seed in (0, 1))
    for name in ("mobius_add", "dist"):
        assert (getattr(bent, name)(x, y) - getattr(flat, name)(x, y)).abs().max() < 1e-5
    for name in ("expmap0", "logmap0"):
        assert (getattr(bent, name)(x) - x).abs().max() < 1e-5
    torch.testing.assert_close(flat.mobius_add(x, y), x + y)
    torch.testing.assert_close(flat.dist(x, y), 2 * (x - y).norm(dim=1))


@pytest.mark.parametrize("kappa", KAPPAS)
def test_a_translation_is_undone_from_the_left_and_changes_no_distance(kappa):
    space = Stereographic(kappa)
    b, x, y = (_points(kappa, seed=seed, scale=0.25) for seed in range(3))
    moved = space.mobius_add(b, x)
    torch.testing.assert_close(space.mobius_add(-b, moved), x)
    torch.testing.assert_close(space.dist(moved, space.mobius_add(b, y)), space.dist(x, y))
    torch.testing.assert_close(space.mobius_add(torch.zeros_like(x), x), x)
    torch.testing.assert_close(space.mobius_add(-x, x), torch.zeros_like(x), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_distances_are_those_of_a_metric_and_rotations_keep_them(kappa):
    space = Stereographic(kappa)
    x, y, z = (_points(kappa, seed=seed, scale=0.25) for seed in range(3))
    assert torch.equal(space.dist(x, y), space.dist(y, x))
    assert (space.dist(x, x) == 0).all()
    assert (space.dist(x, z) <= space.dist(x, y) + space.dist(y, z) + 1e-12).all()
    rotation = _vectors(1, seed=5)
    turned = [givens_rotation(rotation, each) for each in (x, y)]
    torch.testing.assert_close(space.dist(*turned), space.dist(x, y))
    torch.testing.assert_close(space.logmap0(turned[0]), givens_rotation(rotation, space.logmap0(x)))
    origin = torch.zeros_like(x)
    torch.testing.assert_close(space.dist(origin, x), 2 * space.logmap0(x).norm(dim=1))
    torch.testing.assert_close(space.expmap0(space.logmap0(x)), x)


def test_each_vector_may_have_a_curvature_of_its_own():
    kappas = torch.tensor(KAPPAS, dtype=torch.float64)
    x, y = _vectors(len(KAPPAS), scale=0.2), _vectors(len(KAPPAS), scale=0.2, seed=1)
    space = Stereographic(kappas)
    for k, kappa in enumerate(KAPPAS):
        for name in ("mobius_add", "dist"):
            torch.testing.assert_close(getattr(space, name)(x, y)[k], getattr(Stereographic(kappa), name)(x[k], y[k]))
        for name in ("expmap0", "logmap0", "project"):
            torch.testing.assert_close(getattr(space, name)(x)[k], getattr(Stereographic(kappa), name)(x[k]))
    assert space.dist(x[0], y[0]).shape == (len(KAPPAS),)
    assert Stereographic(kappas[:, None]).dist(x, y).shape == (len(KAPPAS), len(KAPPAS))


@pytest.mark.parametrize("kappa", [-1.3, -1e-3, 0.0, 1e-3, 0.9])
def test_gradients_in_vectors_and_curvature_are_those_of_finite_differences(kappa):
    leaf = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    x, y = (_points(kappa, count=3, seed=seed).requires_grad_() for seed in range(2))
    for name in ("mobius_add", "dist", "dist_squared"):
        assert torch.autograd.gradcheck(lambda k, *xy, name=name: getattr(Stereographic(k), name)(*xy), (leaf, x, y))
    for name in ("expmap0", "logmap0"):
        assert torch.autograd.gradcheck(lambda k, v, name=name: getattr(Stereographic(k), name)(v), (leaf, x))
    smooth = (leaf, x[:1].detach().requires_grad_(), y[:1].detach().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda k, *xy: Stereographic(k).dist_squared(*xy), smooth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kappa", [-1.0, 0.0, 1.0])
def test_zero_vectors_and_equal_points_have_finite_values_and_gradients(kappa, dtype):
    leaf = torch.tensor(kappa, dtype=dtype, requires_grad=True)
    space = Stereographic(leaf)
    zero = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
    x = _points(kappa, count=2).to(dtype).requires_grad_()
    for found in (
        space.expmap0(zero),
        space.logmap0(zero),
        space.project(zero),
        space.mobius_add(zero, zero),
        space.mobius_add(x, zero),
        space.dist(zero, zero),
        space.dist(x, x),
        space.dist(zero, x),
        space.dist_squared(x, x),
    ):
        assert found.isfinite().all()
        grads = torch.autograd.grad(found.sum(), (leaf, zero, x), allow_unused=True)
        assert all(each is None or bool(each.isfinite().all()) for each in grads)
    (at_zero,) = torch.autograd.grad(space.expmap0(zero).sum(), zero)
    assert torch.equal(at_zero, torch.ones_like(zero))
    flat = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    v = _vectors(1)
    (slope,) = torch.autograd.grad(Stereographic(flat).expmap0(v).sum(), flat)
    torch.testing.assert_close(slope, (v.square().sum(1, keepdim=True) / 3 * v).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e3, 1e15, 1e30])
@pytest.mark.parametrize("kappa", [-1e4, -1.0, 0.0, 1.0, 1e4])
def test_extreme_vectors_stay_in_the_space_with_finite_gradients(kappa, scale, dtype):
    leaf = torch.tensor(kappa, dtype=dtype, requires_grad=True)
    space = Stereographic(leaf)
    v, w = (_vectors(scale=scale, seed=seed, dtype=dtype).requires_grad_() for seed in range(2))
    x, y = space.expmap0(v), space.expmap0(w)
    z = space.project(space.mobius_add(x, y))
    found = (space.dist(x, y) + space.dist(z, x) + space.dist(v, w) + space.logmap0(z).sum(-1)).sum()
    assert found.isfinite()
    for grad in torch.autograd.grad(found, (leaf, v, w)):
        assert grad.isfinite().all()
    if kappa < 0:
        assert (math.sqrt(-kappa) * z.norm(dim=1) < 1).all()
        outside = space.project(v)
        assert (math.sqrt(-kappa) * outside.norm(dim=1) < 1).all()
        torch.testing.assert_close(space.project(outside), outside)


def test_far_points_of_the_ball_are_not_capped():
    """On a diameter distances add up: 2 artanh of each radius."""
    radii = torch.tensor([0.9, 0.9999, 1 - 1e-8, 1 - 1e-13], dtype=torch.float64)
    x = torch.stack((radii, torch.zeros_like(radii)), 1)
    torch.testing.assert_close(Stereographic(-1.0).dist(x, -x), 4 * radii.atanh(), rtol=1e-9, atol=0)


def test_antipodes_are_half_the_circle_apart():
    x = torch.tensor([[0.5, 0.0], [3.0, 4.0]], dtype=torch.float64)
    antipode = -x / x.square().sum(1, keepdim=True)
    torch.testing.assert_close(
        Stereographic(1.0).dist(x, antipode), torch.full((2,), math.pi, dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_what_lies_outside_is_brought_in_or_refused(plain_inputs):
    ball, sphere = Stereographic(-4.0, strict=True), Stereographic(4.0, strict=True)
    inside, outside = torch.tensor([0.4, 0.0]), torch.tensor([0.5, 0.0])
    for call in (lambda: ball.logmap0(outside), lambda: ball.dist(inside, outside), lambda: ball.dist(outside, inside)):
        with pytest.raises(ValueError, match=r"holds 1 vector out of range, wanted √−κ\|x\| below 1"):
            call()
    with pytest.raises(ValueError, match=r"v holds 2 vectors out of range, wanted √κ\|v\| below π/2"):
        sphere.expmap0(torch.tensor([[0.8, 0.0], [0.0, 0.79], [0.1, 0.2]]))
    assert ball.dist(inside, inside) == 0
    assert ball.expmap0(10 * outside).norm() < 0.5
    kept = Stereographic(-4.0)
    torch.testing.assert_close(kept.logmap0(outside), kept.logmap0(kept.project(outside)))
    torch.testing.assert_close(kept.project(outside).norm(), torch.tensor(0.5 * (1 - 4e-3)))
    torch.testing.assert_close(kept.project(outside.double()).norm(), torch.tensor(0.5 * (1 - 1e-5)).double())
    near_pole = Stereographic(4.0).expmap0(torch.tensor([5.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(near_pole[0], torch.tensor(math.tan(math.pi / 2 - 1e-5) / 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="kappa must have one value for each vector"):
        Stereographic(torch.ones(3)).dist(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"y must be a torch\.Tensor"):
        ball.logmap0([0.1])
    with pytest.raises(ValueError, match="kappa"):
        Stereographic(math.nan)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "inverse"),
    [
        (tan_ratio, -30.0, 2.4, (math.tanh, math.tan)),
        (atan_ratio, -0.999, 50.0, (math.atanh, math.atan)),
        (asin_ratio, -50.0, 0.999, (math.asinh, math.asin)),
    ],
)
def test_the_ratios_are_exact_on_both_sides_of_zero(ratio, low, high, inverse):
    small = torch.logspace(-300, -2, 60, dtype=torch.float64)
    s = torch.cat((torch.linspace(low, high, 401, dtype=torch.float64), small, -small)).requires_grad_()
    wanted = [inverse[x > 0](math.sqrt(abs(x))) / math.sqrt(abs(x)) if x else 1.0 for x in s.tolist()]
    torch.testing.assert_close(ratio(s).tolist(), wanted, rtol=1e-14, atol=0)
    single = s.detach().float().requires_grad_()
    torch.testing.assert_close(ratio(single).double(), ratio(single.double()), rtol=2e-5, atol=0)
    (exact,) = torch.autograd.grad(ratio(s).sum(), s)
    step = 1e-5
    between = s.detach()[1:400]
    torch.testing.assert_close(
        exact[1:400], (ratio(between + step) - ratio(between - step)) / (2 * step), rtol=1e-6, atol=1e-8
    )
    edges = torch.tensor([0.03 - 1e-12, 0.03 + 1e-12, -0.03 + 1e-12, -0.03 - 1e-12], dtype=torch.float64)
    (slopes,) = torch.autograd.grad(ratio(edges.requires_grad_()).sum(), edges)
    torch.testing.assert_close(slopes[::2], slopes[1::2], rtol=1e-11, atol=0)
    (rounded,) = torch.autograd.grad(ratio(single).sum(), single)
    torch.testing.assert_close(rounded.double(), exact, rtol=2e-4, atol=1e-6)
    assert ratio(s.new_zeros(0)).shape == (0,)
