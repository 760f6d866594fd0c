import json

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.cli.main import main
from equipoise.data import click_world
from equipoise.recsys import grouped_auc
from equipoise.workflows import ClickModel, ClicksRequest, InputError, fit_clicks
from equipoise.workflows.clicks.table import Impressions


def _frame(rows=600, seed=0):
    """Impressions of a world with a catalogue, in which the hour says something, too."""
    world = click_world(rows, num_items=30, length=6, shortest=0, rows_per_user=4, seed=seed)
    clicks = world.clicks
    histories = clicks.history.split(clicks.lengths.tolist())
    return pd.DataFrame(
        {
            "who": [f"u{user}" for user in clicks.user.tolist()],
            "item": [f"i{item}" for item in clicks.item.tolist()],
            "history": [" ".join(f"i{item}" for item in past.tolist()) for past in histories],
            "label": clicks.label.numpy(),
            "hour": 12.0 + clicks.label.numpy() + np.random.default_rng(seed).normal(size=rows),
            "day": np.arange(rows) // 10,
        }
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    _frame().to_csv(folder / "clicks.csv", index=False)
    request = ClicksRequest(user="who", context=["hour"], epochs=6, lr=1e-2, output=folder / "out")
    return folder, fit_clicks(folder / "clicks.csv", request)


def test_it_writes_a_model_the_numbers_and_the_predictions(written):
    folder, outcome = written
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "manifest.json",
        "metrics.json",
        "model",
        "predictions.csv",
    ]
    assert json.loads((folder / "out" / "metrics.json").read_text()) == outcome.metrics
    assert set(outcome.metrics["methods"]) == {"joint", "meta"}
    assert sum(outcome.metrics["rows"].values()) == 600
    best = min(outcome.metrics["methods"].values(), key=lambda found: found["validation_log_loss"])
    assert best is outcome.metrics["methods"][outcome.metrics["chosen"]]
    assert best["log_loss"] < outcome.metrics["log_loss_of_the_rate"]


def test_the_numbers_are_those_of_the_predictions(written):
    folder, outcome = written
    found, frame = pd.read_csv(folder / "out" / "predictions.csv"), _frame()
    held = frame.iloc[found["row"]]
    assert (held["label"].to_numpy() == found["label"].to_numpy()).all()
    away = set(held["who"])
    assert not away & set(frame.drop(index=found["row"])["who"])
    for name, metrics in outcome.metrics["methods"].items():
        p, y = torch.tensor(found[f"probability_{name}"].to_numpy()), torch.tensor(found["label"].to_numpy())
        loss = torch.nn.functional.binary_cross_entropy(p, y.double())
        assert metrics["log_loss"] == pytest.approx(float(loss), rel=1e-5)
        users = torch.tensor(held["who"].factorize()[0])
        assert metrics["gauc"] == pytest.approx(float(grouped_auc(users, p, y)), abs=1e-3)


def test_the_model_scores_a_table_again(written):
    folder, outcome = written
    model = ClickModel.load(folder / "out")
    found = pd.read_csv(folder / "out" / "predictions.csv")
    rows = _frame().iloc[found["row"]].drop(columns=["label", "who"])
    again = model.probabilities(rows)
    np.testing.assert_allclose(again.numpy(), found[f"probability_{outcome.metrics['chosen']}"], rtol=1e-5)
    strange = rows.assign(item="never seen", history="nor this")
    assert bool(model.probabilities(strange).isfinite().all())
    with pytest.raises(InputError, match="no column 'hour'"):
        model.probabilities(rows.drop(columns="hour"))


def test_a_damaged_folder_is_told(written, tmp_path):
    import shutil

    folder, _ = written
    shutil.copytree(folder / "out" / "model", tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"weights\.safetensors was changed or damaged"):
        ClickModel.load(tmp_path / "model")
    with pytest.raises(InputError, match="holds no click model"):
        ClickModel.load(tmp_path / "nothing")


def test_a_split_by_time_tests_on_the_latest(tmp_path):
    frame = _frame()
    frame["day"] = pd.to_datetime("2025-01-01") + pd.to_timedelta(frame["day"], unit="D")
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "clicks.parquet")
    request = ClicksRequest(time_column="day", method=["joint"], epochs=1, output=tmp_path / "out")
    outcome = fit_clicks(tmp_path / "clicks.parquet", request)
    assert outcome.metrics["split"] == "by time"
    shuffled = pd.read_parquet(tmp_path / "clicks.parquet").reset_index(drop=True)
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")["row"]
    assert shuffled.loc[rows, "day"].min() > shuffled.drop(index=rows)["day"].max()


def test_the_command_prints_what_it_found(tmp_path, capsys):
    _frame(200).rename(columns={"label": "clicked"}).to_csv(tmp_path / "clicks.csv", index=False)
    arguments = ["clicks", tmp_path / "clicks.csv", "--label", "clicked", "--user", "who", "--epochs", 1]
    main([str(a) for a in [*arguments, "--method", "joint", "bilevel", "--output", tmp_path / "out"]])
    said = capsys.readouterr().out
    assert "bilevel" in said
    assert "always the rate" in said
    assert (tmp_path / "out" / "model" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        ({}, {"item": "itme"}, "no column 'itme'; did you mean 'item'"),
        ({}, {"context": ["who"]}, "column 'who' must hold numbers, but row 0"),
        ({"label": 1}, {}, "column 'label' holds 1 in every row"),
        ({"label": 0.5}, {}, "column 'label' must hold 0 and 1, but row 0 holds neither"),
        ({"item": None}, {}, "column 'item' names no item in row 0"),
        ({"who": None}, {"user": "who"}, "column 'who' names nobody in row 0"),
        ({}, {"method": ["adam"]}, "--method 'adam' is not known"),
        ({}, {"test_size": 0.9}, "test_size=0.9 must lie in"),
        ({}, {"epochs": 0}, "epochs=0"),
        ({"who": "one"}, {"user": "who"}, "part of 0 rows has not both"),
        ({"day": "soon"}, {"time_column": "day"}, "column 'day' must hold numbers or ISO dates"),
        ({}, {"inner_lr": 1e30, "method": ["meta"], "batch_size": 30}, "lower inner_lr"),
    ],
)
def test_bad_requests_are_one_sentence_and_write_nothing(change, settings, sentence, tmp_path):
    _frame(120).assign(**change).to_csv(tmp_path / "clicks.csv", index=False)
    with pytest.raises(InputError, match=sentence):
        fit_clicks(tmp_path / "clicks.csv", ClicksRequest(output=tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_names_of_figures_are_the_same_in_histories_and_beside_them(tmp_path):
    """An item 007 of a column of numbers, and of a history of several."""
    frame = _frame(200)
    frame["item"] = frame["item"].str.replace("i", "00")
    frame["history"] = frame["history"].str.replace("i", "00")
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    fit_clicks(tmp_path / "clicks.csv", ClicksRequest(method=["joint"], epochs=1, output=tmp_path / "out"))
    known = ClickModel.load(tmp_path / "out").encoder.items
    assert all(name.startswith("00") for name in known)
    assert len(known) <= 30


def test_a_column_of_one_item_each_with_empty_cells_holds_names():
    frame = pd.DataFrame({"item": ["7.0", "8.0"], "history": [None, 7.0], "label": [0, 1]})
    table = Impressions.read(frame, item="item", history="history", label="label", user=None, context=())
    assert table.item == ["7", "8"]
    assert table.histories == [[], ["7"]]
