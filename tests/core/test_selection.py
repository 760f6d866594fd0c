import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.core.selection import hardest, highest, keep_count, lowest


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
