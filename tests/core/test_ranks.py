import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from equipoise.core.ranks import count_pairs, ranks, sort_values, win_rate

_values = st.lists(st.integers(-3, 3), min_size=1, max_size=20)


@given(pos=_values, neg=_values)
def test_wins_and_ties_are_those_of_the_double_loop(pos, neg):
    wins = sum(p > q for p in pos for q in neg)
    ties = sum(p == q for p in pos for q in neg)
    counts = count_pairs(torch.tensor(pos).float(), torch.tensor(neg).float())
    assert (counts.wins, counts.ties) == (wins, ties)


@pytest.mark.parametrize(("ties", "rate"), [("half", 0.75), ("optimistic", 1.0), ("pessimistic", 0.5)])
def test_each_policy_counts_a_tie_its_own_way(ties, rate):
    assert win_rate(torch.tensor([1.0, 2.0]), torch.tensor([1.0]), ties) == rate


@pytest.mark.parametrize(("ties", "method"), [("half", "average"), ("optimistic", "min"), ("pessimistic", "max")])
@given(values=_values)
def test_ranks_are_the_textbook_ranks(ties, method, values):
    found = ranks(torch.tensor(values).float(), ties)
    np.testing.assert_allclose(found.double().numpy(), rankdata(-np.array(values), method=method))
    ascending = ranks(torch.tensor(values).float(), ties, descending=False)
    np.testing.assert_allclose(ascending.double().numpy(), rankdata(values, method=method))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_are_sorted_in_every_precision(dtype):
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(sort_values(values).to(dtype), values.sort().values)


def test_no_pairs_have_no_rate():
    assert np.isnan(win_rate(torch.tensor([1.0]), torch.tensor([])))


def test_mixed_precision_is_compared_exactly():
    pos, neg = torch.tensor([0.1], dtype=torch.float32), torch.tensor([0.1], dtype=torch.float64)
    assert count_pairs(pos, neg) == (1, 0)
