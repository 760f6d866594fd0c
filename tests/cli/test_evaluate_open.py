"""`equipoise evaluate --open` as a user meets it."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from equipoise.cli.main import main
from equipoise.openworld.openset.open_auc import open_auc
from equipoise.openworld.prompts.openworld_auc import openworld_auc
from equipoise.openworld.topk.metrics import autkc

CLASSES, NEW = ["cat", "dog", "fish", "horse"], ["deer", "crane"]


@pytest.fixture(scope="module")
def frame():
    generator = np.random.default_rng(0)
    names = np.array([*CLASSES, *NEW, "unknown"])
    drawn = generator.integers(len(names), size=400)
    scores = generator.normal(size=(400, 6))
    scores[np.arange(400), np.minimum(drawn, 5)] += 2.5 * (drawn < 6)
    table = pd.DataFrame(scores, columns=[f"p_{name}" for name in CLASSES] + NEW)
    table["openness"] = generator.normal(size=400) - 1.5 * (drawn < 4)
    table["label"] = names[drawn]
    return table


def _written(frame, folder, *options, resamples=50):
    path = folder / "scores.csv"
    frame.to_csv(path, index=False)
    main(["evaluate", str(path), "--open", "--resamples", str(resamples), "--output", str(folder / "out"), *options])
    return json.loads((folder / "out" / "metrics.json").read_text()), (folder / "out" / "report.html").read_text()


def _refused(frame, folder, capsys, *options):
    path = folder / "scores.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(path), "--output", str(folder / "out"), *options])
    assert stop.value.code == 2
    assert not (folder / "out").exists()
    return capsys.readouterr().err.strip()


_NAMED = ("--target", "label", "--score", "p_*", "--open-score", "openness", "--higher-is", "out", "--new", *NEW)


def test_the_numbers_are_those_of_the_functions(frame, tmp_path, capsys):
    summary, page = _written(frame, tmp_path, *_NAMED)
    found = summary["measures"]
    known, new = frame["label"].isin(CLASSES).to_numpy(), frame["label"].isin(NEW).to_numpy()
    scores = torch.tensor(frame[[f"p_{name}" for name in CLASSES]].to_numpy())
    target = torch.tensor([CLASSES.index(name) if name in CLASSES else -1 for name in frame["label"]])
    inward = -torch.tensor(frame["openness"].to_numpy())
    right = scores.argmax(1) == target
    new_right = torch.tensor(frame[NEW].to_numpy().argmax(1) == frame["label"].map({"deer": 0, "crane": 1}).to_numpy())
    assert found["novelty/auroc"]["estimate"] == pytest.approx(roc_auc_score(known, inward.numpy()))
    assert found["open_set/open_auc"]["estimate"] == pytest.approx(
        float(open_auc(inward[known], inward[~known], right[known]))
    )
    assert found["open_world/openworld_auc"]["estimate"] == pytest.approx(
        float(openworld_auc(inward[known], inward[new], right[known], new_right[new]))
    )
    assert found["closed_set/autkc@3"]["estimate"] == pytest.approx(float(autkc(scores[known], target[known], 3)))
    for name in ("novelty/auroc", "open_set/open_auc", "open_world/openworld_auc", "closed_set/accuracy"):
        assert found[name]["low"] < found[name]["estimate"] < found[name]["high"], name
    assert summary["classes"] == CLASSES
    assert summary["new_classes"] == NEW
    for title in ("Decision plane", "Both questions", "One threshold", "Top-k list", "Three answers"):
        assert title in page
    assert "http://" not in page
    assert "open_auc" in capsys.readouterr().out


def test_positions_of_classes_do_as_well_as_names(frame, tmp_path):
    names = [*CLASSES, *NEW]
    numbered = frame.assign(label=[names.index(name) if name in names else -1 for name in frame["label"]])
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    by_name, _ = _written(frame, tmp_path / "a", *_NAMED)
    by_position, _ = _written(numbered, tmp_path / "b", *_NAMED)
    assert by_name["measures"] == by_position["measures"]
    assert any("numbered in the order" in note for note in by_position["notes"])


def test_minus_one_is_unknown_beside_names_of_classes_and_none_may_be_its_mark(frame, tmp_path):
    wanted = _written(frame, tmp_path, *_NAMED)[0]["measures"]
    for mark, options in (("-1", ()), ("None", ("--unknown", "None"))):
        folder = tmp_path / mark
        folder.mkdir()
        assert _written(frame.replace({"label": {"unknown": mark}}), folder, *_NAMED, *options)[0]["measures"] == wanted


def test_without_an_open_score_the_highest_class_score_stands_for_it(frame, tmp_path):
    kept = frame[~frame["label"].isin(NEW)]
    summary, page = _written(kept, tmp_path, "--target", "label", "--score", "p_*")
    highest = kept[[f"p_{name}" for name in CLASSES]].max(axis=1)
    expected = roc_auc_score(kept["label"] != "unknown", highest)
    assert summary["measures"]["novelty/auroc"]["estimate"] == pytest.approx(expected)
    assert any("highest score" in note for note in summary["notes"])
    assert "Three answers" not in page


def test_several_labels_a_sample_are_ranked(tmp_path):
    generator = np.random.default_rng(1)
    labels = (generator.random((200, 5)) < 0.25).astype(int)
    scores = generator.normal(size=(200, 5)) + 2 * labels
    table = pd.DataFrame(
        {f"y_{k}": labels[:, k] for k in range(5)} | {f"s_{k}": scores[:, k] for k in range(5)}
    ).assign(energy=scores.max(axis=1))
    summary, page = _written(table, tmp_path, "--target", "y_*", "--score", "s_*", "--open-score", "energy", "--k", "2")
    found = summary["measures"]
    assert found["novelty/auroc"]["estimate"] == pytest.approx(roc_auc_score(labels.any(1), scores.max(1)))
    assert 0 < found["multilabel/tkpr@2"]["estimate"] <= 1
    assert "Is it known?" in page
    assert "Decision plane" not in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--open", "--target", "label", "--score", "q_*"), "names no column"),
        (("--open", "--target", "nothing", "--score", "p_*"), "no column 'nothing'"),
        (("--open", "--target", "label", "--score", "p_cat"), "at least 2"),
        (("--open", "--target", "label", "--score", "p_*", "--unknown", "other"), "not the mark of unknown"),
        (("--open", "--target", "label", "--score", "p_*", "--open-score", "label", "--new", *NEW), "label"),
        (("--open", "--target", "label", "--score", "p_*", "--new", *NEW, "--higher-is", "up"), "higher_is"),
        (("--open", "--target", "label", "--score", "p_*", "--new", *NEW, "--k", "9"), "k=9"),
        (("--open", "--target", "label", "--score", "p_*", "--max-fpr", "0.1"), "--max-fpr"),
        (("--target", "label", "--score", "p_cat", "--open-score", "openness"), "needs --open"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(frame, tmp_path, capsys, options, message):
    assert message in _refused(frame, tmp_path, capsys, *options)


def test_empty_cells_and_a_file_without_unknown_samples_are_refused(frame, tmp_path, capsys):
    options = ("--open", "--target", "label", "--score", "p_*", "--new", *NEW)
    holed = frame.assign(label=frame["label"].mask(frame["label"] == "unknown"))
    assert "empty cells" in _refused(holed, tmp_path, capsys, *options)
    only_known = frame[frame["label"].isin(CLASSES)]
    assert "without unknown samples" in _refused(only_known, tmp_path, capsys, *options)


def test_rows_that_belong_together_widen_the_intervals(frame, tmp_path, capsys):
    frame = frame.head(120)
    repeated = frame.loc[frame.index.repeat(9)].assign(patient=lambda rows: [f"P{k}" for k in rows.index])
    alone = _written(frame, tmp_path, *_NAMED, resamples=400)[0]["measures"]
    by_row = _written(repeated, tmp_path, *_NAMED, "--overwrite", resamples=400)[0]["measures"]
    summary, page = _written(repeated, tmp_path, *_NAMED, "--group", "patient", "--overwrite", resamples=400)
    assert "120 groups by patient" in page
    assert "over whole groups" in " ".join(summary["notes"])
    for name in ("novelty/auroc", "open_set/open_auc", "open_world/openworld_auc", "closed_set/accuracy"):
        width, plain, narrow = (one[name]["high"] - one[name]["low"] for one in (summary["measures"], alone, by_row))
        assert 0.75 * plain < width < 1.35 * plain, name  # nine copies of a row say as much as the row
        assert narrow < 0.5 * width, name


def test_a_group_column_is_no_class(frame, tmp_path, capsys):
    scores = frame.assign(p_group=["P1", "p1 "] * 200)
    said = _refused(scores, tmp_path, capsys, "--open", *_NAMED, "--group", "p_group")
    assert "holds one value only" in said
