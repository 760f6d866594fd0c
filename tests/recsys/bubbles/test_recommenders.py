import numpy as np
import pytest
import torch

from equipoise.data import Interactions
from equipoise.recsys import Histories, ImplicitALS, ItemKNN, MostPopular, RandomMix, Recommender
from equipoise.recsys.bubbles.recommender import best_unseen


def _log(seed=0, users=30, items=20, share=0.25):
    cells = np.random.default_rng(seed).random((users, items)) < share
    return Interactions.from_pairs(*np.nonzero(cells), num_users=users, num_items=items)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_the_best_unseen_items_are_those_of_a_full_sort_with_ties_in_the_given_order(n):
    draws = np.random.default_rng(3)
    scores = torch.from_numpy(draws.integers(0, 3, size=(12, 9)).astype(float))
    seen = Interactions.from_pairs(*np.nonzero(draws.random((12, 9)) < 0.4), num_users=12, num_items=9)
    order = torch.from_numpy(draws.permutation(9))
    place = order.argsort()
    found = best_unseen(scores.clone(), seen, n, order)
    for user in range(12):
        unseen = [item for item in range(9) if item not in set(seen.of(user).tolist())]
        unseen.sort(key=lambda item: (-float(scores[user, item]), int(place[item])))
        assert found[user].tolist() == (unseen + [-1] * n)[:n]


def test_a_page_longer_than_the_catalogue_ends_early():
    assert best_unseen(torch.zeros(1, 2), Interactions.from_pairs([0], [0], num_items=2), 4).tolist() == [
        [1, -1, -1, -1]
    ]


def test_nearest_items_are_the_cosine_of_who_took_them():
    log = _log()
    taken = log.dense(torch.arange(30)).double().numpy()
    similarity = taken.T @ taken / np.sqrt(np.outer(taken.sum(0), taken.sum(0)))
    np.fill_diagonal(similarity, 0)
    all_of_them = ItemKNN(20).fit(log).scores(log).numpy()
    np.testing.assert_allclose(all_of_them, taken @ similarity.T, atol=1e-12)
    # Item j counts for item i if it is among i's nearest.
    near = np.zeros_like(similarity)
    for item in range(20):
        order = sorted(range(20), key=lambda other: (-similarity[item, other], other))[:3]
        near[item, order] = similarity[item, order]
    np.testing.assert_allclose(ItemKNN(3).fit(log).scores(log).numpy(), taken @ near.T, atol=1e-12)


def test_only_recent_items_count_where_that_is_asked_for():
    log = _log(1)
    sequence = torch.cat([log.of(user).flip(0) for user in range(30)])
    histories = Histories(log, sequence, log)
    recent = histories.recent(2)
    assert all(recent.of(user).tolist() == sorted(log.of(user).tolist()[:2]) for user in range(30))
    model = ItemKNN(20, recent=2).fit(log)
    model.update(histories)
    wanted = best_unseen(model.scores(recent), log, 5, model.order)
    assert model.recommend(histories, 5).equal(wanted)


def test_least_squares_solve_for_every_user_exactly_and_never_raise_the_loss():
    log = _log(2)
    model = ImplicitALS(4, alpha=5.0, penalty=0.7, sweeps=3).fit(log)
    taken = log.dense(torch.arange(30)).double().numpy()
    users = model.user_factors(log)
    for user in range(30):
        weight = np.diag(1 + 5.0 * taken[user])
        left = model.item_factors.T @ weight @ model.item_factors + 0.7 * np.eye(4)
        np.testing.assert_allclose(users[user], np.linalg.solve(left, model.item_factors.T @ weight @ taken[user]))
    losses = [ImplicitALS(4, alpha=5.0, penalty=0.7, sweeps=sweeps).fit(log).loss(log) for sweeps in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)
    errors = (1 + 5.0 * taken) * (taken - users @ model.item_factors.T) ** 2
    wanted = errors.sum() + 0.7 * ((users**2).sum() + (model.item_factors**2).sum())
    assert model.loss(log) == pytest.approx(wanted)


@pytest.mark.parametrize("make", [MostPopular, ItemKNN, lambda: ImplicitALS(4)], ids=["popular", "nearest", "als"])
def test_a_recommender_shows_by_what_it_knew_at_its_last_update(make):
    log = _log(4)
    model = make().fit(log)
    assert isinstance(model, Recommender)
    before = Histories.of_log(log)
    model.update(before)
    more = log.union(Interactions.from_pairs(range(30), [3] * 30, num_items=20))
    after = Histories(more, more.items, log)
    old = model.recommend(after, 4)
    assert old.equal(model.recommend(before, 4))
    model.update(after)
    changed = not model.recommend(after, 4).equal(old)
    assert changed is not isinstance(model, MostPopular)


def test_popularity_is_how_many_took_an_item():
    log = Interactions.from_pairs([0, 1, 2, 0, 1, 0], [2, 2, 2, 1, 1, 0], num_users=4, num_items=4)
    assert MostPopular().fit(log).recommend(Histories.of_log(log), 3).tolist()[3] == [2, 1, 0]


def test_random_items_come_as_often_as_asked_and_are_unseen():
    log = _log(5, users=400, items=60)
    model = MostPopular().fit(log)
    histories = Histories.of_log(log)
    own = model.recommend(histories, 10)
    mixed = RandomMix(model, 0.3, seed=1)
    page = mixed.recommend(histories, 10)
    assert not log.contains(torch.arange(400)[:, None].expand(page.shape), page).any()
    assert all(len(set(row)) == 10 for row in page.tolist())
    kept = (page == own).double().mean()
    assert float(kept) == pytest.approx(0.7, abs=0.02)
    assert not mixed.recommend(histories, 10).equal(page)
    assert RandomMix(model, 0.3, seed=1).recommend(histories, 10).equal(page)
    assert RandomMix(model, 0.0).recommend(histories, 10).equal(own)


def test_random_items_fill_a_nearly_exhausted_catalogue():
    log = Interactions.from_pairs([0] * 8, range(8), num_items=10)
    page = RandomMix(MostPopular().fit(log), 1.0).recommend(Histories.of_log(log), 5)
    assert sorted(page[0].tolist()) == [-1, -1, -1, 8, 9]
