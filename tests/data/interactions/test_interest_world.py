"""The world of interests: shares as stated, nothing twice, repeatable."""

import pytest
import torch

from equipoise.data import make_interest_world


def test_people_take_what_they_like_in_the_stated_shares():
    world = make_interest_world(200, 10, 40, 60, noise=0.05, seed=1)
    likes, group = world.interactions, world.item_group
    assert (likes.num_users, likes.num_items) == (200, 400)
    kinds = group[likes.items]
    for place, count in enumerate((24, 18, 12, 6)):
        own = kinds == world.interests[likes.users, place]
        taken = torch.bincount(likes.users[own], minlength=200)
        assert (taken >= count).all()  # and perhaps one of the random ones
        assert float(taken.double().mean()) < count + 0.5
    assert all(len(set(row.tolist())) == 4 for row in world.interests)
    assert likes.per_item.double().std() > likes.per_item.double().mean() ** 0.5


def test_it_repeats_by_its_seed_and_refuses_too_few_kinds():
    first, second, other = (make_interest_world(20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.interactions.items, second.interactions.items)
    assert not torch.equal(first.interests, other.interests)
    with pytest.raises(ValueError, match="num_groups=3 must be at least 4"):
        make_interest_world(num_groups=3)
