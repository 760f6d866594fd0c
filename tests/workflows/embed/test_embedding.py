"""From answers about distances to places: equal folds, the rule for dimensions, and what is written."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist

from equipoise.cli.main import main
from equipoise.crowd import OrdinalEmbedding
from equipoise.data import read_triplets
from equipoise.workflows import EmbedRequest, InputError, embed_triplets
from equipoise.workflows.embed.comparing import METHODS, Trial, choose, contradictions, one_error_rule, question_folds
from equipoise.workflows.embed.embedding import principal

ORDINAL = Path(os.environ.get("EQUIPOISE_DATA", "absent")) / "ordinal"


def _rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _answers(seed=0, items=15, rows=900, dim=2, noise=0.0):
    generator = np.random.default_rng(seed)
    places = generator.normal(size=(items, dim))
    asked = np.array([generator.permutation(items)[:3] for _ in range(rows)])
    near, far = (((places[asked[:, 0]] - places[asked[:, k]]) ** 2).sum(1) for k in (1, 2))
    right = (near < far) != (generator.random(rows) < noise)
    return np.where(right[:, None], asked, asked[:, [0, 2, 1]])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("answers") / "t.csv"
    names = np.array([f"=thing {k}" for k in range(15)], dtype=object)
    pd.DataFrame(names[_answers(noise=0.05)], columns=["anchor", "near", "far"]).to_csv(path, index=False)
    return path


def _request(tmp_path, **changes):
    settings = {"methods": ["ste", "soe"], "dims": [1, 2, 3], "lams": [0.1], "folds": 3, "output": tmp_path / "out"}
    return EmbedRequest(**{**settings, **changes})


@pytest.fixture(scope="module")
def placed(file, tmp_path_factory):
    return embed_triplets(file, _request(tmp_path_factory.mktemp("placed")), command="equipoise x")


def test_two_dimensions_are_found_and_the_map_is_that_of_the_model(placed, file):
    assert placed.report.dim == 2
    rows = _rows(placed.folder / "coordinates.csv")
    found = np.array([[float(row["axis_1"]), float(row["axis_2"])] for row in rows])
    kept = OrdinalEmbedding.load(placed.folder / "model.safetensors")
    np.testing.assert_allclose(found, kept.embedding_, rtol=1e-6, atol=1e-8)
    table = read_triplets(file)
    assert [row["item"] for row in rows] == list(table.item_names)
    again = OrdinalEmbedding(placed.report.method, dim=2, lam=0.1).fit(table.triplets, 15)
    np.testing.assert_allclose(pdist(found), pdist(again.embedding_), rtol=1e-5)
    assert found[:, 0].var() >= found[:, 1].var()
    assert abs(np.cov(found.T)[0, 1]) < 1e-6 * found[:, 0].var()
    assert sum(int(row["answers"]) for row in rows) == 3 * 900
    summary = json.loads((placed.folder / "metrics.json").read_text())
    assert summary["kept"] == pytest.approx(kept.score(table.triplets))
    assert summary["held_out_accuracy"]["mean"] > 0.8
    assert (placed.folder / "map.png").read_bytes().startswith(b"\x89PNG")
    page = (placed.folder / "report.html").read_text(encoding="utf-8")
    assert "equipoise x" in page
    assert "Least agreed on" in page


def test_every_loss_is_judged_on_the_same_folds(placed, file):
    table = read_triplets(file)
    fold = question_folds(table.triplets, 3, 0)
    trial = next(trial for trial in placed.trials if (trial.method, trial.dim) == ("soe", 2))
    train, test = (table.triplets[torch.from_numpy(fold == 1) == held] for held in (False, True))
    assert trial.accuracy[1] == pytest.approx(OrdinalEmbedding("soe", dim=2, lam=0.1).fit(train, 15).score(test))
    rows = _rows(placed.folder / "accuracy.csv")
    assert len(rows) == 6
    row = next(row for row in rows if (row["method"], row["dim"]) == ("soe", "2"))
    folds = [float(row[f"fold_{k}"]) for k in (1, 2, 3)]
    assert float(row["accuracy"]) == pytest.approx(np.mean(folds), rel=1e-5)
    assert float(row["standard_error"]) == pytest.approx(np.std(folds, ddof=1) / np.sqrt(3), rel=1e-3)


def test_a_question_and_its_opposite_are_in_one_fold():
    answers = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [0, 1, 2], [2, 1, 0], [3, 1, 0]])
    for seed in range(10):
        fold = question_folds(answers, 2, seed)
        assert fold[0] == fold[1] == fold[3]
        assert set(fold.tolist()) == {0, 1}


def test_contradictions_are_counted_by_answers():
    answers = torch.tensor([[0, 1, 2], [0, 2, 1], [0, 1, 2], [1, 0, 2], [1, 0, 2]])
    assert contradictions(answers, 3) == (3, 4 / 5)
    assert contradictions(answers[3:], 3) == (0, 1.0)


def test_the_fewest_dimensions_within_one_error_of_the_best():
    def trial(dim, mean, spread, method="a"):
        return Trial(method, dim, 0.0, np.array([mean - spread, mean + spread]))

    trials = [trial(1, 0.70, 0.01), trial(2, 0.79, 0.01), trial(3, 0.80, 0.02), trial(4, 0.79, 0.0)]
    assert one_error_rule(trials).dim == 2
    assert one_error_rule([trial(1, 0.70, 0.01), trial(2, 0.77, 0.0), trial(3, 0.80, 0.02)]).dim == 3
    assert choose([*trials, trial(5, 0.795, 0.0, "b")]).method == "b"


def test_principal_axes_keep_distances():
    points = np.random.default_rng(0).normal(size=(9, 3)) * [1, 5, 2]
    turned = principal(points)
    np.testing.assert_allclose(pdist(turned), pdist(points))
    assert (np.diff(turned.var(0)) <= 0).all()
    np.testing.assert_allclose(principal(-points), turned * np.sign((principal(-points) * turned).sum(0)))


def test_three_items_and_every_loss(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["anchor,near,far"] + ["a,b,c"] * 4 + ["b,a,c"] * 3 + ["c,b,a", "c,a,b"]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    main(["embed", "t.csv", "--folds", "2", "--lam", "0.1", "--escape-formulas"])
    said = capsys.readouterr()
    assert "2 answers have an opposite" in said.out
    assert "3 items need at most 2 dimensions; more are left out" in said.err
    rows = _rows(tmp_path / "equipoise-embed" / "accuracy.csv")
    assert {row["method"] for row in rows} == set(METHODS)
    assert {row["dim"] for row in rows} == {"1", "2"}


def test_names_are_escaped_if_asked(file, tmp_path):
    outcome = embed_triplets(file, _request(tmp_path, methods=["ste"], dims=[1], folds=2, escape_formulas=True))
    assert all(row["item"].startswith("'=thing") for row in _rows(outcome.folder / "coordinates.csv"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["mds"]}, "method='mds' is not known; choose one of 'dmoe'"),
        ({"methods": []}, "at least one of the methods"),
        ({"dims": [0]}, "dim=0 must be at least 1"),
        ({"dims": [15]}, "15 items need at most 14 dimensions; give a smaller --dim"),
        ({"lams": [-1.0]}, "lam=-1.0"),
        ({"folds": 1}, "folds=1"),
        ({"folds": 5000}, "too few for folds=5000"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(file, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        embed_triplets(file, _request(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "x,y\n1,2\n", "anchor,near,far\na,b,\n"])
def test_a_file_that_is_none_is_one_sentence(tmp_path, capsys, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["embed", str(tmp_path / "t.csv"), "--output", str(tmp_path / "out")])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("equipoise: ")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_item_numbers_with_wide_gaps_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", triplets=_answers() * 10**9)
    with pytest.raises(InputError, match="900 answers name 2,700 of them at most; number the items from 0 on"):
        embed_triplets(tmp_path / "t.npz", _request(tmp_path))
    assert not (tmp_path / "out").exists()


def test_answers_whose_parts_have_no_item_in_common_are_too_few(tmp_path):
    pd.DataFrame([["a", "b", "c"], ["d", "e", "f"]], columns=["anchor", "near", "far"]).to_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="the 2 answers are too few for folds=2"):
        embed_triplets(tmp_path / "t.csv", _request(tmp_path, folds=2))


@pytest.mark.slow
@pytest.mark.skipif(not ORDINAL.is_dir(), reason="EQUIPOISE_DATA names no folder with ordinal/music_triplets.csv")
def test_real_answers_about_music(tmp_path):
    request = EmbedRequest(methods=["ckl"], dims=[1, 2], lams=[1.0], folds=3, output=tmp_path / "out")
    outcome = embed_triplets(ORDINAL / "music_triplets.csv", request)
    assert outcome.report.dim == 2
    assert outcome.report.accuracy["ckl"][2][0] > 0.7
