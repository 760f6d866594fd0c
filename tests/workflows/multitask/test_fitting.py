"""From a table of tasks to models alone and together: parts of every task, equal grids, and what is written."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from equipoise.cli.main import main
from equipoise.ranking import auroc
from equipoise.workflows import InputError, MultitaskRequest, fit_tasks
from equipoise.workflows.multitask.contest import METHODS, grid
from equipoise.workflows.multitask.table import _parts, read_tasks_table, scaled
from equipoise.workflows.tables.encoder_file import read_encoder


def _rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _frame(tasks=6, each=50, classes=False, seed=0):
    """Two groups of tasks, each with three features of its own."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(tasks * each, 6))
    task = np.repeat(np.arange(tasks), each)
    weight = np.kron(np.eye(2), np.ones((3, tasks // 2)))
    y = np.einsum("nd,dn->n", x, weight[:, task]) + generator.normal(size=len(task)) + 3 * task
    frame = pd.DataFrame(x, columns=[f"x{k}" for k in range(6)])
    frame["school"] = [f"=school {k}" for k in task]
    frame["mark"] = np.where(y - 3 * task > 0, "pass", "fail") if classes else y
    return frame.sample(frac=1, random_state=seed)


def _request(tmp_path, **changes):
    settings = {"task": "school", "target": "mark", "blocks": [2], "output": tmp_path / "out"}
    return MultitaskRequest(**{**settings, **changes})


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    _frame().to_csv(folder / "t.csv", index=False)
    return folder / "t.csv", fit_tasks(folder / "t.csv", _request(folder), command="equipoise x")


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    _frame(classes=True, each=60).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv", fit_tasks(folder / "t.csv", _request(folder, positive="pass"))


def test_marks_are_explained_and_the_weights_are_those_that_predict(numbers):
    path, outcome = numbers
    assert set(outcome.contenders) == set(METHODS) - {"multitask-auc"}
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert summary["metric"] == "R²"
    assert summary["methods"][outcome.report.chosen]["test"]["estimate"] > 0.5
    assert outcome.report.chosen == max(outcome.contenders, key=lambda name: outcome.contenders[name].value)
    # What is saved predicts the rows to judge by as well as is said.
    table = read_tasks_table(path, _request(path.parent))
    about = json.loads((outcome.folder / "model" / "tasks.json").read_text())
    parts = load_file(outcome.folder / "model" / "weights.safetensors")
    encoder = read_encoder(outcome.folder / "model")
    matrix = encoder.transform(table.frame).astype(np.float64)
    x = (matrix - parts["mean"]) / parts["scale"]
    said = np.einsum("nd,dn->n", x, parts["weight"][:, table.task]) * about["spread"] + parts["centre"][table.task]
    error = (table.y - said) / about["spread"]
    held = table.part == 2
    explained = [1 - (error[held & (table.task == k)] ** 2).mean() for k in range(6)]
    rows = _rows(outcome.folder / "tasks.csv")
    assert [row["task"] for row in rows] == about["tasks"]
    np.testing.assert_allclose([float(row[outcome.report.chosen]) for row in rows], explained, rtol=1e-4)


def test_tfcl_finds_the_two_groups(numbers):
    _, outcome = numbers
    weights = outcome.contenders["tfcl"].fitted.weight
    assert weights.shape == (6, 6)
    assert outcome.report.shown == "tfcl"
    assert (outcome.folder / "structure.png").read_bytes().startswith(b"\x89PNG")
    groups = [set(tasks) for _, tasks in outcome.report.groups]
    assert sum(map(len, groups)) <= 6


def test_two_values_are_ranked_and_multitask_auc_is_among_them(classes):
    path, outcome = classes
    assert set(outcome.contenders) == set(METHODS)
    table = read_tasks_table(path, _request(path.parent, positive="pass"))
    whole = scaled(table, table.part < 2)
    weight = outcome.contenders["multitask-auc"].fitted.weight
    scores = np.einsum("nd,dn->n", whole.x, weight[:, table.task])
    for k, name in enumerate(table.names):
        mine = (table.part == 2) & (table.task == k)
        wanted = float(auroc(torch.from_numpy(scores[mine]), torch.from_numpy(table.y[mine].astype(np.int64))))
        assert outcome.contenders["multitask-auc"].test[k] == pytest.approx(wanted)
        row = next(row for row in _rows(outcome.folder / "tasks.csv") if row["task"] == name)
        assert float(row["multitask_auc"]) == pytest.approx(wanted, rel=1e-4)
    assert outcome.report.metric == "AUROC"
    assert all(0.5 < one.value.estimate < 1 for one in outcome.report.judged)


@pytest.mark.parametrize("labelled", [False, True])
def test_every_task_and_class_is_in_every_part(labelled):
    generator = np.random.default_rng(0)
    task = np.repeat(np.arange(5), [10, 13, 40, 3, 100])
    labels = (generator.random(len(task)) < 0.4).astype(float) if labelled else None
    part = _parts(task, labels, 0.2, seed=1)
    for k in range(5):
        counts = np.bincount(part[task == k], minlength=3)
        assert (counts >= 1).all()
        assert counts[0] >= counts[1]
        assert counts[2] == pytest.approx(0.2 * counts.sum(), abs=1)
    if labelled:
        for k in (2, 4):
            for number in range(3):
                assert set(labels[(task == k) & (part == number)]) == {0.0, 1.0}
    assert (part == _parts(task, labels, 0.2, seed=1)).all()


def test_training_rows_alone_decide_how_rows_are_scaled(numbers):
    path, _ = numbers
    table = read_tasks_table(path, _request(path.parent))
    before = scaled(table, table.part == 0)
    table.y[table.part == 2] += 1000
    table.frame.loc[table.part == 2, "x0"] *= 50
    after = scaled(table, table.part == 0)
    learned = table.part == 0
    np.testing.assert_array_equal(before.x[learned], after.x[learned])
    np.testing.assert_array_equal(before.y[learned], after.y[learned])
    assert abs(before.y[learned & (table.task == 2)].mean()) < 1e-12
    np.testing.assert_allclose(before.x[learned].std(0), 1)


@pytest.mark.parametrize("name", METHODS)
def test_grids_are_of_one_size(name):
    for blocks in ((2,), (2, 4), (2, 3, 4, 5)):
        settings = grid(name, blocks, "squared", 10)
        assert len(settings) == 8
        assert len({str(each) for each in settings}) == 8


def test_the_command_says_what_togetherness_is_worth(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = pd.DataFrame({"school": ["tiny"] * 3, "mark": [1.0, 2.0, 3.0], **{f"x{k}": [0, 1, 2] for k in range(6)}})
    pd.concat([_frame(tasks=2, each=30), small]).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["--task", "school", "--target", "mark", "--methods", "alone", "pooled", "--escape-formulas"]
    main(["multitask", "t.csv", *arguments])
    said = capsys.readouterr()
    assert "chosen: " in said.out
    assert "3 rows are of tasks with fewer rows than --min-rows" in said.err
    folder = tmp_path / "equipoise-multitask"
    assert {row["task"] for row in _rows(folder / "tasks.csv")} == {"'=school 0", "'=school 1"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Who is served badly" in page
    with pytest.raises(SystemExit):
        main(["multitask", "t.csv", *arguments])
    main(["multitask", "t.csv", *arguments, "--overwrite"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "schol"}, "task column 'schol' is not in .*; did you mean 'school'"),
        ({"target": "grade"}, "target column 'grade' is not in"),
        ({"target": "school"}, "cannot be both task and target"),
        ({"methods": ["svm"]}, "method='svm'"),
        ({"methods": []}, "at least one of the methods"),
        ({"methods": ["multitask-auc"]}, "is a number, and multitask-auc ranks two values"),
        ({"blocks": [0]}, "blocks=0"),
        ({"test_size": 0.6}, "test_size=0.6 must lie between 0 and 0.5"),
        ({"min_rows": 1000}, "0 tasks of column 'school' have 1000 rows or more"),
        ({"min_rows": 0}, "min_rows=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(numbers, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        fit_tasks(numbers[0], _request(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_columns_that_do_not_vary_are_nothing_to_predict_from(tmp_path):
    frame = _frame(tasks=2, each=12)
    frame[[f"x{k}" for k in range(6)]] = 1.0
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=r"no column of .* but 'school' and 'mark' varies; add features"):
        fit_tasks(tmp_path / "t.csv", _request(tmp_path, methods=["alone"]))


def test_a_class_too_rare_to_choose_by_is_named(tmp_path):
    frame = _frame(tasks=2, each=40, classes=True)
    frame["mark"] = "fail"
    frame.iloc[3, frame.columns.get_loc("mark")] = "pass"
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="no task has both 'fail' and 'pass' among the rows to choose by"):
        fit_tasks(tmp_path / "t.csv", _request(tmp_path, methods=["alone"], positive="pass"))


def test_an_empty_cell_is_named_as_such(tmp_path):
    frame = _frame(tasks=2, each=12).reset_index(drop=True)
    frame.loc[4, "mark"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="holds nan in row 4"):
        fit_tasks(tmp_path / "t.csv", _request(tmp_path))


def test_a_cell_that_is_no_number_is_named(tmp_path):
    frame = _frame(tasks=2, each=12).reset_index(drop=True)
    frame["mark"] = frame["mark"].astype(object)
    frame.loc[4, "mark"] = "high"
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="holds 'high' in row 4"):
        fit_tasks(tmp_path / "t.csv", _request(tmp_path))
