import math

import numpy as np
import pytest
import torch

from equipoise.data import Interactions
from equipoise.recsys import (
    ContrastiveSimulation,
    Decision,
    ItemKNN,
    MostPopular,
    RandomMix,
    RuleAgent,
    bubble_escape_potential,
    build_profiles,
    simulate_categories,
)

GENRES = torch.nn.functional.one_hot(torch.arange(240) % 4)


def _profiles(seed=0, users=12):
    draws = np.random.default_rng(seed)
    rows = np.repeat(np.arange(users), 8)
    items = np.concatenate(
        [4 * draws.permutation(60)[:8] + (user + (draws.random(8) < 0.3)) % 4 for user in range(users)]
    )
    log = Interactions.from_pairs(rows, items, num_items=240)
    return log, build_profiles(log, GENRES)


class _Scripted:
    """Shows given pages."""

    def __init__(self, pages):
        self.pages, self.turn = pages, 0
        self.learned = []

    def recommend(self, histories, n):
        self.turn += 1
        return self.pages[self.turn - 1]

    def update(self, histories):
        self.learned.append(histories.taken.per_user.tolist())


class _Everything:
    def decide(self, profile, page, memory, generator):
        return Decision(page)


def _two_users():
    log = Interactions.from_pairs([0, 1], [0, 1], num_items=8)
    return build_profiles(log, torch.nn.functional.one_hot(torch.arange(8) % 2))


def test_a_simulation_can_be_repeated_and_its_recommender_stays_as_it_is():
    log, profiles = _profiles()
    model = RandomMix(ItemKNN().fit(log), 0.2)
    runs = [ContrastiveSimulation(model, rounds=6, page_size=4, seed=3).run(profiles) for _ in range(2)]
    other = ContrastiveSimulation(model, rounds=6, page_size=4, seed=4).run(profiles)
    for world in ("positive", "negative"):
        one, two = (getattr(run, world) for run in runs)
        assert one.shown.equal(two.shown)
        assert one.clicked.equal(two.clicked)
        assert not getattr(other, world).clicked.equal(one.clicked)
    assert model.pages == 0
    assert runs[0].first_page.equal(runs[0].negative.shown[:, 0])


def test_only_unseen_items_are_shown_and_clicks_are_among_them():
    log, profiles = _profiles(1)
    run = ContrastiveSimulation(ItemKNN().fit(log), rounds=6, page_size=5, burn_in=2).run(profiles)
    for world in (run.positive, run.negative):
        for user in range(12):
            shown = world.shown[user].flatten().tolist()
            assert len(set(shown)) == 30
            assert not set(shown) & set(profiles.history.of(user).tolist())
        assert world.exposure(2).shape == (12, 20)
        assert world.exposure(2).equal(world.shown[:, 2:].reshape(12, 20))


@pytest.mark.parametrize("frozen", ["never updated", "most popular"])
def test_a_recommender_that_does_not_listen_has_exactly_no_escape_potential(frozen):
    log, profiles = _profiles(2)
    model = (ItemKNN() if frozen == "never updated" else MostPopular()).fit(log)
    every = None if frozen == "never updated" else 1
    for mixed in (model, RandomMix(model, 0.3)):
        run = ContrastiveSimulation(mixed, rounds=6, page_size=5, update_every=every).run(profiles)
        assert not run.escape_potential().per_user.any()
        assert run.positive.clicked.sum() > run.negative.clicked.sum()


def test_a_recommender_that_listens_lets_users_out():
    log, profiles = _profiles(3, users=200)
    run = ContrastiveSimulation(ItemKNN().fit(log), rounds=8, page_size=5).run(profiles)
    found = run.escape_potential()
    assert float(found.ci[0]) > 0


def test_decisions_are_of_the_user_and_the_copy_and_of_nobody_else():
    log, profiles = _profiles(4)
    model = MostPopular().fit(log)
    few = build_profiles(log, GENRES, users=torch.tensor([5, 2]))
    whole = ContrastiveSimulation(model, rounds=4, page_size=5).run(profiles)
    part = ContrastiveSimulation(model, rounds=4, page_size=5).run(few)
    for world in ("positive", "negative"):
        assert getattr(part, world).clicked.equal(getattr(whole, world).clicked[[5, 2]])
    same = ContrastiveSimulation(model, (RuleAgent(0.5, 0.1), RuleAgent(0.5, 0.1)), rounds=4, page_size=5).run(profiles)
    assert not same.positive.clicked.equal(same.negative.clicked)


