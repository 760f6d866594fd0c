"""Squared gaps of all pairs: against differences, near pairs, blocks, gradients."""

import pytest
import torch

from equipoise.knowledge.geometry import pairs
from equipoise.knowledge.geometry.pairs import all_gaps, in_blocks


def _drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scaled", [False, True])
def test_gaps_are_right_to_rounding_even_of_pairs_that_nearly_meet(scaled, dtype):
    x = _drawn(6, 5, dtype=dtype) + 3
    steps = torch.tensor([0.0, 1e-7, 1e-5, 1e-3, 0.1, 10.0], dtype=dtype)[:, None]
    y = torch.cat((x + steps, x[:2], _drawn(4, 5, seed=1, dtype=dtype)))
    scale = 1 + 0.5 * _drawn(6, 12, seed=2, dtype=dtype).tanh() if scaled else None
    factors = torch.ones(6, 12, dtype=dtype) if scale is None else scale
    wanted = torch.stack(
        [
            torch.stack([(a - f * b).double().square().sum() for b, f in zip(y, row, strict=True)])
            for a, row in zip(x, factors, strict=True)
        ]
    )
    found = all_gaps(x, y, scale).double()
    torch.testing.assert_close(found, wanted, rtol=1e-4 if dtype == torch.float32 else 1e-11, atol=0)
    assert (found >= 0).all()
    if not scaled:
        assert (found[0, [0, 6]] == 0).all()


def test_gradients_are_those_of_finite_differences():
    x, y = _drawn(3, 4), _drawn(5, 4, seed=1)
    y[0] = x[0] * (1 + 1e-5)
    scale = 1 + 0.1 * _drawn(3, 5, seed=2)
    assert torch.autograd.gradcheck(all_gaps, [each.requires_grad_() for each in (x, y, scale)])


def test_blocks_change_nothing(monkeypatch):
    x, y = _drawn(7, 4).requires_grad_(), _drawn(5, 4, seed=1).requires_grad_()
    whole = in_blocks(all_gaps, x, whole=(y,), size=5)
    grads = torch.autograd.grad(whole.square().sum(), (x, y))
    monkeypatch.setattr(pairs, "_BLOCK", 10)
    parts = in_blocks(all_gaps, x, whole=(y,), size=5)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), (x, y)), grads)
    with torch.no_grad():
        torch.testing.assert_close(in_blocks(all_gaps, x, whole=(y,), size=5), whole)
        columns = in_blocks(lambda some, rows: all_gaps(rows, some), y, whole=(x,), size=4, dim=1)
        torch.testing.assert_close(columns, whole)
