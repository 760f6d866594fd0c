"""From a file of blocks to a learner for each: parts, what is written and read again, and what is refused."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from equipoise.cli.main import main
from equipoise.workflows import FuseRequest, FusionModel, InputError, fuse_blocks
from equipoise.workflows.fuse.blocks import read_blocks
from equipoise.workflows.fuse.contest import METHODS, accuracy, ahead, stages_of
from equipoise.workflows.fuse.model import moments, standardise


def _arrays(n=240, seed=0):
    generator = np.random.default_rng(seed)
    y = np.arange(n) % 3
    audio = (2 * np.eye(3)[y] + generator.normal(size=(n, 3))) * 5 + 100
    visual = 1.5 * np.eye(3)[y] + generator.normal(size=(n, 3))
    return {"audio": audio, "visual": visual, "y": y}


def _frame(**changes):
    given = _arrays()
    frame = pd.DataFrame(given["audio"], columns=["audio_a", "audio_b", "audio_c"])
    frame = frame.assign(**{f"visual_{k}": given["visual"][:, k] for k in range(3)})
    frame["mood"] = np.array(["=calm", "glad", "sad"])[given["y"]]
    return frame.assign(**changes)


def _request(tmp_path, **changes):
    given = {"target": "mood", "blocks": ["audio", "visual"], "epochs": 12, "learning_rates": [0.05]}
    return FuseRequest(**{**given, "hidden": 8, "output": tmp_path / "out", **changes})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    _frame(other=1.0).to_parquet(folder / "t.parquet")
    return folder / "t.parquet", fuse_blocks(folder / "t.parquet", _request(folder), command="equipoise fuse")


def test_what_is_written_says_what_was_found(table):
    _, outcome = table
    assert set(outcome.contenders) == set(METHODS)
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert summary["classes"] == ["=calm", "glad", "sad"]
    assert summary["blocks"] == {"audio": 3, "visual": 3}
    best = max(outcome.contenders.values(), key=lambda one: one.validation)
    assert summary["chosen"] == outcome.report.chosen == best.name
    found = summary["methods"][best.name]
    assert found["test"]["estimate"] == pytest.approx(best.right.mean())
    assert found["alone"]["audio"]["estimate"] == pytest.approx(best.right_alone["audio"].mean())
    assert found["test"]["estimate"] > 0.7
    assert "columns that belong to no block are left out: other" in summary["notes"]
    stages = summary["methods"]["reconboost"]["history"]
    assert [stage["modality"] for stage in stages] == ["audio", "visual"] * 3
    page = (outcome.folder / "report.html").read_text()
    assert "visual alone" in page
    assert "equipoise fuse" in page


def test_the_model_that_was_saved_predicts_what_was_written(table):
    path, outcome = table
    model = FusionModel.load(outcome.folder)
    frame = pd.read_parquet(path)
    blocks = {name: frame[list(columns)].to_numpy() for name, columns in model.columns.items()}
    said = model.predict_proba(blocks)
    with (outcome.folder / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 48
    for row in rows:
        place = int(row["row"])
        assert frame["mood"][place] == row["target"]
        assert model.classes[said[place].argmax()] == row["predicted"]
        assert said[place].max() == pytest.approx(float(row["probability"]), abs=1e-4)
    for name in blocks:
        alone = model.predict_proba({name: blocks[name]}).argmax(1)
        right = [model.classes[alone[int(row["row"])]] == row["target"] for row in rows]
        assert right == [row[f"{name}_is_right"] == "1" for row in rows]
    assert model.predict_proba({"audio": np.full((2, 3), np.nan)}).shape == (2, 3)


def test_arrays_of_any_shape_are_blocks(tmp_path):
    given = _arrays()
    images = given["visual"].reshape(-1, 3, 1)
    np.savez(tmp_path / "t.npz", audio=given["audio"], images=images, mood=given["y"], extra=np.zeros(3))
    request = _request(tmp_path, blocks=["audio", "images"], methods=["independent", "reconboost"])
    outcome = fuse_blocks(tmp_path / "t.npz", request)
    assert outcome.report.blocks == ("audio", "images")
    assert FusionModel.load(tmp_path / "out").classes == (0, 1, 2)
    assert "arrays that belong to no block are left out: extra" in outcome.report.notes
    np.savez(tmp_path / "two.npz", audio=given["audio"], images=images, mood=given["y"])
    rows = read_blocks(tmp_path / "two.npz", _request(tmp_path, blocks=[]))
    assert set(rows.x) == {"audio", "images"}


def test_every_class_is_in_every_part_and_the_seed_decides(tmp_path):
    given = _arrays(n=100)
    y = np.concatenate([given["y"], [3, 3, 3]])
    x = np.zeros((103, 2), dtype=np.float32)
    x[0, 0] = 1

    def parts(folder, seed):
        np.savez(folder / "p.npz", a=x, mood=y)
        return read_blocks(folder / "p.npz", _request(folder, blocks=[], seed=seed)).part

    first, again, other = (parts(tmp_path, seed) for seed in (0, 0, 1))
    for code in range(4):
        assert set(first[y == code]) == {0, 1, 2}
    assert (first == again).all()
    assert (first != other).any()


def test_rows_to_learn_from_alone_say_how_features_are_scaled():
    x = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.inf], [np.nan, 5.0, np.nan]], dtype=np.float32)
    mean, scale = moments(x)
    np.testing.assert_allclose(mean, [2, 5, 0])
    np.testing.assert_allclose(scale, [1, 1, 1])
    np.testing.assert_allclose(standardise(x, mean, scale), [[-1, 0, 0], [1, 0, 0], [0, 0, 0]])


def test_no_learner_has_more_epochs_by_boosting():
    for blocks in (1, 2, 3, 5):
        for epochs in (8, 24, 100):
            stages = stages_of(epochs, blocks)
            assert stages * (2 + blocks) <= epochs * blocks < (stages + 1) * (2 + blocks)
    gained = ahead(np.array([True, True, False]), np.array([True, False, False]))
    assert gained.estimate == pytest.approx(1 / 3)


def test_runs_of_one_seed_are_the_same(table, tmp_path):
    path, outcome = table
    again = fuse_blocks(path, _request(tmp_path, methods=["reconboost"]))
    one, other = outcome.contenders["reconboost"], again.contenders["reconboost"]
    assert (one.probabilities == other.probabilities).all()


def test_the_command_prints_the_comparison(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    _frame(visual_0=np.where(np.arange(240) == 5, np.nan, 0.5)).to_csv("t.csv", index=False)
    given = ["--blocks", "audio", "visual", "--epochs", "3", "--hidden", "8", "--learning-rates", "0.02"]
    main(["fuse", "t.csv", "--target", "mood", *given, "--escape-formulas"])
    said = capsys.readouterr()
    assert "features that are not known, in 1 of the rows of visual, count as their mean" in said.err
    assert all(name in said.out for name in METHODS)
    assert "chosen: " in said.out
    assert "'=calm" in (tmp_path / "equipoise-fuse" / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "moods"}, "did you mean 'mood'"),
        ({"blocks": []}, "name the blocks with --blocks"),
        ({"blocks": ["audio", "visul"]}, "no column of .* starts with 'visul_'; did you mean 'visual'"),
        ({"blocks": ["audio", "audio"]}, "blocks must be distinct"),
        ({"methods": ["early"]}, "method='early' is not known"),
        ({"methods": []}, "name at least one of the methods"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"test_size": 0.5}, "test_size"),
        ({"learning_rates": [0.0]}, "learning_rates=0.0 must be greater than 0"),
        ({"learning_rates": [1e30]}, "name smaller ones with --learning-rates"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_requests_are_one_sentence(changes, message, tmp_path):
    _frame().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=message):
        fuse_blocks(tmp_path / "t.csv", _request(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual_1": "red"}, "column 'visual_1' holds 'red', wanted numbers"),
        ({"mood": "calm"}, "holds one value only"),
        ({"mood": np.linspace(0, 1, 240)}, "numbers are not predicted here"),
        ({"mood": ["rare", *["a", "b"] * 119, "a"]}, "class 'rare' has 1 rows"),
        ({"mood": [None, *["a", "b"] * 119, "a"]}, "is empty in row 0"),
        ({f"audio_{k}": np.nan for k in "abc"}, "block 'audio' of .* holds no number"),
    ],
)
def test_bad_tables_are_one_sentence(changes, message, tmp_path):
    _frame(**changes).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        fuse_blocks(tmp_path / "t.parquet", _request(tmp_path))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"audio": np.zeros((5, 2)), "visual": np.zeros((6, 2)), "mood": np.arange(6) % 2}, "array 'audio'"),
        ({"audio": np.array(["a"] * 6), "visual": np.zeros((6, 2)), "mood": np.arange(6) % 2}, "wanted numbers"),
        ({"audio": np.zeros((6, 0)), "visual": np.zeros((6, 2)), "mood": np.arange(6) % 2}, "has no features"),
        ({"audio": np.zeros((6, 2)), "mood": np.arange(6) % 2}, "there is no array 'visual'"),
        ({"audio": np.zeros((6, 2)), "visual": np.zeros((6, 2)), "mood": np.zeros((6, 2))}, "a class for each row"),
        ({"audio": np.zeros((6, 2)), "visual": np.zeros((6, 2))}, "target array 'mood' is not in"),
    ],
)
def test_bad_arrays_are_one_sentence(arrays, message, tmp_path):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match=message):
        fuse_blocks(tmp_path / "t.npz", _request(tmp_path))


def test_intervals_of_accuracies_stay_between_none_and_all():
    for right, ends in (
        ([True] * 12, (0.7575, 1.0)),
        ([False] * 12, (0.0, 0.2425)),
        ([True] * 2 + [False] * 10, (0.0470, 0.4480)),
    ):
        found = accuracy(np.array(right))
        assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)
        assert found.low <= found.estimate <= found.high


def test_files_that_are_none_are_one_sentence(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"no zip")
    np.save(tmp_path / "one.npy", np.eye(4))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("t.npz", "one.npz", "none.npz", "none.csv"):
        with pytest.raises(InputError, match=r"cannot be read|no file"):
            fuse_blocks(tmp_path / name, _request(tmp_path))


def test_damaged_models_and_other_blocks_are_one_sentence(table, tmp_path):
    _, outcome = table
    model = FusionModel.load(outcome.folder)
    for blocks, message in (
        ({"smell": np.zeros((2, 3))}, "there is no block 'smell'"),
        ({"audio": np.zeros((2, 4))}, r"has shape \(2, 4\), wanted \(n, 3\)"),
        ({"audio": np.zeros((2, 3)), "visual": np.zeros((3, 3))}, "equally many rows"),
        ({}, "no block"),
    ):
        with pytest.raises(InputError, match=message):
            model.predict_proba(blocks)
    with pytest.raises(InputError, match="holds no model"):
        FusionModel.load(tmp_path)
    model.save(tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "weights.safetensors")
    broken = {name: np.full_like(value, np.nan) for name, value in tensors.items()}
    save_file(broken, tmp_path / "m" / "weights.safetensors")
    with pytest.raises(InputError, match="not finite"):
        FusionModel.load(tmp_path / "m")
    (tmp_path / "m" / "fusion.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="is of format 2"):
        FusionModel.load(tmp_path / "m")
