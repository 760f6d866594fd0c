"""Splits: disjoint, complete, of the stated sizes, and in the order of time where there is one."""

import pytest
import torch

from equipoise.data import Interactions, leave_one_out, split_by_time, split_interactions


def _likes(counts=(10, 5, 4, 7, 0)):
    users = [user for user, count in enumerate(counts) for _ in range(count)]
    items = [item for count in counts for item in range(count)]
    return Interactions.from_pairs(users, items, num_users=len(counts), num_items=12)


def _pairs(part):
    return set(zip(part.users.tolist(), part.items.tolist(), strict=True))


def test_a_random_split_has_the_stated_sizes_and_loses_nothing():
    likes = _likes()
    split = split_interactions(likes, seed=3)
    assert [part.per_user.tolist() for part in split] == [[6, 3, 0, 4, 0], [2, 1, 0, 1, 0], [2, 1, 0, 2, 0]]
    found = [_pairs(part) for part in split]
    assert not any(a & b for a, b in ((found[0], found[1]), (found[0], found[2]), (found[1], found[2])))
    assert set().union(*found) == {pair for pair in _pairs(likes) if pair[0] not in (2, 4)}
    assert _pairs(split_interactions(likes, seed=3).train) == found[0]
    assert _pairs(split_interactions(likes, seed=4).train) != found[0]
    assert split_interactions(likes, (60, 20, 20), seed=3).train.per_user.tolist() == [6, 3, 0, 4, 0]


def test_one_is_left_out_the_last_where_there_is_a_time():
    likes = _likes()
    time = torch.rand(len(likes), generator=torch.Generator().manual_seed(0))
    split = leave_one_out(likes, time)
    for user in (0, 1, 2, 3):
        own = slice(int(likes.offsets[user]), int(likes.offsets[user + 1]))
        order = likes.items[own][time[own].argsort()].tolist()
        assert split.test.of(user).tolist() == order[-1:]
        assert split.validation.of(user).tolist() == order[-2:-1]
        assert split.train.of(user).tolist() == sorted(order[:-2])
    drawn = leave_one_out(likes, seed=1)
    assert [part.per_user.tolist() for part in drawn] == [[8, 3, 2, 5, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]


def test_a_split_in_time_is_at_the_same_moment_for_everyone():
    likes = _likes()
    time = torch.randint(50, (len(likes),), generator=torch.Generator().manual_seed(2))
    split = split_by_time(likes, time, (0.5, 0.25, 0.25))
    when = dict(zip(zip(likes.users.tolist(), likes.items.tolist(), strict=True), time.tolist(), strict=True))
    moments = [[when[pair] for pair in _pairs(part)] for part in split]
    assert max(moments[0]) < min(moments[1]) <= max(moments[1]) < min(moments[2])
    assert sum(map(len, moments)) == len(likes)
    assert len(moments[0]) >= 0.5 * len(likes)
    assert [len(part) for part in split_by_time(likes, time * 0)] == [len(likes), 0, 0]


def test_bad_settings_are_named():
    likes = _likes()
    with pytest.raises(ValueError, match="three shares"):
        split_interactions(likes, (0.5, 0.5))
    with pytest.raises(ValueError, match="three shares"):
        split_by_time(likes, torch.zeros(len(likes)), (0, 0, 0))
    with pytest.raises(ValueError, match="no user has 11 items, the most is 10"):
        split_interactions(likes, min_count=11)
    with pytest.raises(ValueError, match="one value per interaction"):
        leave_one_out(likes, torch.zeros(3))
    for split in (leave_one_out, split_by_time):
        with pytest.raises(ValueError, match="time holds"):
            split(likes, torch.full((len(likes),), torch.nan))
