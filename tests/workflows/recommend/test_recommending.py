"""From a log to lists: what is written, that it leaves out what was seen, resumes, and says what is wrong."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.cli.main import main
from equipoise.core.validate import reset_warnings
from equipoise.data import make_interest_world
from equipoise.recsys import MetricLearningRecommender, RankingReport
from equipoise.workflows import InputError, RecommendRequest, recommend_items
from equipoise.workflows.recommend import recommending

WORLD = make_interest_world(80, 6, 12, 24, seed=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("log"), WORLD.interactions
    frame = pd.DataFrame({"user_id": found.users.numpy(), "item_id": [f"i{item}" for item in found.items.tolist()]})
    frame["timestamp"] = np.random.default_rng(0).permutation(len(frame))
    frame["rating"] = 1 + frame["timestamp"] % 5
    frame.to_csv(folder / "log.csv", index=False)
    frame[["user_id", "item_id"]].to_csv(folder / "plain.csv", index=False)
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(72)]})
    items["title"] = [f"Title of {name}" for name in items["item_id"]]
    items.to_csv(folder / "titles.csv", index=False)
    items["genre"] = [f"kind_{group}" for group in WORLD.item_group.tolist()]
    items.to_csv(folder / "items.csv", index=False)
    return folder


def _request(tmp_path, **changes):
    settings = {"models": ["popular", "sfcml"], "epochs": 40, "dim": 16, "k": 5, "output": tmp_path / "out"}
    return RecommendRequest(**{**settings, **changes})


def test_everybody_gets_a_list_of_what_they_have_not_had(files, tmp_path):
    outcome = recommend_items(files / "plain.csv", _request(tmp_path, items=files / "items.csv"), command="equipoise x")
    with (outcome.folder / "recommendations.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    log = pd.read_csv(files / "plain.csv")
    had = set(zip(log["user_id"].astype(str), log["item_id"], strict=True))
    assert len(rows) == 80 * 5
    assert not any((row["user"], row["item"]) in had for row in rows)
    assert all(row["title"] == f"Title of {row['item']}" for row in rows)
    assert [int(row["rank"]) for row in rows[:6]] == [1, 2, 3, 4, 5, 1]
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert summary["chosen"] == outcome.chosen
    best = max(summary["models"], key=lambda name: summary["models"][name]["validation"])
    assert best == outcome.chosen
    assert {group["name"] for group in summary["groups"]} >= {"three or four"}
    page = (outcome.folder / "report.html").read_text()
    assert "Who is served badly" in page
    assert "Title of i" in page
    assert "equipoise x" in page


def test_the_model_that_is_kept_was_trained_on_everything(files, tmp_path):
    outcome = recommend_items(files / "plain.csv", _request(tmp_path, models=["sfcml"]))
    kept = MetricLearningRecommender.load(outcome.folder / "model")
    assert len(kept.interactions) == len(WORLD.interactions)
    found = json.loads((outcome.folder / "metrics.json").read_text())["models"]["sfcml"]
    assert kept.settings.epochs == found["epochs"] <= 40
    names = json.loads((outcome.folder / "model" / "names.json").read_text())
    first = pd.read_csv(outcome.folder / "recommendations.csv")["item"][:5]
    assert [names["items"][item] for item in kept.recommend(torch.tensor([0]), 5)[0].tolist()] == first.tolist()
    assert names["users"] == [str(user) for user in range(80)]
    assert found["settings"]["seed"] == 0


def test_an_interrupted_run_goes_on_where_it_was(files, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(words):
        if "epoch 7" in words:
            raise StoppedError

    request = _request(tmp_path, models=["sfcml"], epochs=12, checkpoints=tmp_path / "states")
    with pytest.raises(StoppedError):
        recommend_items(files / "plain.csv", request, progress=stop)
    assert not request.output.exists()
    seen = []
    resumed = recommend_items(files / "plain.csv", request, progress=seen.append)
    assert not any("sfcml: epoch 3 " in words for words in seen)
    whole = recommend_items(files / "plain.csv", _request(tmp_path, models=["sfcml"], epochs=12, output=tmp_path / "b"))
    assert resumed.report.judged[0].means == whole.report.judged[0].means
    with pytest.raises(InputError, match="other data or settings"):
        recommend_items(files / "plain.csv", _request(tmp_path, **{**vars(request), "seed": 1, "overwrite": True}))


@pytest.mark.parametrize("split", ["random", "leave_one_out", "time"])
def test_every_split_is_judged(files, tmp_path, split):
    notices = []
    outcome = recommend_items(
        files / "log.csv", _request(tmp_path, models=["popular"], split=split, metric="recall"), notice=notices.append
    )
    assert outcome.chosen == "popular"
    assert outcome.report.metric == "recall@5"
    assert outcome.report.gap is None
    assert any("--split time" in words for words in notices) == (split == "random")
    assert {group.name for group in outcome.report.groups} <= set(recommending._THIRDS)
    if split == "leave_one_out":
        assert outcome.report.judged[0].means["recall@5"].estimate <= 1
        assert sum(group.users for group in outcome.report.groups) == 80


def test_a_file_of_items_may_have_titles_alone(files, tmp_path):
    outcome = recommend_items(files / "plain.csv", _request(tmp_path, models=["popular"], items=files / "titles.csv"))
    assert outcome.report.example.kinds == {}
    assert outcome.report.example.shown[0].startswith("Title of")


def test_a_user_who_took_everything_gets_an_empty_list(files, tmp_path):
    log = pd.read_csv(files / "plain.csv")
    collector = pd.DataFrame({"user_id": "all", "item_id": log["item_id"].unique()})
    pd.concat([log, collector]).to_csv(tmp_path / "log.csv", index=False)
    notices = []
    request = _request(tmp_path, models=["cml"], epochs=2)
    outcome = recommend_items(tmp_path / "log.csv", request, notice=notices.append)
    assert any("1 of 81 users took every item" in words for words in notices)
    assert set(pd.read_csv(outcome.folder / "recommendations.csv")["user"]) == set(range(80))
    collector.to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(InputError, match="every user took every item"):
        recommend_items(tmp_path / "one.csv", _request(tmp_path, output=tmp_path / "two"))


def test_what_is_wrong_is_said_in_a_sentence(files, tmp_path):
    for changes, words in (
        ({"models": ["best"]}, "model='best' is not known"),
        ({"models": []}, "at least one model"),
        ({"metric": "f1"}, "metric='f1'"),
        ({"k": 0}, "k=0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be"),
        ({"split": "time"}, "needs a column of times"),
        ({"min_count": 1000}, "no user has 1000 items"),
        ({"min_rating": 3.0}, "needs a column of ratings"),
        ({"items": tmp_path / "none.csv"}, "none.csv"),
        ({"checkpoints": files / "plain.csv"}, "plain.csv"),
    ):
        with pytest.raises(InputError, match=words):
            recommend_items(files / "plain.csv", _request(tmp_path, **changes))
        assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_says_what_to_lower(files, tmp_path, monkeypatch):
    monkeypatch.setattr("equipoise.recsys.SamplingFreeTrainer.epoch", lambda self: float("inf"))
    with pytest.raises(InputError, match="sfcml: the loss of epoch 0 is inf; lower the learning rate with --learning"):
        recommend_items(files / "plain.csv", _request(tmp_path, models=["sfcml"], learning_rate=9.0))


def test_the_command_prints_a_table_and_where_the_lists_are(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["recommend", str(files / "plain.csv"), "--model", "popular", "-k", "3", "--output", str(tmp_path / "lists")])
    shown = capsys.readouterr().out
    assert "ndcg@3" in shown
    assert "chosen: popular. Showing everybody what is popular is the least to compare with" in shown
    assert str(tmp_path / "lists") in shown.replace("\n", "")
    with pytest.raises(SystemExit) as left:
        main(["recommend", str(files / "plain.csv"), "--model", "best"])
    assert left.value.code == 2


def test_difference_is_paired_over_users():
    ours, theirs = torch.tensor([0.5, 0.7, torch.nan, 0.9]), torch.tensor([0.4, 0.5, 0.1, 0.6])
    found = recommending._difference(ours, theirs)
    gaps = torch.tensor([0.1, 0.2, 0.3])
    assert found.estimate == pytest.approx(0.2)
    assert found.high - found.estimate == pytest.approx(1.959964 * float(gaps.std()) / 3**0.5, rel=1e-5)


@pytest.mark.filterwarnings("default")
def test_warnings_are_sentences_on_the_command_line(files, tmp_path, capsys):
    reset_warnings()
    command = ["recommend", str(files / "plain.csv"), "--model", "popular", "-k", "70", "--output", str(tmp_path / "o")]
    main(command)
    lines = capsys.readouterr().err.splitlines()
    assert "notice: k=70 is more than some users have candidates; their lists end early" in lines
    assert not any("UserWarning" in line for line in lines)


def test_users_with_as_many_items_are_in_one_group():
    taken = torch.tensor([1, 1, 1, 1, 2, 3, 4, 4, 4])
    assert recommending._thirds(taken).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert recommending._thirds(torch.tensor([5, 5, 5, 5])).tolist() == [1, 1, 1, 1]
    assert recommending._thirds(torch.arange(6).flip(0)).tolist() == [2, 2, 1, 1, 0, 0]


def test_a_metric_without_a_value_chooses_no_model():
    report = RankingReport(torch.arange(0), {}, torch.arange(0), (1,), None)
    none, some = (recommending._Contender(None, None, 0, value, report, 0.0) for value in (float("nan"), 0.1))
    assert recommending._best({"a": none, "b": some}, "auc") == "b"
    with pytest.raises(InputError, match="auc has no value for any user of the validation part"):
        recommending._best({"a": none}, "auc")
