"""Distances to the nearest of several vectors against loops, and how many vectors a user gets."""

import math

import pytest
import torch

from equipoise.recsys import multi_vector_distance, num_interests


def _world(seed=0, users=5, vectors=4, items=7, dim=3):
    generator = torch.Generator().manual_seed(seed)
    user = torch.randn(users, vectors, dim, dtype=torch.float64, generator=generator)
    item = torch.randn(items, dim, dtype=torch.float64, generator=generator)
    counts = torch.randint(1, vectors + 1, (users,), generator=generator)
    return user, item, counts


def _nearest(vectors, item):
    return min(float(sum((a - b) ** 2 for a, b in zip(g.tolist(), item.tolist(), strict=True))) for g in vectors)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("own_items", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_the_distance_is_that_of_the_loop(seed, own_items, several):
    user, item, counts = _world(seed)
    items = item.expand(5, 7, 3) + torch.arange(5.0)[:, None, None] if own_items else item
    found = multi_vector_distance(user, items, counts if several else None)
    for u in range(5):
        owned = user[u, : counts[u]] if several else user[u]
        row = items[u] if own_items else items
        assert found[u].tolist() == pytest.approx([_nearest(owned, each) for each in row], abs=1e-12)


def test_gradients_are_those_of_the_value_and_go_to_the_nearest_vector_alone():
    user, item, counts = _world(1)
    leaves = [user.requires_grad_(), item.requires_grad_()]
    assert torch.autograd.gradcheck(lambda u, v: multi_vector_distance(u, v, counts), leaves)
    multi_vector_distance(user, item[:1], counts).sum().backward()
    for u in range(5):
        gaps = (user[u, : counts[u]] - item[0]).square().sum(1)
        moved = user.grad[u].abs().sum(1).nonzero().squeeze(1).tolist()
        assert moved == [int(gaps.argmin())]


def test_of_vectors_that_are_as_near_the_first_gets_the_gradient():
    user = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]], requires_grad=True)
    multi_vector_distance(user, torch.zeros(1, 2)).sum().backward()
    assert user.grad[0].tolist() == [[0, 0], [2, 0], [0, 0], [0, 0]]


def test_the_order_of_vectors_and_slots_that_are_not_used_change_nothing():
    user, item, _ = _world(2)
    wanted = multi_vector_distance(user, item)
    assert torch.equal(multi_vector_distance(user[:, [2, 0, 3, 1]], item), wanted)
    # Beside the origin, where an unmasked slot of zeros would attract every item.
    wider = torch.cat([user, torch.zeros(5, 3, 3, dtype=torch.float64)], 1).requires_grad_()
    found = multi_vector_distance(wider, item * 0.01, torch.full((5,), 4))
    torch.testing.assert_close(found, multi_vector_distance(user, item * 0.01), rtol=0, atol=1e-14)
    found.sum().backward()
    assert wider.grad[:, 4:].abs().sum() == 0
    assert wider.grad.isfinite().all()


def test_a_distance_of_zero_is_no_less_and_has_the_gradient_of_zero():
    generator = torch.Generator().manual_seed(0)
    item = 100 + torch.randn(300, 8, generator=generator)
    user = item[:, None].clone().requires_grad_()
    found = multi_vector_distance(user, item)
    assert float(found.detach().min()) >= 0
    found.diagonal().sum().backward()
    assert user.grad.abs().sum() == 0


@pytest.mark.parametrize("own_items", [False, True])
def test_autocast_rounds_nothing(own_items):
    user, item, counts = (each.float() if each.is_floating_point() else each for each in _world(3))
    items = item.expand(5, 7, 3) if own_items else item
    wanted = multi_vector_distance(user, items, counts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(multi_vector_distance(user, items, counts), wanted)


def test_the_number_of_vectors_is_the_logarithm_in_whole_numbers():
    counts = list(range(70)) + [2**k + d for k in range(7, 60) for d in (-1, 0, 1)]
    found = num_interests(counts, 50).tolist()
    for n, c in zip(counts, found, strict=True):
        exact = max(k for k in range(63) if 2**k <= max(n, 1))
        assert c == min(50, max(1, exact)), n
    assert found[:10] == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert num_interests(counts, 4, "constant").tolist() == [4] * len(counts)
    # A logarithm in single precision rounds up here.
    assert int(torch.tensor(2.0**25 - 1).log2()) == 25
    assert num_interests([2**25 - 1], 99).tolist() == [24]


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    user, item, _ = _world()
    with pytest.raises(ValueError, match="num_vectors of user 3 is 0, wanted 1 to 4"):
        multi_vector_distance(user, item, torch.tensor([1, 2, 4, 0, 1]))
    with pytest.raises(ValueError, match="num_vectors of user 1 is 5, wanted 1 to 4"):
        multi_vector_distance(user, item, torch.tensor([1, 5, 4, 2, 1]))
    with pytest.raises(ValueError, match="user"):
        multi_vector_distance(user.clone().index_fill_(0, torch.tensor([2]), math.nan), item)
    with pytest.raises(ValueError, match="item"):
        multi_vector_distance(user, item[:, :2])
    with pytest.raises(ValueError, match="max_vectors=0"):
        num_interests([1], 0)
    with pytest.raises(ValueError, match="counts"):
        num_interests([3, -1], 2)
    with pytest.raises(ValueError, match="counts"):
        num_interests(torch.tensor([3, -1]), 2)
