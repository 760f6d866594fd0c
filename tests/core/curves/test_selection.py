import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.core.curves.selection import average_top_fraction, hardest, highest, keep_count, lowest, smoothed_relu


@pytest.mark.parametrize(("n", "fraction", "kept"), [(100, 0.29, 29), (10, 0.3, 3), (10, 0.7, 7), (3, 0.3, 0)])
def test_a_product_a_rounding_error_below_a_whole_number_is_whole(n, fraction, kept):
    assert keep_count(n, fraction) == kept


@given(n=st.integers(1, 40), fraction=st.floats(0.01, 1.0))
def test_fractional_weights_sum_to_the_fraction(n, fraction):
    scores = torch.arange(n, dtype=torch.float64)
    index, weight = hardest(scores, fraction, largest=True)
    assert float(weight.sum()) == pytest.approx(n * fraction, abs=1e-8)
    assert (weight[:-1] == 1).all()
    assert index.tolist() == sorted(range(n), reverse=True)[: len(index)]


def test_the_boundary_sample_is_the_least_hard_of_the_kept():
    index, weight = hardest(torch.tensor([0.3, 0.1, 0.2]), 0.5, largest=False)
    assert index.tolist() == [1, 2]
    assert weight.tolist() == [1.0, 0.5]


def test_floor_may_keep_nothing_and_fractional_never_does():
    scores = torch.tensor([0.3, 0.1])
    assert len(hardest(scores, 0.2, largest=True, boundary="floor")[0]) == 0
    assert hardest(scores, 0.2, largest=True)[1].item() == pytest.approx(0.4)


def test_gradients_flow_to_the_kept_scores_only():
    scores = torch.tensor([0.1, 0.9, 0.5], requires_grad=True)
    highest(scores, 0.34).sum().backward()
    assert scores.grad.tolist() == [0.0, 1.0, 0.0]
    assert lowest(scores.detach(), 0.34).tolist() == pytest.approx([0.1])


def test_a_fraction_out_of_range_is_refused():
    with pytest.raises(ValueError, match="fraction=0"):
        keep_count(3, 0.0)
    with pytest.raises(ValueError, match="boundary='round'"):
        hardest(torch.zeros(2), 0.5, largest=True, boundary="round")


@given(n=st.integers(1, 30), frac=st.floats(0.01, 1.0), ties=st.booleans())
def test_the_mean_of_the_largest_is_a_minimum_over_the_threshold(n, frac, ties):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    x = x.round() if ties else x
    at = torch.stack([t + (x - t).relu().mean() / frac for t in x])
    torch.testing.assert_close(average_top_fraction(x, frac), at.min(), rtol=1e-7, atol=1e-7)


def test_the_gradient_of_a_largest_mean_is_the_weight_of_each_value():
    x = torch.tensor([0.1, 0.9, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    average_top_fraction(x, 0.375).backward()
    torch.testing.assert_close(x.grad, torch.tensor([0, 1, 0.5, 0], dtype=torch.float64) / 1.5)


@pytest.mark.parametrize(("mode", "strength"), [("softplus", 3.0), ("huber", 0.2), ("huber", 0.0), ("none", 1.0)])
def test_a_smoothed_hinge_stays_within_its_bounds_and_has_the_gradient_of_its_formula(mode, strength):
    x = torch.cat([torch.linspace(-3, 3, 61, dtype=torch.float64) + 0.013, torch.tensor([-1e4, 1e4]).double()])
    x.requires_grad_()
    value = smoothed_relu(x, mode, strength)
    low = -strength if mode == "huber" else 0.0
    high = math.log(2) / strength if mode == "softplus" else 0.0
    assert bool(((value - x.relu() >= low - 1e-12) & (value - x.relu() <= high + 1e-12)).all())
    assert torch.autograd.gradcheck(lambda x: smoothed_relu(x, mode, strength), x)


def test_the_huber_hinge_is_a_maximum_over_weights():
    x, c = torch.linspace(-2, 2, 41, dtype=torch.float64), torch.linspace(0, 1, 4001, dtype=torch.float64)
    best = (c * x[:, None] - 0.3 * c**2).max(1).values
    torch.testing.assert_close(smoothed_relu(x, "huber", 0.3), best, rtol=0, atol=1e-7)


def test_hinges_and_means_refuse_what_they_cannot_take():
    with pytest.raises(ValueError, match="mode='relu'"):
        smoothed_relu(torch.zeros(2), "relu")
    with pytest.raises(ValueError, match="strength=0"):
        smoothed_relu(torch.zeros(2), "softplus", 0.0)
    with pytest.raises(ValueError, match="strength=-1"):
        smoothed_relu(torch.zeros(2), "huber", -1.0)
    with pytest.raises(ValueError, match="frac=0"):
        average_top_fraction(torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match="x is empty"):
        average_top_fraction(torch.zeros(0), 0.5)
    with pytest.raises(ValueError, match="x holds 1 NaN"):
        average_top_fraction(torch.tensor([0.0, math.nan]), 0.5)


@pytest.mark.parametrize("boundary", ["floor", "fractional"])
@pytest.mark.parametrize("largest", [True, False])
def test_weights_count_samples(boundary, largest):
    scores = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.arange(30) % 4
    repeated = scores.repeat_interleave(times)
    for fraction in (0.07, 0.5, 1.0):
        index, share = hardest(scores, fraction, largest=largest, boundary=boundary, weight=times.double())
        many, once = hardest(repeated, fraction, largest=largest, boundary=boundary)
        wanted = torch.zeros(30, dtype=torch.float64)
        wanted.index_add_(0, torch.arange(30).repeat_interleave(times)[many], once)
        torch.testing.assert_close(torch.zeros_like(wanted).index_copy(0, index, share), wanted)
