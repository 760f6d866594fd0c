import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.longtail import (
    SAM,
    SSESAM,
    ClassConditionalSAM,
    FlipTTA,
    FocalSAM,
    ImbSAM,
    class_hessian_extremes,
    class_sharpness,
    focal_coefficients,
)
from equipoise.longtail.sharpness.class_sam import sse_rho_head_schedule, tail_classes
from equipoise.longtail.sharpness.curvature import _lanczos

COUNTS = [50, 20, 8, 2]


def _world(seed=0, n=12):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    for p in model.parameters():
        nn.init.normal_(p, generator=g)
    return model, torch.randn(n, 3, generator=g, dtype=torch.float64), torch.arange(n) % 4


def _each(logits, target):
    return cross_entropy(logits, target, reduction="none")


def _after(make, seed=0, y=None):
    model, x, target = _world(seed)
    target = target if y is None else y
    make(model.parameters()).step(lambda: (_each(model(x), target), target))
    return [p.grad.clone() for p in model.parameters()]


def _same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


SGD = torch.optim.SGD


def test_focal_sam_at_gamma_0_and_lambda_1_is_sam():
    sam = _after(lambda p: SAM(p, SGD, 0.2, lr=0.1))
    _same(_after(lambda p: FocalSAM(p, SGD, COUNTS, 0.2, 0.0, 1.0, lr=0.1)), sam)
    plain = _after(lambda p: SAM(p, SGD, 0.0, lr=0.1))
    mixed = [0.6 * a + 0.4 * b for a, b in zip(plain, sam, strict=True)]
    _same(_after(lambda p: FocalSAM(p, SGD, COUNTS, 0.2, 0.0, 0.4, lr=0.1)), mixed)
    _same(_after(lambda p: FocalSAM(p, SGD, COUNTS, 0.2, 2.0, 0.0, lr=0.1)), plain)


def _sse(params, epoch, **options):
    made = SSESAM(params, SGD, COUNTS, total_epochs=10, rho_tail=0.2, eta=10, lr=0.1, **options)
    made.set_epoch(epoch)
    return made


def test_stage_2_of_sse_sam_is_imb_sam_and_so_is_stage_1_without_radius():
    imb = _after(lambda p: ImbSAM(p, SGD, COUNTS, 0.2, eta=10, lr=0.1))

    _same(_after(lambda p: _sse(p, 8)), imb)
    _same(_after(lambda p: _sse(p, 0, rho_head=0)), imb)


def test_a_batch_of_tail_samples_is_sam_of_the_tail():
    y = torch.full((12,), 3)
    sam = _after(lambda p: SAM(p, SGD, 0.2, lr=0.1), y=y)
    _same(_after(lambda p: ImbSAM(p, SGD, COUNTS, 0.2, eta=10, lr=0.1), y=y), sam)
    _same(_after(lambda p: _sse(p, 0), y=y), sam)
    _same(_after(lambda p: ClassConditionalSAM(p, SGD, [8, 8, 8, 2], 0.1, lr=0.1), y=y), sam)


def test_twice_the_tail_loss_is_the_first_authors_form():
    plain = _after(lambda p: SAM(p, SGD, 0.0, lr=0.1))
    double = _after(lambda p: ImbSAM(p, SGD, COUNTS, 0.0, eta=10, tail_loss_scale=2.0, lr=0.1))
    model, x, y = _world()
    tail = torch.autograd.grad((_each(model(x), y) * (y >= 2)).sum() / 12, list(model.parameters()))
    _same(double, [a + b for a, b in zip(plain, tail, strict=True)])


def test_coefficients_and_schedules():
    assert focal_coefficients([3, 1], 2.0, 0.5).tolist() == pytest.approx([0.5 * 0.25**2, 0.5 * 0.75**2])
    for total, gamma, switch in ((7, 0.5, 4), (10, 0.7, 7), (200, 0.7, 140), (5, 1.0, 5), (5, 0.0, 0)):
        assert sse_rho_head_schedule(total, gamma, 0.1) == [0.1] * switch + [0.0] * (total - switch)
    assert tail_classes([500, 100, 99]).tolist() == [2]
    assert tail_classes([500, 300, 200]).tolist() == [2]
    assert ClassConditionalSAM([nn.Parameter(torch.ones(1))], SGD, COUNTS, 0.1, lr=0.1).rho == pytest.approx(
        [0.1 * math.sqrt(50 / n) for n in COUNTS]
    )


