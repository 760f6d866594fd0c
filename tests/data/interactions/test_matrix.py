"""The sparse matrix of interactions against a dense one."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array

from equipoise.data import Interactions


def _random(seed=0, users=7, items=11):
    dense = torch.rand(users, items, generator=torch.Generator().manual_seed(seed)) < 0.3
    dense[2] = False
    rows, columns = dense.nonzero(as_tuple=True)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    return dense, Interactions.from_pairs(rows[order], columns[order], num_users=users, num_items=items)


def test_it_holds_the_dense_matrix():
    dense, likes = _random()
    everyone = torch.arange(7)
    assert torch.equal(likes.dense(everyone), dense)
    assert torch.equal(likes.per_user, dense.sum(1))
    assert torch.equal(likes.per_item, dense.sum(0))
    assert len(likes) == int(dense.sum())
    assert all(torch.equal(row, dense[user].nonzero().squeeze(1)) for user, row in enumerate(likes))
    assert torch.equal(likes.transposed().dense(torch.arange(11)), dense.T)
    some = torch.tensor([5, 2, 0, 5])
    assert torch.equal(likes.select(some).dense(torch.arange(4)), dense[some])
    users, items = torch.meshgrid(everyone, torch.arange(11), indexing="ij")
    assert torch.equal(likes.contains(users, items), dense)
    assert not Interactions.from_pairs([], [], num_users=1, num_items=2).contains(torch.tensor(0), torch.tensor(1))


def test_it_goes_to_scipy_and_back():
    dense, likes = _random()
    assert np.array_equal(likes.to_scipy().toarray(), dense)
    stored = coo_array((np.array([1, 0, 3]), (np.array([0, 0, 1]), np.array([1, 2, 0]))), shape=(2, 4))
    back = Interactions.from_scipy(stored)
    assert back.dense(torch.arange(2)).tolist() == [[False, True, False, False], [True, False, False, False]]


def test_a_pair_given_twice_counts_once_also_in_a_union():
    once = Interactions.from_pairs([0, 0, 1], [2, 2, 0], num_users=2, num_items=3)
    assert once.per_user.tolist() == [1, 1]
    both = once.union(Interactions.from_pairs([0, 0], [2, 1], num_users=2, num_items=3))
    assert [row.tolist() for row in both] == [[1, 2], [0]]


def test_bad_indices_are_named():
    with pytest.raises(IndexError, match="items holds the index 3, wanted 0 to 2"):
        Interactions.from_pairs([0], [3], num_items=3)
    with pytest.raises(IndexError, match="users holds the index -1"):
        Interactions.from_pairs([-1], [0])
    with pytest.raises(ValueError, match="same length"):
        Interactions.from_pairs([0, 1], [0])
    with pytest.raises(ValueError, match="whole numbers"):
        Interactions.from_pairs([0.5], [0])
    with pytest.raises(ValueError, match="there are no users"):
        Interactions.from_pairs([], [])
    with pytest.raises(ValueError, match="same users and items"):
        Interactions.from_pairs([0], [0]).union(Interactions.from_pairs([1], [0]))


def test_indices_beyond_int64_are_refused():
    with pytest.raises(ValueError, match="more pairs than int64 counts"):
        Interactions.from_pairs([0, 4], [5, 2**61])
    with pytest.raises(IndexError, match="items holds the index 9223372036854775813"):
        Interactions.from_pairs([0], np.array([2**63 + 5], dtype=np.uint64))
    with pytest.raises(IndexError, match="users holds the index -1, wanted 0 to 0"):
        Interactions.from_pairs([-1], [1])
