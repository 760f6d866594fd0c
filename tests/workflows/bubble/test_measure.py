"""From a file to the table of escape potential."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import equipoise
from equipoise.cli.main import main
from equipoise.data import read_interactions, split_interactions
from equipoise.recsys import ItemKNN, build_profiles, escape_table
from equipoise.workflows import BubbleRequest, InputError, measure_bubbles

MOVIES = Path(equipoise.__file__).parents[3] / "shared" / "data" / "rec"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, draws = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    users = np.repeat(np.arange(40), 12)
    items = 5 * np.concatenate([draws.permutation(60)[:12] for _ in range(40)])
    items += (users + (draws.random(len(users)) < 0.3)) % 5
    frame = pd.DataFrame({"user": users, "item": items, "rating": draws.integers(1, 6, len(users))})
    frame.to_csv(folder / "log.csv", index=False)
    kinds = pd.DataFrame({"item": np.arange(300), "genre": [f"k{k % 5}" for k in range(300)]})
    kinds.to_csv(folder / "items.csv", index=False)
    return folder


def _request(files, tmp_path, **changes):
    settings = {"rounds": 4, "page_size": 5, "users": 25, "output": tmp_path / "out", "items": files / "items.csv"}
    return BubbleRequest(**{**settings, **changes})


def test_the_tables_are_those_of_the_library(files, tmp_path):
    request = _request(files, tmp_path, recommender=["item_knn"], random_share=[0.0, 0.2], seed=3)
    outcome = measure_bubbles(files / "log.csv", request)
    log = read_interactions(files / "log.csv", files / "items.csv")
    split = split_interactions(log.interactions, (0.8, 0, 0.2), min_count=2, seed=3)
    drawn = torch.from_numpy(np.sort(np.random.default_rng(3).permutation(40)[:25]))
    profiles = build_profiles(split.train, log.categories, users=drawn)
    (wanted,) = escape_table(
        {"item_knn": ItemKNN().fit(split.train)},
        profiles,
        held_out=split.test.select(drawn),
        popularity=split.train.per_item,
        rounds=4,
        page_size=5,
        seed=3,
    )
    row = outcome.rows[0]
    assert row.result.per_user.equal(wanted.result.per_user)
    assert (row.ndcg, row.coverage, row.popularity_lift) == (wanted.ndcg, wanted.coverage, wanted.popularity_lift)
    with (outcome.folder / "escape.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["recommender"], line["random_share"]) for line in lines] == [("item_knn", "0.0"), ("item_knn", "0.2")]
    assert float(lines[0]["bep"]) == row.bep
    told = json.loads((outcome.folder / "escape.json").read_text())
    assert told["recommenders"][0]["bep"] == row.bep
    assert told["request"]["rounds"] == 4
    means = sum(group["users"] * group["bep"] for group in outcome.groups if group["random_share"] == 0)
    assert means / 25 == pytest.approx(row.bep)


def test_items_without_category_are_left_out_and_small_categories_noticed(files, tmp_path):
    kinds = pd.read_csv(files / "items.csv")
    kinds.loc[kinds["item"] < 50, "genre"] = ""
    kinds.to_csv(tmp_path / "items.csv", index=False)
    told = []
    request = _request(files, tmp_path, items=tmp_path / "items.csv", recommender=["als"], rounds=12)
    outcome = measure_bubbles(files / "log.csv", request, notice=told.append)
    catalogue = len(set(pd.read_csv(files / "log.csv")["item"]) | set(range(300)))
    assert outcome.items == catalogue - 50
    assert "50 of 300 items have no category" in told[0]
    assert "5 of 5 categories have fewer items than the 60" in told[1]


def test_every_recommender_can_be_named(files, tmp_path):
    names = ["most_popular", "item_knn", "recent_item_knn", "als"]
    outcome = measure_bubbles(files / "log.csv", _request(files, tmp_path, recommender=names, rounds=2))
    assert [row.recommender for row in outcome.rows] == names
    assert outcome.rows[0].bep == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"items": None}, "--items is needed"),
        ({"recommender": ["best"]}, "recommender='best' is not known"),
        ({"recommender": []}, "at least one recommender"),
        ({"diversity": "much"}, "diversity='much' is not known"),
        ({"random_share": [1.5]}, "random_share=1.5"),
        ({"test_size": 1.0}, "test_size=1.0"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"burn_in": 4}, "burn_in=4 must be at least 0 and below rounds=4"),
        ({"seed": -1}, "seed=-1"),
        ({"user": "nobody"}, "user column 'nobody' is not in"),
        ({"category": "kind"}, "category column 'kind' is not in"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(files, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        measure_bubbles(files / "log.csv", _request(files, tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_table(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = tmp_path / "out"
    main(
        [
            *("bubble", str(files / "log.csv"), "--items", str(files / "items.csv"), "--rounds", "3", "--users", "20"),
            *("--recommender", "most_popular", "item_knn", "--random-share", "0", "0.1", "--output", str(output)),
        ]
    )
    said = capsys.readouterr().out
    assert "20 users, 300 items, 5 categories" in said
    assert said.count("item_knn") == 4
    assert "least active" in said
    assert f"tables: {output}" in said
    with pytest.raises(SystemExit):
        main(["bubble", str(files / "log.csv")])
    assert "--items is needed" in capsys.readouterr().err


@pytest.mark.skipif(not MOVIES.is_dir(), reason=f"MovieLens-100k is not at {MOVIES}")
def test_movielens_lets_users_out_of_what_listens_only(tmp_path):
    log, items = MOVIES / "ml100k_ratings.csv.gz", MOVIES / "ml100k_items.csv"
    request = BubbleRequest(items=items, users=60, rounds=6, output=tmp_path / "out", seed=1)
    outcome = measure_bubbles(log, request, notice=lambda words: None)
    found = {row.recommender: row for row in outcome.rows}
    assert outcome.items == 1682
    assert found["most_popular"].bep == 0
    assert found["item_knn"].ndcg > 1.3 * found["most_popular"].ndcg
    assert found["als"].ndcg > 1.3 * found["most_popular"].ndcg
    assert found["als"].low > 0


@pytest.mark.filterwarnings("ignore:k=200 is more")
def test_a_catalogue_that_runs_out_before_the_rounds_that_count_is_said(files, tmp_path):
    request = _request(files, tmp_path, recommender=["most_popular"], rounds=6, page_size=200)
    with pytest.raises(InputError, match="the items run out; ask for fewer rounds or smaller pages, or pass --repeats"):
        measure_bubbles(files / "log.csv", request)
    assert not request.output.exists()
