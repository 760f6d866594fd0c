import pytest
import torch

from equipoise.core.validate import reset_warnings
from equipoise.data import Interactions
from equipoise.recsys import build_profiles, user_traits

GENRES = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_traits_are_the_definition():
    generator = torch.Generator().manual_seed(0)
    ratings = torch.randint(6, (7, 4), generator=generator) * (torch.rand(7, 4, generator=generator) < 0.7)
    ratings[6] = 0
    found = user_traits(ratings, GENRES)
    for user in range(7):
        rated = [item for item in range(4) if ratings[user, item]]
        gaps, touched = [], set()
        for item in rated:
            others = [int(r) for r in ratings[:, item] if r]
            gaps.append((int(ratings[user, item]) - sum(others) / len(others)) ** 2)
            touched |= {k for k in range(3) if GENRES[item, k]}
        assert int(found.activity[user]) == len(rated)
        assert int(found.diversity[user]) == len(touched)
        if rated:
            assert float(found.conformity[user]) == pytest.approx(sum(gaps) / len(gaps))
        else:
            assert found.conformity[user].isnan()


def test_a_log_with_values_is_its_matrix():
    ratings = torch.tensor([[5, 0, 2, 0], [0, 3, 4, 1]])
    rows, columns = ratings.nonzero(as_tuple=True)
    log = Interactions.from_pairs(rows, columns, num_items=4)
    for one, other in zip(user_traits(ratings, GENRES), user_traits(log, GENRES, ratings[rows, columns]), strict=True):
        assert one.equal(other)
    assert not user_traits(log, GENRES).conformity.any()


def test_terciles_keep_ties_together_and_mark_what_is_undefined():
    ratings = torch.zeros(7, 8).long()
    for user, count in enumerate([0, 1, 1, 1, 4, 4, 8]):
        ratings[user, :count] = 3
    thirds = user_traits(ratings, torch.ones(8, 1).long()).terciles()
    assert thirds.activity.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert thirds.conformity.tolist()[0] == -1


def test_taste_is_the_share_of_categories_in_the_log():
    log = Interactions.from_pairs([0, 0, 0, 2, 2], [0, 1, 3, 2, 1], num_users=3, num_items=4)
    reset_warnings()
    with pytest.warns(UserWarning, match="1 of 3 users took nothing that has a category"):
        profiles = build_profiles(log, GENRES, time=torch.tensor([3.0, 1.0, 2.0, 9.0, 8.0]))
    assert profiles.users.tolist() == [0, 2]
    torch.testing.assert_close(profiles.taste, torch.tensor([[0.75, 0.25, 0], [0.25, 0.25, 0.5]]).double())
    assert profiles.sequence.tolist() == [1, 3, 0, 2, 1]
    first, second = profiles.all()
    # Item 0 is all of the favourite category, item 1 half of it, item 3 of none.
    assert first.match(torch.arange(4).numpy()).tolist() == pytest.approx([1, 0.5 / 0.75, 0, 0])
    assert second.match(torch.arange(4).numpy()).max() == 1
    assert second.user == 2


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    log = Interactions.from_pairs([0, 1], [0, 3], num_items=4)
    with pytest.raises(ValueError, match="users holds 1, who took nothing"):
        build_profiles(log, GENRES, users=torch.tensor([1]))
    with pytest.raises(IndexError, match="users must lie between 0 and 1"):
        build_profiles(log, GENRES, users=torch.tensor([2]))
    with pytest.raises(ValueError, match="twice"):
        build_profiles(log, GENRES, users=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="nobody"):
        build_profiles(log, 0 * GENRES, users=None)
    with pytest.raises(ValueError, match="item_category has 3 items"):
        user_traits(log, GENRES[:3])
    with pytest.raises(ValueError, match="values go with Interactions"):
        user_traits(torch.ones(2, 4), GENRES, torch.ones(8))
    with pytest.raises(ValueError, match="values must have one number per interaction, 2, got 3"):
        user_traits(log, GENRES, torch.ones(3))
