"""From two files of embeddings to the folder of `equipoise match`."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.cli.main import main
from equipoise.multimodal import cross_modal_retrieval_map, gallery_matching_accuracy, verification_auc
from equipoise.workflows import InputError, MatchRequest, match_embeddings

_NAMES = np.array([f"{k:03d}" for k in range(30)])


def _sides(seed=0):
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(30, 5))
    identity = [np.arange(30).repeat(2), np.arange(27)]
    values = [own[each] + rng.normal(size=(len(each), 5)) for each in identity]
    return [each.astype(np.float32) for each in values], identity


def _frames(seed=0):
    values, identity = _sides(seed)
    frames = []
    for side, codes in zip(values, identity, strict=True):
        frame = pd.DataFrame(side, columns=[f"e{k}" for k in range(5)])
        frame["person"], frame["sex"] = _NAMES[codes], np.array(["f", "m"])[codes % 2]
        frames.append(frame)
    return frames


def _written(folder, seed=0):
    faces, voices = _frames(seed)
    faces.to_parquet(folder / "faces.parquet")
    # The same numbers in another order, and a column of text that is none.
    voices.assign(note="x")[["e3", "note", "e1", "e0", "sex", "e2", "person", "e4"]].to_csv(
        folder / "voices.csv", index=False
    )
    return folder / "faces.parquet", folder / "voices.csv"


def _rows(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_figures_are_those_of_the_library(tmp_path):
    files = _written(tmp_path)
    request = MatchRequest(identity="person", group="sex", resamples=20, output=tmp_path / "out")
    found = match_embeddings(*files, request)
    (faces, voices), identity = _sides()
    sides = [torch.from_numpy(each) for each in (faces, voices, *identity)]
    groups = sides[2] % 2, sides[3] % 2
    there = found.scores["any candidates", "faces → voices"]
    assert there.matching[5].estimate == pytest.approx(float(gallery_matching_accuracy(*sides, n_way=(5,))["1:5"]))
    assert there.auc.estimate == pytest.approx(float(verification_auc(*sides)))
    assert (there.queries, there.identities, there.pairs) == (54, 27, 54)
    back = found.scores["any candidates", "voices → faces"]
    turned = sides[1], sides[0], sides[3], sides[2]
    assert back.retrieval.estimate == pytest.approx(float(cross_modal_retrieval_map(*turned)))
    within = found.scores["candidates of the own group", "faces → voices"]
    assert within.auc.estimate == pytest.approx(float(verification_auc(*sides, *groups)))
    women = found.scores["sex f", "faces → voices"]
    part = [side[code == 0] for side, code in zip(sides, (*groups, *groups), strict=True)]
    assert women.auc.estimate == pytest.approx(float(verification_auc(*part)))

    lines = _rows(tmp_path / "out" / "matching.csv")
    assert len(lines) == 8 * 9
    assert lines[3]["candidates"] == "5"
    assert float(lines[3]["accuracy"]) == pytest.approx(there.matching[5].estimate, rel=1e-5)
    assert float(lines[3]["low"]) < float(lines[3]["accuracy"]) < float(lines[3]["high"])
    measures = _rows(tmp_path / "out" / "scores.csv")
    assert [line["measure"] for line in measures[:2]] == ["verification AUC", "retrieval mAP"]
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert len(summary["scores"]) == 8
    assert summary["scores"][0]["matching"]["1:5"]["estimate"] == pytest.approx(there.matching[5].estimate)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "better than chance in both directions" in page
    assert "sex m" in page


def test_arrays_are_read(tmp_path):
    values, identity = _sides()
    for name, side, codes in zip("ab", values, identity, strict=True):
        np.savez(tmp_path / f"{name}.npz", embeddings=side, identity=codes)
    found = match_embeddings(
        tmp_path / "a.npz", tmp_path / "b.npz", MatchRequest(resamples=0, output=tmp_path / "out", most=3)
    )
    files = _written(tmp_path)
    same = match_embeddings(*files, MatchRequest(identity="person", resamples=0, output=tmp_path / "two", most=3))
    one, two = next(iter(found.scores.values())), next(iter(same.scores.values()))
    assert one.matching[3].estimate == pytest.approx(two.matching[3].estimate)
    assert list(one.matching) == [2, 3]


def test_identities_are_names_and_a_number_is_the_same_in_both_files(tmp_path):
    faces, voices = _frames()
    faces["person"], voices["person"] = (each["person"].astype(int) for each in (faces, voices))
    faces.astype({"person": float}).to_parquet(tmp_path / "faces.parquet")
    voices.to_csv(tmp_path / "voices.csv", index=False)
    request = MatchRequest(identity="person", resamples=0, output=tmp_path / "out")
    found = match_embeddings(tmp_path / "faces.parquet", tmp_path / "voices.csv", request)
    assert next(iter(found.scores.values())).queries == 54


def test_a_group_without_matches_is_left_out_and_small_ones_are_told_of(tmp_path):
    faces, voices = _frames()
    voices = voices[voices["sex"] == "f"]
    faces.to_csv(tmp_path / "faces.csv", index=False)
    voices.head(4).to_csv(tmp_path / "voices.csv", index=False)
    told = []
    request = MatchRequest(identity="person", group="sex", resamples=10, output=tmp_path / "out")
    found = match_embeddings(tmp_path / "faces.csv", tmp_path / "voices.csv", request, notice=told.append)
    assert ("sex m", "faces → voices") not in found.scores
    assert any("sex m, faces → voices: there is nothing to compare" in words for words in told)
    assert any("4 identities are too few" in words for words in told)
    assert any("no query has enough other candidates for lists of 5 or more" in words for words in told)


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    files = [str(path) for path in _written(tmp_path)]
    asked = ["--identity", "person", "--resamples", "10"]
    main(["match", *files, *asked, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "faces → voices" in printed
    assert "report.html" in printed.replace("\n", "")
    main(["match", *files, *asked, "--json", "--output", str(tmp_path / "out"), "--overwrite"])
    told = json.loads(capsys.readouterr().out)
    assert told["scores"][0]["direction"] == "faces → voices"
    assert told == json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": "who"}, "has no column 'who'; it has e0"),
        ({"group": "age"}, "has no column 'age'"),
        ({"group": "person"}, "--group and --identity both name 'person'"),
        ({"most": 1}, "most=1 must lie between 2 and"),
        ({"ties": "half"}, "ties='half' is not known"),
        ({"resamples": -1}, "resamples=-1"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_nothing_is_written(change, message, tmp_path):
    files = _written(tmp_path)
    request = MatchRequest(**{"identity": "person", "output": tmp_path / "out", **change})
    with pytest.raises(InputError, match=message):
        match_embeddings(*files, request)
    assert not (tmp_path / "out").exists()


def _strangers(faces, voices):
    return faces, voices.assign(person="nobody")


def _narrow(faces, voices):
    return faces, voices.drop(columns="e4")


def _holed(faces, voices):
    return faces.assign(e0=faces["e0"].where(faces.index > 2)), voices


def _nameless(faces, voices):
    return faces.assign(person=faces["person"].where(faces.index > 2)), voices


def _two_groups(faces, voices):
    return faces, voices.assign(sex="f")


def _wordy(faces, voices):
    return faces[["person", "sex"]].assign(note="a"), voices


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_strangers, "no value of 'person' stands in both files"),
        (_narrow, "embeddings of 5 numbers, .* of 4"),
        (_holed, "3 rows with missing or infinite numbers"),
        (_nameless, "column 'person' of .* is empty in 3 rows"),
        (_two_groups, "has two groups"),
        (_wordy, "no columns of numbers"),
    ],
)
def test_files_that_do_not_go_together_are_refused(spoil, message, tmp_path):
    faces, voices = spoil(*_frames())
    faces.to_csv(tmp_path / "faces.csv", index=False)
    voices.to_csv(tmp_path / "voices.csv", index=False)
    request = MatchRequest(identity="person", group="sex", resamples=0, output=tmp_path / "out")
    with pytest.raises(InputError, match=message):
        match_embeddings(tmp_path / "faces.csv", tmp_path / "voices.csv", request)


def test_bad_arrays_are_refused(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "flat.npz", embeddings=np.zeros(4), identity=np.arange(4))
    np.savez(tmp_path / "short.npz", embeddings=np.zeros((4, 2)), identity=np.arange(3))
    np.savez(tmp_path / "lacking.npz", identity=np.arange(3))
    np.savez(tmp_path / "zeros.npz", embeddings=np.eye(4) * [1, 1, 1, 0], identity=np.arange(4))
    whole = (tmp_path / "short.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "spoiled.npz").write_bytes(whole[:140] + b"?" * 40 + whole[180:])
    np.save(tmp_path / "one.npy", np.eye(4))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    np.savez(tmp_path / "objects.npz", embeddings=np.array([[{}]], dtype=object), identity=np.arange(1))
    for name, message in (
        ("broken", "cannot be read as arrays"),
        ("flat", "must be numbers in rows"),
        ("short", r"identity of .* has shape \(3,\), wanted \(4,\)"),
        ("lacking", "has no array 'embeddings'; it has identity"),
        ("objects", "cannot be read as arrays"),
        ("none", "there is no file"),
        ("zeros", "has 1 rows of zeros"),
        ("cut", "it is no .npz file, or a part of one"),
        ("spoiled", "cannot be read as arrays"),
        ("one", "it is no .npz file, or a part of one"),
    ):
        with pytest.raises(InputError, match=message):
            match_embeddings(tmp_path / f"{name}.npz", tmp_path / "flat.npz", MatchRequest(output=tmp_path / "out"))
