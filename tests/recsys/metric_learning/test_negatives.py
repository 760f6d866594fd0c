"""Samplers: nothing that was observed, in the stated proportions, and the same for the same seed."""

import pytest
import torch
from scipy.stats import chisquare

from equipoise.data import Interactions
from equipoise.recsys import PopularityNegatives, TwoStageNegatives, UniformNegatives


def _likes(seed=0, users=8, items=12):
    dense = torch.rand(users, items, generator=torch.Generator().manual_seed(seed)) < 0.4
    dense[0], dense[1] = torch.arange(items) != 5, False  # one item left, all items left
    dense[2:, 0] = True
    return dense, Interactions.from_pairs(*dense.nonzero(as_tuple=True), num_users=users, num_items=items)


def _samplers(likes, count=400, seed=3):
    def generator():
        return torch.Generator().manual_seed(seed)

    yield UniformNegatives(likes, count, generator=generator())
    yield PopularityNegatives(likes, count, 0.5, generator=generator())
    two = TwoStageNegatives(likes, count, 2 * count, generator=generator())
    yield lambda users: two(users, users, torch.randn(likes.num_items, 3, generator=generator()))


def test_what_was_observed_is_never_drawn():
    dense, likes = _likes()
    users = torch.tensor([3, 0, 1, 0, 7])
    for sampler in _samplers(likes):
        drawn = sampler(users)
        assert drawn.shape == (5, 400)
        assert not dense[users[:, None], drawn].any()
        assert set(drawn[1].tolist()) == {5}


def _fits(drawn, chances):
    """Whether counts of items agree with their chances."""
    kept = chances > 0
    counts = torch.bincount(drawn.flatten(), minlength=len(chances)).double()
    assert counts[~kept].sum() == 0
    expected = chances[kept] / chances[kept].sum() * counts.sum()
    return chisquare(counts[kept].numpy(), expected.numpy()).pvalue


@pytest.mark.parametrize("user", [1, 3, 6])
@pytest.mark.parametrize("rounds", [8, 0])
def test_draws_have_the_stated_chances(user, rounds, monkeypatch):
    # Without a round of rejection every wrong draw is replaced from the list of what is left.
    monkeypatch.setattr("equipoise.recsys.metric_learning.negatives._ROUNDS", rounds)
    dense, likes = _likes()
    free = (~dense[user]).double()
    one = torch.tensor([user])
    assert _fits(UniformNegatives(likes, 20_000)(one), free) > 0.01
    for alpha in (0.0, 0.5, 2.0):
        popularity = likes.per_item.double()
        assert _fits(PopularityNegatives(likes, 20_000, alpha)(one), free * popularity**alpha) > 0.01


def test_what_nobody_took_has_no_popularity_but_is_drawn_where_nothing_else_is_left():
    likes = Interactions.from_pairs([0, 0, 1], [1, 2, 1], num_items=5)
    for alpha in (0.0, 1.0):
        drawn = PopularityNegatives(likes, 3000, alpha)(torch.tensor([0, 1]))
        assert _fits(drawn[0], torch.tensor([1.0, 0, 0, 1, 1]).double()) > 0.01
        assert set(drawn[1].tolist()) == {2}


def test_the_second_stage_keeps_what_is_like_the_observed_item():
    likes = Interactions.from_pairs([0, 1, 1, 1, 1], [0, 1, 2, 3, 4])
    vectors = torch.tensor([[1.0], [0.0], [1.0], [2.0], [3.0]])
    sampler = TwoStageNegatives(likes, 1, num_candidates=2, generator=torch.Generator().manual_seed(0))
    drawn = sampler(torch.zeros(20_000).long(), torch.zeros(20_000).long(), vectors)
    # Of two candidates the first is kept with the chance that a softmax of their products gives it.
    likeness = vectors[1:, 0].double().exp()
    share = likeness[:, None] / (likeness[:, None] + likeness)
    assert _fits(drawn - 1, (share / 16 * 2).sum(1)) > 0.01
    # Each candidate once: of as many candidates as are kept, all are.
    everything = TwoStageNegatives(likes, 6, num_candidates=6)(torch.tensor([0]), torch.tensor([0]), 100 * vectors)
    candidates = PopularityNegatives(likes, 6)(torch.tensor([0]))
    assert sorted(everything[0].tolist()) == sorted(candidates[0].tolist())


def test_the_same_seed_gives_the_same_items_and_global_state_is_left_alone():
    _, likes = _likes()
    users, state = torch.arange(8), torch.random.get_rng_state()
    for first, second, other in zip(_samplers(likes), _samplers(likes), _samplers(likes, seed=4), strict=True):
        drawn = first(users)
        assert torch.equal(drawn, second(users))
        assert not torch.equal(drawn, first(users))
        assert not torch.equal(drawn, other(users))
    assert torch.equal(UniformNegatives(likes)(users), UniformNegatives(likes)(users))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    full = Interactions.from_pairs([0, 1, 1], [0, 0, 1])
    for sampler in _samplers(full, 4):
        with pytest.raises(ValueError, match="user 1 has no negative item"):
            sampler(torch.tensor([0, 1]))
        for wrong in (2, -1):
            with pytest.raises(IndexError, match=f"users holds the index {wrong}, wanted 0 to 1"):
                sampler(torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match="num_negatives=0"):
        UniformNegatives(full, 0)
    with pytest.raises(ValueError, match="alpha=-1"):
        PopularityNegatives(full, alpha=-1.0)
    with pytest.raises(ValueError, match="interactions are empty"):
        PopularityNegatives(Interactions.from_pairs([], [], num_users=1, num_items=2))
    with pytest.raises(ValueError, match="num_candidates=3 must be at least num_negatives=5"):
        TwoStageNegatives(full, 5, 3)
    sampler = TwoStageNegatives(full, 2)
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="item_vectors must have a row for each of 2 items, got 3"):
        sampler(one, one, torch.zeros(3, 2))
    with pytest.raises(IndexError, match="positives holds the index 2, wanted 0 to 1"):
        sampler(one, one + 2, torch.zeros(2, 2))
