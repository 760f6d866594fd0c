import math

import pytest
import torch

from equipoise.crowd import TripletLoss, triplet_loss

DOUBLE = {"dtype": torch.float64}
KINDS = ("gnmds", "ckl", "ste", "tste", "soe", "distributional")
TRIPLETS = torch.tensor([[0, 1, 2], [3, 4, 0], [2, 0, 4], [1, 3, 2], [0, 1, 2]])
SETTINGS = {"margin": 0.7, "delta": 0.1, "alpha": 1.5, "p": 1, "gamma0": 0.8, "lower_weight": 2.0, "upper_weight": 0.5}


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def _textbook(ab, ac, kind, p=1):
    if kind == "gnmds":
        return max(0.0, 0.7 + ab - ac)
    if kind == "ckl":
        return -math.log((ac + 0.1) / (ab + ac + 0.2))
    if kind == "ste":
        return -math.log(math.exp(-ab) / (math.exp(-ab) + math.exp(-ac)))
    if kind == "tste":
        near, far = ((1 + d / 1.5) ** (-2.5 / 2) for d in (ab, ac))
        return -math.log(near / (near + far))
    if kind == "soe":
        return max(0.0, 0.7 + math.sqrt(ab) - math.sqrt(ac)) ** 2
    m = ac - ab
    return 2.0 * max(0.8 - m, 0.0) ** p + 0.5 * max(m - 0.8, 0.0) ** p


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_that_of_the_textbook(kind):
    x = _drawn(5, 2)
    for p in (1, 2):
        rows = [
            _textbook(float((x[a] - x[b]).square().sum()), float((x[a] - x[c]).square().sum()), kind, p)
            for a, b, c in TRIPLETS.tolist()
        ]
        settings = {**SETTINGS, "p": p}
        found = triplet_loss(x, TRIPLETS, kind, reduction="none", **settings)
        torch.testing.assert_close(found, torch.tensor(rows, **DOUBLE))
        assert float(triplet_loss(x, TRIPLETS, kind, **settings)) == pytest.approx(sum(rows) / 5)
        assert float(triplet_loss(x, TRIPLETS, kind, reduction="sum", **settings)) == pytest.approx(sum(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_by_finite_differences(kind):
    x = _drawn(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: triplet_loss(x, TRIPLETS, kind, **SETTINGS), x)


@pytest.mark.parametrize("kind", KINDS)
def test_far_points_and_one_point_have_finite_losses_and_gradients(kind):
    for x in (1e6 * _drawn(5, 2).sign() * torch.arange(1, 6)[:, None], torch.zeros(5, 2, **DOUBLE)):
        leaf = x.clone().requires_grad_()
        loss = triplet_loss(leaf, TRIPLETS, kind)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(leaf.grad).all()


def test_what_is_wrong_by_far_still_pulls():
    # Ratios of exponentials are 0/0 there, and clamping them loses the slope.
    x = torch.tensor([[0.0], [100.0], [50.0]], **DOUBLE, requires_grad=True)
    triplet_loss(x, torch.tensor([[0, 1, 2]]), "ste").backward()
    assert float(x.grad[1]) > 100


@pytest.mark.parametrize("kind", KINDS)
def test_turning_and_shifting_change_nothing(kind):
    x = _drawn(5, 3)
    moved = x @ torch.linalg.qr(_drawn(3, 3, seed=1)).Q - 4
    torch.testing.assert_close(triplet_loss(moved, TRIPLETS, kind), triplet_loss(x, TRIPLETS, kind))


def test_the_degrees_of_freedom_follow_the_dimension():
    for dim, alpha in ((1, 1.0), (2, 1.0), (5, 4.0)):
        x = _drawn(5, dim)
        torch.testing.assert_close(triplet_loss(x, TRIPLETS, "tste"), triplet_loss(x, TRIPLETS, "tste", alpha=alpha))


def test_the_module_is_the_function_and_says_what_it_is():
    x = _drawn(5, 2)
    for kind in KINDS:
        loss = TripletLoss(kind, reduction="sum", **SETTINGS)
        torch.testing.assert_close(loss(x, TRIPLETS), triplet_loss(x, TRIPLETS, kind, reduction="sum", **SETTINGS))
        assert repr(loss) == f"TripletLoss(kind={kind!r}, reduction='sum')"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: triplet_loss(x, torch.tensor([[0, 1, 2], [1, 1, 2]])), "row 1"),
        (lambda x: triplet_loss(x, torch.tensor([[0, 1, 5]])), "row 0"),
        (lambda x: triplet_loss(x, torch.tensor([[1, 2, 3], [5, 1, 4]])), "count items from 1; subtract 1"),
        (lambda x: triplet_loss(x, TRIPLETS, "hinge"), "kind"),
        (lambda x: triplet_loss(x, TRIPLETS, alpha=0.0), "alpha"),
        (lambda x: triplet_loss(x, TRIPLETS, p=3), "p="),
        (lambda x: triplet_loss(x, TRIPLETS, gamma0=0.0), "gamma0"),
        (lambda x: triplet_loss(x, TRIPLETS.double()), "triplets"),
        (lambda x: triplet_loss(x * math.nan, TRIPLETS), "embedding"),
        (lambda x: triplet_loss(x[:2], torch.tensor([[0, 1, 2]])), "row 0 of triplets"),
    ],
)
def test_bad_input_is_named(call, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        call(_drawn(5, 2))