def test_the_recommender_learns_every_so_many_rounds():
    profiles = _two_users()
    pages = [torch.tensor([[2, 3], [2, 3]]), torch.tensor([[4, 5], [4, 5]]), torch.tensor([[6, 7], [6, 7]])]
    for every, wanted in ((1, [[1, 1], [3, 3], [5, 5], [7, 7]]), (2, [[1, 1], [5, 5]]), (None, [[1, 1]])):
        model, learned = _Scripted(pages), []
        model.learned = learned
        type(model).__deepcopy__ = lambda self, memo: self  # the test looks at what the copy was told
        simulation = ContrastiveSimulation(model, (_Everything(),) * 2, rounds=3, page_size=2, update_every=every)
        simulation._world(profiles, _Everything(), 1)
        assert learned == wanted
        del type(model).__deepcopy__


def test_an_exhausted_catalogue_and_a_user_who_leaves_end_the_pages():
    log = Interactions.from_pairs([0, 1], [0, 1], num_items=8)
    profiles = _two_users()
    run = ContrastiveSimulation(MostPopular().fit(log), rounds=5, page_size=3, burn_in=0).run(profiles)
    assert (run.positive.shown >= 0).sum(2).tolist() == [[3, 3, 1, 0, 0]] * 2
    assert not run.positive.clicked[run.positive.shown < 0].any()

    class Leaves(_Everything):
        def decide(self, profile, page, memory, generator):
            return Decision(page[:1], stop=profile.user == 1)

    run = ContrastiveSimulation(MostPopular().fit(log), (Leaves(), Leaves()), 2, 3, 0).run(profiles)
    assert (run.positive.shown >= 0).sum(2).tolist() == [[3, 3], [3, 0]]


def test_repeats_let_the_same_items_come_again():
    log = Interactions.from_pairs([0, 1], [0, 1], num_items=8)
    run = ContrastiveSimulation(MostPopular().fit(log), rounds=4, page_size=3, burn_in=0, repeats=True).run(
        _two_users()
    )
    assert run.positive.shown[0].tolist() == [run.positive.shown[0, 0].tolist()] * 4
    assert 0 not in run.positive.shown[0].flatten().tolist()


def test_agents_remember_what_they_took_and_were_shown_in_order():
    heard = []

    class Listens(_Everything):
        def decide(self, profile, page, memory, generator):
            if profile.user == 0:
                heard.append((memory.taken.tolist(), memory.shown.tolist(), page.tolist()))
            return Decision(page[-1:])

    pages = [torch.tensor([[5, 2], [2, 3]]), torch.tensor([[4, 3], [4, 5]])]
    ContrastiveSimulation(_Scripted(pages), (Listens(), Listens()), 2, 2, 0).run(_two_users())
    assert heard[:2] == [([0], [], [5, 2]), ([0, 2], [5, 2], [4, 3])]
    assert heard[2:] == heard[:2]


@pytest.mark.usefixtures("plain_inputs")
def test_pages_are_checked():
    profiles = _two_users()
    good = torch.tensor([[2, 3], [2, 3]])

    def run(*pages, **settings):
        return ContrastiveSimulation(_Scripted(pages), rounds=len(pages), page_size=2, burn_in=0, **settings).run(
            profiles
        )

    for bad, words in (
        (torch.tensor([[2, 2], [2, 3]]), "item 2 twice on a page to the user in row 0"),
        (torch.tensor([[2, 3], [4, 1]]), "item 1 again to the user in row 1"),
        (good[:1], "must be whole numbers of shape"),
        (good.double(), "must be whole numbers of shape"),
    ):
        with pytest.raises(ValueError, match=words):
            run(bad)
    with pytest.raises(ValueError, match="item 2 again"):
        run(good, good)
    for bad in (8, -2):
        with pytest.raises(IndexError, match=f"shows the item {bad}, wanted 0 to 7"):
            run(torch.tensor([[2, 3], [bad, 3]]))
    loose = run(torch.tensor([[2, 2], [4, 1]]), strict=False)
    assert loose.positive.shown[:, 0].tolist() == [[2, -1], [4, -1]]


