import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from equipoise.core.curves.ranks import (
    PairCounts,
    block_ends,
    count_labelled_pairs,
    count_pairs,
    ranks,
    sort_labelled,
    sort_values,
)

_values = st.lists(st.integers(-3, 3), min_size=1, max_size=20)


@given(pos=_values, neg=_values)
def test_wins_and_ties_are_those_of_the_double_loop(pos, neg):
    wins = sum(p > q for p in pos for q in neg)
    ties = sum(p == q for p in pos for q in neg)
    counts = count_pairs(torch.tensor(pos).float(), torch.tensor(neg).float())
    assert counts == (wins, ties, len(pos) * len(neg) - wins - ties)


_POLICIES = [("half", 0.75), ("optimistic", 1.0), ("pessimistic", 0.5), ("strict", 0.5)]


@pytest.mark.parametrize(("ties", "rate"), _POLICIES)
def test_each_policy_counts_a_tie_its_own_way(ties, rate):
    assert count_pairs(torch.tensor([1.0, 2.0]), torch.tensor([1.0])).win_rate(ties) == rate


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="ties='random'"):
        PairCounts(1, 1, 1).win_rate("random")
    with pytest.raises(ValueError, match="ties='random'"):
        ranks(torch.zeros(2), "random")


# The path depends on the precision, on how rare the rarer class is, and on whether anything ties.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.7, 0.98])
@pytest.mark.parametrize("spread", [1.0, 40.0, 1e6])
def test_labelled_pairs_are_counted_alike_on_every_path(dtype, rate, spread):
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(700, generator=generator) * spread).clamp(-6e4, 6e4)
    scores = (scores.round() if spread < 1e6 else scores).to(dtype)
    positive = torch.rand(700, generator=generator) < rate
    difference = scores[positive][:, None].double() - scores[~positive].double()
    wanted = tuple(int(x.sum()) for x in (difference > 0, difference == 0, difference < 0))
    assert count_labelled_pairs(scores, positive) == wanted
    assert count_pairs(scores[positive], scores[~positive]) == wanted


@given(samples=st.lists(st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.booleans())))
def test_labelled_pairs_are_those_of_the_double_loop(samples):
    scores, positive = torch.tensor([s for s, _ in samples]), torch.tensor([p for _, p in samples], dtype=torch.bool)
    pos, neg = scores[positive], scores[~positive]
    wins = int((pos[:, None] > neg).sum())
    ties = int((pos[:, None] == neg).sum())
    assert count_labelled_pairs(scores, positive) == (wins, ties, len(pos) * len(neg) - wins - ties)


_floats = st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, 1.0, -1.0, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(samples=st.lists(st.tuples(_floats, st.integers(0, 2**31 - 1)), max_size=30))
def test_labels_travel_with_their_values(dtype, samples):
    values = torch.tensor([v for v, _ in samples], dtype=dtype)
    labels = torch.tensor([k for _, k in samples], dtype=torch.long)
    ordered, carried = sort_labelled(values, labels)
    assert ordered.dtype == dtype
    assert torch.equal(ordered, values.sort(descending=True).values)
    pairs = sorted(zip(values.tolist(), labels.tolist(), strict=True))
    assert sorted(zip(ordered.tolist(), carried.tolist(), strict=True)) == pairs


def test_neighbouring_floats_are_told_apart():
    steps = torch.tensor([0, 1, 2, 3, 1 << 23, 1 << 24, 127 << 23, (127 << 23) + 1, 0x7F7FFFFE, 0x7F7FFFFF])
    positive = steps.int().view(torch.float32)
    values = torch.cat([positive, -positive])
    mixed = values[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    ordered, _ = sort_labelled(mixed, torch.zeros(20, dtype=torch.bool))
    assert torch.equal(ordered, mixed.sort(descending=True).values)
    assert len(block_ends(ordered)) == 19


def test_sorting_crosses_the_pieces_it_works_in():
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(200_001, generator=generator) * 1e4).round()
    positive = torch.rand(200_001, generator=generator) < 0.4
    ordered, labels = sort_labelled(values, positive)
    assert torch.equal(ordered, values.sort(descending=True).values)
    assert int(labels.sum()) == int(positive.sum())
    assert count_labelled_pairs(values, positive) == count_pairs(values[positive], values[~positive])
    assert torch.equal(ordered[block_ends(ordered)], ordered.unique(sorted=True).flip(0))


_METHODS = [("half", "average"), ("optimistic", "min"), ("pessimistic", "max"), ("strict", "max")]


@pytest.mark.parametrize(("ties", "method"), _METHODS)
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
    assert np.isnan(count_pairs(torch.tensor([1.0]), torch.tensor([])).win_rate())
    assert count_labelled_pairs(torch.tensor([1.0]), torch.tensor([True])) == (0, 0, 0)


def test_mixed_precision_is_compared_exactly():
    pos, neg = torch.tensor([0.1], dtype=torch.float32), torch.tensor([0.1], dtype=torch.float64)
    assert count_pairs(pos, neg) == (1, 0, 0)
