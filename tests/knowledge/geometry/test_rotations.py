"""Rotations and reflections of pairs: by matrices, lengths kept, inverses, pairs without an angle."""

import math

import pytest
import torch

from equipoise.knowledge import givens_reflection, givens_rotation
from equipoise.knowledge.geometry.rotations import turned


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pairs_are_multiplied_by_their_matrices():
    rotation, x = _drawn(3, 6), _drawn(3, 6, seed=1)
    turned_, mirrored = givens_rotation(rotation, x), givens_reflection(rotation, x)
    for row in range(3):
        for k in range(0, 6, 2):
            angle = math.atan2(rotation[row, k + 1], rotation[row, k])
            c, s = math.cos(angle), math.sin(angle)
            one, two = x[row, k : k + 2].tolist()
            assert turned_[row, k : k + 2].tolist() == pytest.approx([c * one - s * two, s * one + c * two])
            assert mirrored[row, k : k + 2].tolist() == pytest.approx([c * one + s * two, s * one - c * two])


def test_lengths_are_kept_and_rotations_are_undone():
    rotation, x = _drawn(4, 8), _drawn(4, 8, seed=1)
    torch.testing.assert_close(givens_rotation(rotation, x).norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(turned(rotation, givens_rotation(rotation, x), inverse=True), x)
    torch.testing.assert_close(givens_reflection(rotation, givens_reflection(rotation, x)), x)
    torch.testing.assert_close(givens_rotation(rotation * 7.5, x), givens_rotation(rotation, x))
    assert givens_rotation(rotation, x[:, None]).shape == (4, 4, 8)


@pytest.mark.parametrize("function", [givens_rotation, givens_reflection])
def test_gradients_are_those_of_finite_differences_and_finite_at_zero(function):
    leaves = _drawn(2, 4).requires_grad_(), _drawn(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(function, leaves)
    for size in (0.0, 1e-200, 1e200):
        rotation = torch.full((1, 4), size, dtype=torch.float64, requires_grad=True)
        x = _drawn(1, 4).requires_grad_()
        found = function(rotation, x)
        if size:
            torch.testing.assert_close(found, function(torch.ones(1, 4, dtype=torch.float64), x))
        else:
            assert (found == 0).all()
        grads = torch.autograd.grad(found.sum(), (rotation, x))
        assert all(bool(each.isfinite().all()) for each in grads)


def test_odd_dimensions_are_refused():
    for function in (givens_rotation, givens_reflection):
        with pytest.raises(ValueError, match=r"dim must be even for Givens rotations.*got 3"):
            function(torch.ones(3), torch.ones(2, 3))