@pytest.mark.usefixtures("plain_inputs")
def test_bad_settings_are_refused():
    log, profiles = _profiles()
    model = MostPopular().fit(log)
    for settings, words in (
        ({"rounds": 3, "burn_in": 3}, "burn_in=3 must be below rounds=3"),
        ({"page_size": 0}, "page_size=0"),
        ({"rounds": 0}, "rounds=0"),
        ({"behaviors": (RuleAgent(0.5),)}, "behaviors must be two"),
    ):
        with pytest.raises(ValueError, match=words):
            ContrastiveSimulation(model, **settings)
    for eps in (-0.1, 1.1):
        with pytest.raises(ValueError, match="eps="):
            RandomMix(model, eps)

    class Liar(_Everything):
        def decide(self, profile, page, memory, generator):
            return Decision(np.array([239]))

    with pytest.raises(ValueError, match="the agent took"):
        ContrastiveSimulation(model, (Liar(), Liar()), rounds=2, page_size=2).run(profiles)


def _categories(seed, **settings):
    draws = np.random.default_rng(seed)
    taste = draws.dirichlet(np.full(10, 0.3), 300)
    logged = np.stack([draws.multinomial(30, row) for row in taste])
    return simulate_categories(torch.from_numpy(taste), torch.from_numpy(logged), seed=seed, **settings)


def test_a_world_of_categories_listens_only_if_it_learns():
    frozen, open_ = _categories(0, frozen=True), _categories(0)
    assert not frozen.escape_potential().per_user.any()
    assert frozen.accuracy.equal(open_.accuracy)
    assert float(open_.escape_potential().value) > 0.5


def test_a_frozen_recommender_has_none_within_its_error_where_each_world_draws_its_own_pages():
    draws = np.random.default_rng(5)
    taste = draws.dirichlet(np.full(10, 0.3), 300)
    logged = torch.from_numpy(np.stack([draws.multinomial(30, row) for row in taste]))
    one, other = (simulate_categories(torch.from_numpy(taste), logged, frozen=True, seed=seed) for seed in (1, 2))
    found = bubble_escape_potential(one.positive, other.negative, torch.eye(10).long())
    assert found.per_user.any()
    assert abs(float(found.value)) < 3 * float(found.per_user.std()) / math.sqrt(300)


def test_pages_of_categories_are_drawn_as_the_formula_says():
    taste, logged = torch.tensor([[0.7, 0.2, 0.1]]).double().repeat(4000, 1), torch.tensor([[6, 2, 1]]).repeat(4000, 1)
    found = simulate_categories(taste, logged, exploitation=2.0, eps=0.3, rounds=1, burn_in=0, page_size=10)
    q = np.array([6.5, 2.5, 1.5]) ** 2
    wanted = 0.7 * q / q.sum() + 0.1
    shares = np.bincount(found.positive.flatten().numpy(), minlength=3) / 40000
    np.testing.assert_allclose(shares, wanted, atol=4 * math.sqrt(0.25 / 40000))
    np.testing.assert_allclose(found.accuracy[0], (taste[0].numpy() * wanted).sum())
    # Nobody has clicked before the first page.
    assert found.positive.equal(found.negative)


def test_a_huge_exploitation_does_not_overflow():
    found = _categories(1, exploitation=500.0, rounds=3)
    assert found.accuracy.isfinite().all()


@pytest.mark.usefixtures("plain_inputs")
def test_a_world_of_categories_refuses_bad_input():
    taste, logged = torch.tensor([[0.5, 0.5]]), torch.tensor([[1, 1]])
    with pytest.raises(ValueError, match=r"row 0 of taste sums to 1\.2"):
        simulate_categories(torch.tensor([[0.6, 0.6]]), logged)
    with pytest.raises(ValueError, match="burn_in=4 must be below"):
        simulate_categories(taste, logged, rounds=4, burn_in=4)
    with pytest.raises(ValueError, match="behaviors must be two"):
        simulate_categories(taste, logged, behaviors=[RuleAgent(0.5)])