def test_the_epoch_is_part_of_the_state():
    weight = nn.Parameter(torch.ones(1))
    one = SSESAM([weight], SGD, COUNTS, total_epochs=10, eta=10, lr=0.1)
    one.set_epoch(8)
    other = SSESAM([weight], SGD, COUNTS, total_epochs=10, eta=10, lr=0.1)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert (other.epoch, other.stage) == (8, 2)
    with pytest.warns(UserWarning, match="beyond"):
        other.set_epoch(10)
    assert other.stage == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: FocalSAM(p, SGD, [3, 0], lr=0.1), "class 1 has 0"),
        (lambda p: SSESAM(p, SGD, COUNTS, total_epochs=2, eta=3, tail=[1], lr=0.1), "not both"),
        (lambda p: ImbSAM(p, SGD, COUNTS, tail=[4], lr=0.1), "tail must hold"),
        (lambda p: ImbSAM(p, SGD, COUNTS, tail=[1, 1], lr=0.1), "tail must hold"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.ones(1))])


def test_all_head_or_all_tail_is_warned_of():
    with pytest.warns(UserWarning, match="are head"):
        ImbSAM([nn.Parameter(torch.ones(1))], SGD, COUNTS, eta=1, lr=0.1)


def test_sharpness_of_a_class_is_the_rise_along_its_gradient():
    model, x, y = _world(3)
    before = [p.detach().clone() for p in model.parameters()]
    found = class_sharpness(model, _each, x, y, 0.2, 4)
    for c in range(4):
        loss = cross_entropy(model(x[y == c]), y[y == c])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, g in zip(moved.parameters(), gradients, strict=True):
                p += 0.2 * g / norm
            assert float(found[c]) == pytest.approx(float(cross_entropy(moved(x[y == c]), y[y == c]) - loss))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    two = class_sharpness(model, _each, x, y % 2 == 1, 0.2, 2)
    assert torch.equal(two, class_sharpness(model, _each, x, y % 2, 0.2, 2))
    with pytest.raises(ValueError, match="holds the value 3"):
        class_sharpness(model, _each, x, y, 0.2, 3)
    with pytest.raises(ValueError, match="holds the value 3"):
        class_hessian_extremes(model, _each, x, y, 3)
    with pytest.warns(UserWarning, match="class 4"):
        assert math.isnan(class_sharpness(model, _each, x, y, 0.2, 5)[4])


def test_sharpness_is_no_difference_of_two_rounded_means():
    model, x, y = _world(3, n=4000)
    wanted = class_sharpness(model, lambda z, t: _each(z, t) + 1000, x, y, 1e-3, 4)
    # A float32 of 1000 is known to 6e-5; the mean of a thousand of them much better.
    found = class_sharpness(model.float(), lambda z, t: _each(z, t) + 1000, x.float(), y, 1e-3, 4)
    torch.testing.assert_close(found, wanted, rtol=0, atol=6e-6)


def test_sharpness_is_seen_by_a_model_in_half_precision():
    model, x, y = _world(3)
    plain = class_sharpness(model.float(), _each, x.float(), y, 2.0, 4)
    with torch.autocast("cpu", torch.bfloat16):
        half = class_sharpness(model, lambda z, t: _each(z.float(), t), x.float(), y, 2.0, 4)
    torch.testing.assert_close(half, plain, rtol=0.1, atol=0.05)
    assert plain.min() > 0.5


def test_curvature_is_that_of_the_full_hessian_and_lanczos_agrees():
    model, x, y = _world(4)
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def of(c):
        def loss(vector):
            parts = vector.split([s.numel() for s in shapes])
            state = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
            return cross_entropy(torch.func.functional_call(model, state, (x[y == c],)), y[y == c])

        return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))

    exact = class_hessian_extremes(model, _each, x, y, 4, method="exact")
    lanczos = class_hessian_extremes(model, _each, x, y, 4, method="lanczos", iterations=60)
    for c in range(4):
        eigenvalues = of(c)
        assert float(exact.lambda_min[c]) == pytest.approx(float(eigenvalues[0]), abs=1e-9)
        assert float(exact.lambda_max[c]) == pytest.approx(float(eigenvalues[-1]), rel=1e-9)
        assert float(lanczos.lambda_min[c]) == pytest.approx(float(eigenvalues[0]), rel=1e-3, abs=1e-6)
        assert float(lanczos.lambda_max[c]) == pytest.approx(float(eigenvalues[-1]), rel=1e-3)
        ratio = max(0.0, -float(eigenvalues[0])) / float(eigenvalues[-1])
        assert float(exact.saddle_ratio[c]) == pytest.approx(ratio, abs=1e-9)


def test_a_flip_is_averaged():
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    torch.testing.assert_close(FlipTTA(model)(images), (model(images) + model(images.flip(3))) / 2)
    torch.testing.assert_close(FlipTTA(model)(images.flip(3)), FlipTTA(model)(images))


@pytest.mark.parametrize("large", [1e4, 1e6])
def test_a_small_end_of_the_spectrum_settles_by_its_own_size(large):
    spectrum = torch.cat([torch.tensor([-1.0, large]), torch.linspace(0, 50, 98)]).double()
    found = _lanczos(lambda v: spectrum * v, spectrum, iterations=100, seed=0)
    assert float(found[0]) == pytest.approx(-1, rel=1e-3)
    assert float(found[-1]) == pytest.approx(large, rel=1e-6)
