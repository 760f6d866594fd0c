"""What one positive loses to all negatives, against the pairs written out."""

import pytest
import torch

from equipoise.core.pairs import rows
from equipoise.core.pairs.rows import excess_per_positive, soft_maximum_per_positive
from equipoise.core.pairs.surrogates import SURROGATES

THRESHOLD = torch.linspace(-0.5, 1.5, 7, dtype=torch.float64)


def _sides(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator, dtype=torch.float64, requires_grad=True) for n in (7, 11))


def _pairs(pos, neg, surrogate, margin):
    return SURROGATES[surrogate].value(pos[:, None] - neg[None], margin)


@pytest.mark.parametrize("block", [1, 25, 1 << 22])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_both_are_their_formula_with_its_gradient_however_the_pairs_are_cut(surrogate, block, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK", block)
    upstream = torch.linspace(1, 2, 7, dtype=torch.float64)
    for ours, formula in (
        (
            lambda p, n: soft_maximum_per_positive(p, n, 0.6, surrogate, 0.8),
            lambda p, n: 0.6 * (_pairs(p, n, surrogate, 0.8) / 0.6).exp().mean(1).log(),
        ),
        (
            lambda p, n: excess_per_positive(p, n, THRESHOLD, surrogate, 0.8)[0],
            lambda p, n: (_pairs(p, n, surrogate, 0.8) - THRESHOLD[:, None]).relu().mean(1),
        ),
    ):
        sides = list(_sides())
        found, wanted = ours(*sides), formula(*sides)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        for one, other in zip(
            torch.autograd.grad(found @ upstream, sides), torch.autograd.grad(wanted @ upstream, sides), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_share_counts_losses_strictly_above_the_threshold():
    pos, neg = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -1.0, -3.0])
    _, share = excess_per_positive(pos, neg, torch.tensor([0.0, 1.0]), "hinge")
    assert share.tolist() == pytest.approx([1 / 3, 0.0])


def test_a_soft_maximum_lies_between_the_mean_and_the_largest_and_reaches_both():
    pos, neg = _sides()
    pairs = _pairs(pos, neg, "squared_hinge", 1.0)
    lower, upper = pairs.mean(1), pairs.max(1).values
    last = upper
    for temperature in (1e-3, 0.1, 1.0, 10.0, 1e6):
        now = soft_maximum_per_positive(pos, neg, temperature)
        assert (now <= last + 1e-9).all()
        assert (now >= lower - 1e-9).all()
        last = now
    torch.testing.assert_close(last, lower, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(soft_maximum_per_positive(pos, neg, 1e-6), upper, rtol=0, atol=1e-4)


def test_a_second_derivative_is_refused():
    pos, neg = _sides()
    (slope,) = torch.autograd.grad(soft_maximum_per_positive(pos, neg, 1.0).sum(), pos, create_graph=True)
    with pytest.raises(RuntimeError, match="first-order"):
        slope.sum().backward()
