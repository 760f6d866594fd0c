import math

import numpy as np
import pytest
import torch

from equipoise.core.validate import reset_warnings
from equipoise.data import Interactions, split_interactions
from equipoise.recsys import (
    ContrastiveSimulation,
    ItemKNN,
    MostPopular,
    RandomMix,
    build_profiles,
    catalogue_coverage,
    escape_table,
    exposure_distribution,
    miscalibration,
    plot_escape_table,
    popularity_lift,
    random_exposure_table,
)

GENRES = torch.nn.functional.one_hot(torch.arange(120) % 4)
SETTINGS = {"rounds": 4, "page_size": 5, "resamples": 50}


@pytest.fixture(scope="module")
def world():
    draws = np.random.default_rng(0)
    rows = np.repeat(np.arange(30), 10)
    items = 4 * np.concatenate([draws.permutation(30)[:10] for _ in range(30)]) + rows % 4
    split = split_interactions(Interactions.from_pairs(rows, items, num_items=120), (0.8, 0, 0.2))
    profiles = build_profiles(split.train, GENRES, users=torch.arange(25))
    return split, profiles


def test_a_row_says_what_the_simulation_and_the_companions_say(world):
    split, profiles = world
    model, held_out = ItemKNN().fit(split.train), split.test.select(profiles.users)
    (row,) = escape_table({"nearest": model}, profiles, held_out=held_out, seed=2, **SETTINGS)
    log = ContrastiveSimulation(model, rounds=4, page_size=5, seed=2).run(profiles)
    found = log.escape_potential(resamples=50, seed=2)
    assert row.bep == float(found.value)
    assert (row.low, row.high) == tuple(found.ci.tolist())
    assert row.result.per_user.equal(found.per_user)
    page = log.first_page
    assert row.coverage == catalogue_coverage(page, 120)
    shares = exposure_distribution(page, GENRES)
    assert row.miscalibration == pytest.approx(float(miscalibration(profiles.taste, shares).mean()))
    assert row.popularity_lift == pytest.approx(float(popularity_lift(page, profiles.history).mean()))
    gains, recalls, hits = [], [], []
    for user in range(25):
        test = set(held_out.of(user).tolist())
        places = [place for place, item in enumerate(page[user].tolist()) if item in test]
        best = sum(1 / math.log2(place + 2) for place in range(min(len(test), 5)))
        gains.append(sum(1 / math.log2(place + 2) for place in places) / best)
        recalls.append(len(places) / len(test))
        hits.append(float(bool(places)))
    assert row.ndcg == pytest.approx(np.mean(gains))
    assert row.recall == pytest.approx(np.mean(recalls))
    assert row.hit_rate == pytest.approx(np.mean(hits))


def test_random_exposure_is_the_table_of_mixtures(world):
    split, profiles = world
    model = ItemKNN().fit(split.train)
    rows = random_exposure_table("nearest", model, profiles, eps=(0.0, 0.2), **SETTINGS)
    assert [(row.recommender, row.eps) for row in rows] == [("nearest", 0.0), ("nearest", 0.2)]
    mixed = ContrastiveSimulation(RandomMix(model, 0.2), rounds=4, page_size=5).run(profiles)
    assert rows[1].bep == float(mixed.escape_potential().value)
    assert math.isnan(rows[0].ndcg)


def test_a_page_that_ends_early_is_judged_by_what_is_on_it():
    log = Interactions.from_pairs([0, 0, 1], [0, 1, 2], num_items=4)
    held_out = Interactions.from_pairs([0, 1], [3, 3], num_items=4)
    profiles = build_profiles(log, torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]]))
    settings = {"rounds": 1, "burn_in": 0, "page_size": 4, "resamples": 5}
    reset_warnings()
    with pytest.warns(UserWarning, match="k=4 is more than some users have candidates"):
        (row,) = escape_table({"popular": MostPopular().fit(log)}, profiles, held_out=held_out, **settings)
    # Pages are (2, 3) and (0, 1, 3).
    assert row.ndcg == pytest.approx((1 / math.log2(3) + 1 / math.log2(4)) / 2)
    assert row.recall == 1


def test_the_plot_has_a_point_for_every_row(world):
    split, profiles = world
    models = {"popular": MostPopular().fit(split.train), "nearest": ItemKNN().fit(split.train)}
    held_out = split.test.select(profiles.users)
    rows = escape_table(models, profiles, held_out=held_out, eps=(0.0, 0.2), **SETTINGS)
    figure, ax = plot_escape_table(rows)
    points = [container.lines[0].get_xydata() for container in ax.containers]
    assert [len(each) for each in points] == [2, 2]
    np.testing.assert_allclose(points[1], [[row.ndcg, row.bep] for row in rows[2:]])
    assert plot_escape_table(rows, ax=ax)[0] is figure
    with pytest.raises(ValueError, match="no row"):
        plot_escape_table([])
    with pytest.raises(ValueError, match="held-out"):
        plot_escape_table(random_exposure_table("popular", models["popular"], profiles, eps=(0.0,), **SETTINGS))


def test_held_out_items_of_other_users_are_refused(world):
    split, profiles = world
    with pytest.raises(ValueError, match="held_out is of 30 users and 120 items, profiles of 25 and 120"):
        escape_table({"popular": MostPopular().fit(split.train)}, profiles, held_out=split.test, **SETTINGS)
