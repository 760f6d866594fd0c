"""Reconstruction, NT-Xent and the cosine of gradients, by definition."""

import math

import pytest
import torch

from equipoise.multimodal import ConflictMeter, gradient_cosine, nt_xent, reconstruction_loss


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reconstruction_is_the_mean_square():
    pred, target = _drawn(3, 2, 4), _drawn(3, 2, 4, seed=1)
    torch.testing.assert_close(reconstruction_loss(pred, target), torch.nn.functional.mse_loss(pred, target))
    each = reconstruction_loss(pred, target, "none")
    torch.testing.assert_close(each[1], (pred[1] - target[1]).square().mean())
    target.requires_grad_()
    reconstruction_loss(pred.requires_grad_(), target).backward()
    assert target.grad is None


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_nt_xent_by_brute_force(tau):
    za, zb = _drawn(4, 3), _drawn(4, 3, seed=1)
    views = torch.nn.functional.normalize(torch.cat([za, zb]), dim=1)
    losses = []
    for i in range(8):
        scores = {u: float(views[i] @ views[u]) / tau for u in range(8) if u != i}
        other = (i + 4) % 8
        losses.append(math.log(sum(math.exp(s - scores[other]) for s in scores.values())))
    found = nt_xent(za, zb, tau, "none")
    torch.testing.assert_close(found, torch.tensor(losses, dtype=torch.float64))
    torch.testing.assert_close(nt_xent(za, zb, tau), found.mean())
    torch.testing.assert_close(nt_xent(zb, za, tau), found.mean())


def test_nt_xent_has_the_gradient_of_its_value():
    assert torch.autograd.gradcheck(
        lambda a, b: nt_xent(a, b, 0.5), [_drawn(3, 2).requires_grad_(), _drawn(3, 2, seed=1).requires_grad_()]
    )


def test_cosine_of_gradients():
    a, b = _drawn(5, 2), _drawn(5, 2, seed=1)
    wanted = float((a * b).sum() / (a.norm() * b.norm()))
    assert gradient_cosine(a, b).cosine == pytest.approx(wanted)
    parts = gradient_cosine([a[:2], None, a[2:]], [b[:2], None, b[2:]])
    assert parts.cosine == pytest.approx(wanted)
    assert parts.conflict == (wanted < 0)
    # A parameter that one loss does not reach counts in the other's norm.
    alone = gradient_cosine([a, None], [a, b])
    assert alone.cosine == pytest.approx(float(a.norm() / torch.cat([a, b]).norm()))
    assert gradient_cosine(a, -3 * a) == (pytest.approx(-1.0), True)
    assert gradient_cosine(a.float() * 1e25, a.float() * 1e25).cosine == pytest.approx(1)


def test_a_gradient_of_zero_has_no_cosine():
    with pytest.warns(UserWarning, match="a gradient is zero"):
        found = gradient_cosine(torch.zeros(3), torch.ones(3))
    assert math.isnan(found.cosine)
    assert not found.conflict


def test_bad_gradients_are_refused(plain_inputs):
    for a, b, words in [
        (torch.ones(2), torch.ones(3), "grad_b"),
        ([torch.ones(2)], [torch.ones(2), torch.ones(1)], "grad_b has gradients of 2 parameters"),
        ([torch.ones(2)], [torch.ones(3)], "shape"),
        (torch.tensor([torch.nan]), torch.ones(1), "grad_a holds 1 NaN"),
        (3.0, torch.ones(1), "grad_a"),
    ]:
        with pytest.raises(ValueError, match=words):
            gradient_cosine(a, b)


def test_the_meter_counts_conflicts_and_leaves_gradients_alone():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    meter = ConflictMeter()
    for sign in (1.0, -1.0, -1.0):
        meter.update(weight.sum(), sign * weight.sum(), [weight])
    assert meter.cosines == pytest.approx([1, -1, -1])
    assert meter.share_of_conflicts == pytest.approx(2 / 3)
    assert meter.mean_cosine == pytest.approx(-1 / 3)
    assert weight.grad is None
    assert math.isnan(ConflictMeter().mean_cosine)
    assert math.isnan(ConflictMeter().share_of_conflicts)
