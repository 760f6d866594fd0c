"""The command as a user meets it: what it writes, and one clear sentence where it cannot."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_iris

from equipoise.cli.main import main
from equipoise.ranking import opauc


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with what real ones have: text, dates, missing cells, a constant, an identifier."""
    features, target = load_breast_cancer(return_X_y=True)
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(features[:, :6], columns=[f"x{k}" for k in range(6)])
    frame.loc[generator.random(len(frame)) < 0.1, "x2"] = np.nan
    frame["town"] = generator.choice(["Rome", "Bonn", None], len(frame))
    frame["seen"] = pd.date_range("2024-01-01", periods=len(frame), freq="h").astype(str)
    frame["always"] = 1
    frame["patient"] = np.arange(len(frame)) // 3
    frame["diagnosis"] = np.where(target == 0, "malignant", "benign")
    path = tmp_path_factory.mktemp("data") / "patients.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "out"
    main(
        [
            *("fit", str(table), "--target", "diagnosis", "--metric", "opauc", "--max-fpr", "0.1"),
            *("--model", "linear", "--compare", "partial_auc", "--folds", "2", "--output", str(folder)),
        ]
    )
    return folder


def _refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_fit_writes_a_model_the_numbers_and_a_report(fitted):
    assert sorted(p.name for p in fitted.iterdir()) == ["manifest.json", "metrics.json", "model", "report.html"]
    summary = json.loads((fitted / "metrics.json").read_text())
    assert summary["metric"] == "OPAUC (FPR ≤ 0.1)"
    assert {entry["objective"] for entry in summary["cross_validation"]} == {"cross_entropy", "partial_auc"}
    assert all(len(entry["folds"]) == 2 for entry in summary["cross_validation"])
    for metrics in summary["test"].values():
        value = metrics["OPAUC (FPR ≤ 0.1)"]
        assert 0 < value["low"] <= value["estimate"] <= value["high"] <= 1
        assert value["estimate"] > 0.5
    assert "<html" in (fitted / "report.html").read_text()


def test_predict_scores_new_rows_in_their_order(fitted, table, tmp_path, capsys):
    rows = pd.read_csv(table).sample(frac=1, random_state=0)
    # Columns in another order, an unseen town, and no target.
    rows.loc[::2, "town"] = "Paris"
    rows[rows.columns[::-1]].drop(columns="diagnosis").to_csv(tmp_path / "new.csv", index=False)
    main(["predict", str(fitted), str(tmp_path / "new.csv"), "--output", str(tmp_path / "out")])
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(found) == ["score", "probability", "prediction"]
    import torch

    truth = torch.tensor((rows["diagnosis"] == "malignant").to_numpy().astype(int))
    assert float(opauc(torch.tensor(found["score"].to_numpy()), truth, 0.1)) > 0.7
    assert set(found["prediction"]) <= {"benign", "malignant"}
    said = capsys.readouterr()
    assert "predictions.csv" in said.out
    assert said.err.startswith("notice: column 'town' holds a value that training did not in 2")
    rows.assign(town="Paris").to_csv(tmp_path / "new.csv", index=False)
    refused = _refused(["predict", fitted, tmp_path / "new.csv", "--output", tmp_path / "no"], capsys)
    assert "column 'town' holds no value that the model was fitted on" in refused


def test_evaluate_agrees_with_the_metric_and_compares_columns(tmp_path):
    generator = np.random.default_rng(0)
    target = (generator.random(400) < 0.3).astype(int)
    frame = pd.DataFrame({"y": target, "good": target + generator.normal(size=400), "bad": generator.normal(size=400)})
    frame.to_parquet(tmp_path / "scores.parquet")
    main(
        [
            *("evaluate", str(tmp_path / "scores.parquet"), "--target", "y", "--score", "good", "bad"),
            *("--max-fpr", "0.2", "--resamples", "100", "--wanted-fpr", "0.1", "--output", str(tmp_path / "out")),
        ]
    )
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    import torch

    wanted = opauc(torch.tensor(frame["good"].to_numpy()), torch.tensor(target), 0.2)
    value = found["models"]["good"]["OPAUC (FPR ≤ 0.2)"]
    assert value["estimate"] == pytest.approx(float(wanted), abs=1e-9)
    assert value["low"] < value["estimate"] < value["high"]
    assert found["gains"]["bad"]["high"] < 0
    (row,) = [r for r in found["thresholds"][0]["rows"] if r["rate"] == "fpr"]
    assert row["estimated"]["fpr"] <= 0.1
    assert row["guaranteed"]["threshold"] >= row["estimated"]["threshold"]


def test_evaluate_names_the_positive_class_and_doubts_turned_scores(tmp_path, capsys):
    generator = np.random.default_rng(0)
    churned = generator.random(300) < 0.58
    frame = pd.DataFrame({"y": np.where(churned, "yes", "no"), "s": churned + generator.normal(size=300)})
    frame["kept"] = -frame["s"]
    frame.to_csv(tmp_path / "scores.csv", index=False)
    arguments = ["evaluate", str(tmp_path / "scores.csv"), "--target", "y", "--resamples", "20"]
    main([*arguments, "--score", "s", "kept", "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["positive"] == "yes"
    assert found["models"]["s"]["AUROC"]["estimate"] > 0.7
    said = " ".join(capsys.readouterr().out.split())
    assert f"positive: y = yes ({churned.mean():.1%} of 300 rows)".replace("%", " %") in said
    assert "warning: kept ranks the other way round" in said
    assert "s ranks" not in said


def test_intervals_and_guarantees_of_groups_count_groups(tmp_path, capsys):
    generator = np.random.default_rng(0)
    member = np.arange(40).repeat(25)
    sick = (np.arange(40) % 2)[member]
    scores = generator.normal(size=40)[member] + 0.2 * generator.normal(size=1000) + sick
    pd.DataFrame({"who": member, "y": sick, "s": scores}).to_csv(tmp_path / "scores.csv", index=False)
    arguments = ["evaluate", str(tmp_path / "scores.csv"), "--target", "y", "--score", "s", "--resamples", "200"]
    widths = []
    for more in ([], ["--group", "who"]):
        main([*arguments, *more, "--output", str(tmp_path / "out"), "--overwrite"])
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())
        area = found["models"]["s"]["AUROC"]
        widths.append(area["high"] - area["low"])
    assert widths[1] > 3 * widths[0]
    assert "needs 59 groups" in capsys.readouterr().out
    assert "averaged over new groups" in (tmp_path / "out" / "report.html").read_text()


def test_fit_says_what_it_read_and_what_it_left_out(tmp_path, capsys):
    generator = np.random.default_rng(0)
    y = np.arange(240) % 3 == 0
    frame = pd.DataFrame(
        {
            "": range(1, 241),
            "price": [f"$ {v:,.2f}" for v in 5000 + 900 * y + 900 * generator.normal(size=240)],
            "town": generator.choice(["Rome", "Bonn"], 240),
            "closed": np.where(y, generator.random(240), np.nan),
            "outcome": np.where(y, "won", "lost"),
            "y": np.where(y, " Yes", "no"),
        }
    )
    frame.loc[3, "price"] = "on request"
    frame.loc[4, "y"] = "NO "
    frame.to_csv(tmp_path / "deals.csv", index=False)
    arguments = ["fit", str(tmp_path / "deals.csv"), "--target", "y", "--model", "linear", "--folds", "2"]
    main([*arguments, "--compare", "cross_entropy", "--output", str(tmp_path / "out")])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "positive: y = Yes (33.3 % of 240 rows)",
        "read price as number (thousands mark ','; 1 of 192 cells hold something else and count as missing)",
        "read 1 as category: town",
        "warning: column 'outcome' is left out: it is a copy of 'y'.",
        "warning: column 'closed' alone reaches AUROC 1.000",
    ):
        assert words in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What the columns were read as" in page
    assert "labels of &#x27;y&#x27; that differ" in page or "labels of 'y' that differ" in page
    assert json.loads((tmp_path / "out" / "model" / "encoder.json").read_text())["object"].endswith("TableEncoder")


def test_a_console_of_another_code_page_is_no_reason_to_stop(tmp_path):
    pd.DataFrame({"y": [0, 1] * 20, "s": range(40)}).to_csv(tmp_path / "s.csv", index=False)
    command = [sys.executable, "-m", "equipoise", "evaluate", tmp_path / "s.csv", "--target", "y", "--score", "s"]
    found = subprocess.run(
        [*command, "--resamples", "9", "--output", tmp_path / "out"],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
    )
    assert "TPAUC (FPR <= 0.05, TPR >= 0.5)" in found.stdout.decode("cp1252")


def test_scores_that_say_nothing_or_all_are_called_that(tmp_path, capsys):
    y = np.arange(60) % 2
    pd.DataFrame({"y": y, "flat": 1.0, "clear": y + 0.1 * np.arange(60) / 60}).to_csv(tmp_path / "s.csv", index=False)
    arguments = ["evaluate", str(tmp_path / "s.csv"), "--target", "y", "--score", "flat", "clear", "--resamples", "9"]
    main([*arguments, "--output", str(tmp_path / "out")])
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: flat gives every row the same score" in said
    assert "warning: clear separates these rows perfectly" in said
    assert "of the 30 rows of the rarer class" in said


def test_a_booster_meets_the_objectives_that_it_can_be_trained_with(table, tmp_path):
    arguments = ["fit", str(table), "--target", "diagnosis", "--metric", "average_precision", "--model", "lightgbm"]
    main([*arguments, "--folds", "2", "--output", str(tmp_path / "out")])
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    compared = {entry["objective"] for entry in summary["cross_validation"]}
    assert compared == {"cross_entropy", "weighted_cross_entropy", "auc"}


def test_a_named_objective_is_trained_beside_the_log_losses(table, tmp_path):
    main(
        [
            *("fit", str(table), "--target", "diagnosis", "--objective", "auc", "--model", "linear"),
            *("--group", "patient", "--folds", "2", "--output", str(tmp_path / "out")),
        ]
    )
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["chosen"] == {"model": "linear", "objective": "auc"}
    objectives = {entry["objective"] for entry in summary["cross_validation"]}
    assert objectives == {"cross_entropy", "weighted_cross_entropy", "auc"}
    assert "patient" in summary["data"]["split"]


def test_sharpness_aware_networks_are_compared_with_plain_ones(tmp_path, capsys):
    features, target = load_iris(return_X_y=True)
    pd.DataFrame(features, columns=list("abcd")).assign(kind=target).to_csv(tmp_path / "iris.csv", index=False)
    asked = ("fit", str(tmp_path / "iris.csv"), "--target", "kind", "--metric", "balanced_accuracy", "--folds", "2")
    out = ("--output", str(tmp_path / "out"))
    main([*asked, "--model", "linear", "lightgbm", "--compare", "ldam", "--optimizer", "sam", *out])
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    held = {(entry["model"], entry["objective"], entry.get("optimizer")) for entry in summary["cross_validation"]}
    log_loss = {(model, "cross_entropy", None) for model in ("linear", "lightgbm")}
    networks = {("linear", "cross_entropy", "sam"), ("linear", "ldam", None), ("linear", "ldam", "sam")}
    assert held == log_loss | networks
    assert "optimizer" not in summary["baseline"]
    main(["predict", str(tmp_path / "out"), str(tmp_path / "iris.csv"), "--output", str(tmp_path / "new")])
    refused = _refused([*asked, "--model", "lightgbm", "--optimizer", "sam", "--output", tmp_path / "no"], capsys)
    assert "needs a network" in refused


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("average_precision", ("--metric", "ap")),
        ("minmax_auc", ()),
        ("instancewise_partial_auc", ("--metric", "tpauc", "--max-fpr", "0.5", "--min-tpr", "0.3")),
    ],
)
def test_an_objective_of_networks_meets_the_log_losses_of_boosters(objective, metric, table, tmp_path):
    main(
        [
            *("fit", str(table), "--target", "diagnosis", "--objective", objective, *metric),
            *("--model", "linear", "lightgbm", "--folds", "2", "--output", str(tmp_path / "out")),
        ]
    )
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["chosen"] == {"model": "linear", "objective": objective}
    held = {(entry["model"], entry["objective"]) for entry in summary["cross_validation"]}
    assert ("lightgbm", "cross_entropy") in held
    assert ("lightgbm", objective) not in held


def test_a_split_by_time_tests_on_the_latest_rows(table, tmp_path):
    main(
        [
            *("fit", str(table), "--target", "diagnosis", "--model", "linear", "--time", "seen"),
            *("--compare", "auc", "--folds", "2", "--output", str(tmp_path / "out")),
        ]
    )
    assert "time" in json.loads((tmp_path / "out" / "metrics.json").read_text())["data"]["split"]


def test_several_classes_are_fitted_and_predicted(tmp_path):
    features, target = load_iris(return_X_y=True)
    frame = pd.DataFrame(features, columns=list("abcd"))
    frame["kind"] = np.array(["setosa", "versicolor", "virginica"])[target]
    frame.to_csv(tmp_path / "iris.csv", index=False)
    main(
        [
            *("fit", str(tmp_path / "iris.csv"), "--target", "kind", "--model", "linear", "--folds", "2"),
            *("--output", str(tmp_path / "out")),
        ]
    )
    main(["predict", str(tmp_path / "out"), str(tmp_path / "iris.csv"), "--output", str(tmp_path / "new")])
    found = pd.read_csv(tmp_path / "new" / "predictions.csv")
    assert (found["prediction"] == frame["kind"]).mean() > 0.8


def test_an_embedded_set_knows_its_target(tmp_path):
    main(
        [
            *("fit", "breast_cancer", "--model", "lightgbm", "--compare", "auc", "--folds", "2"),
            *("--output", str(tmp_path / "out")),
        ]
    )
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["data"]["positive"] == "malignant"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{dir}/none.csv", "--target", "y"], "no file"),
        (["{table}", "--target", "diagnose"], "diagnosis"),
        (["{table}"], "--target"),
        (["{table}", "--target", "always"], "always"),
        (["{table}", "--target", "x2"], "x2"),
        (["{table}", "--target", "town", "--metric", "opauc", "--max-fpr", "0.1"], "town"),
        (["{table}", "--target", "diagnosis", "--metric", "opauc", "--max-fpr", "5"], "max_fpr=5"),
        (["{table}", "--target", "diagnosis", "--metric", "opauc"], "needs max_fpr"),
        (["{table}", "--target", "diagnosis", "--metric", "f1"], "f1"),
        (["{table}", "--target", "diagnosis", "--model", "forest"], "forest"),
        (["{table}", "--target", "diagnosis", "--objective", "focal"], "focal"),
        (["{table}", "--target", "diagnosis", "--objective", "partial_auc"], "--max-fpr"),
        (["{table}", "--target", "diagnosis", "--objective", "minmax_auc", "--model", "lightgbm"], "networks only"),
        (["{table}", "--target", "diagnosis", "--positive", "ill"], "ill"),
        (["{table}", "--target", "diagnosis", "--test-size", "2"], "test_size"),
        (["{table}", "--target", "diagnosis", "--folds", "1"], "folds=1"),
        (["{table}", "--target", "diagnosis", "--metric", "ovo_auroc"], "several classes"),
        (["{table}", "--target", "diagnosis", "--objective", "vs"], "several classes"),
        (["{table}", "--target", "diagnosis", "--metric", "auroc", "--k", "2"], "does not use k"),
        (["{iris}", "--target", "kind", "--metric", "auroc"], "two classes"),
        (["{table}", "--target", "diagnosis", "--max-fpr", "a"], "max-fpr"),
        (["{table}", "--bogus"], "bogus"),
    ],
)
def test_bad_requests_to_fit_are_one_sentence_and_leave_nothing(arguments, message, table, tmp_path, capsys):
    pd.DataFrame({"a": range(60), "kind": list("abc") * 20}).to_csv(tmp_path / "iris.csv", index=False)
    names = {"dir": tmp_path, "table": table, "iris": tmp_path / "iris.csv"}
    filled = [a.format(**names) for a in arguments]
    said = _refused(["fit", *filled, "--output", tmp_path / "out"], capsys)
    assert message in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iris.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{scores}", "--target", "y", "--score", "t"], "no column 't'"),
        (["{scores}", "--target", "z", "--score", "s"], "'z'"),
        (["{scores}", "--target", "y", "--score", "gap"], "1 missing"),
        (["{scores}", "--target", "y", "--score", "s", "--max-fpr", "5"], "max_fpr=5"),
        (["{scores}", "--target", "y", "--score", "s", "--confidence", "1"], "confidence"),
        (["{scores}", "--target", "three", "--score", "s"], "3"),
        (["{scores}", "--target", "one", "--score", "s"], "one"),
        (["{scores}", "--target", "y"], "score"),
    ],
)
def test_bad_requests_to_evaluate_are_one_sentence(arguments, message, tmp_path, capsys):
    rows = 12
    pd.DataFrame(
        {
            "y": [0, 1] * 6,
            "s": range(rows),
            "gap": [None, *range(rows - 1)],
            "three": ["a", "b", "c"] * 4,
            "one": [1] * rows,
        }
    ).to_csv(tmp_path / "scores.csv", index=False)
    filled = [a.format(scores=tmp_path / "scores.csv") for a in arguments]
    assert message in _refused(["evaluate", *filled, "--output", tmp_path / "out"], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]


def test_an_output_that_holds_something_is_kept_unless_told(table, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    said = _refused(["fit", table, "--target", "diagnosis", "--output", tmp_path / "out"], capsys)
    assert "--overwrite" in said
    assert (tmp_path / "out" / "precious").exists()


def test_predict_refuses_what_is_no_model_and_a_table_that_lacks_a_column(fitted, table, tmp_path, capsys):
    assert "no model" in _refused(["predict", tmp_path, table, "--output", tmp_path / "out"], capsys)
    pd.read_csv(table).drop(columns="x1").to_csv(tmp_path / "short.csv", index=False)
    said = _refused(["predict", fitted, tmp_path / "short.csv", "--output", tmp_path / "out"], capsys)
    assert "'x1'" in said


def test_papers_that_there_are_not_are_one_sentence(capsys):
    assert "there is no paper and no room 'recnboost'; did you mean 'reconboost'?" in _refused(
        ["methods", "recnboost"], capsys
    )
    assert "see `equipoise methods`" in _refused(["methods", "zzz"], capsys)


def test_the_catalogue_and_the_data_sets_are_listed(capsys):
    main(["methods"])
    assert "tpauc" in capsys.readouterr().out
    main(["methods", "generative", "tpauc"])
    said = capsys.readouterr().out
    assert "tpauc" in said
    assert "lightfair" in said
    assert "gie" not in said.split()
    main(["methods", "reconboost"])
    said = capsys.readouterr().out
    assert "equipoise.multimodal.ReconBoostTrainer" in said
    assert "equipoise reproduce reconboost --quick" in said
    main(["datasets"])
    assert "breast_cancer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "tpauc"),
        (["tpac"], "tpauc"),
        (["tpauc", "--all"], "tpauc"),
        (["tpauc", "--seeds", "5-14"], "[5, 6, 7, 8, 9] are not fresh"),
        (["tpauc", "--seeds", "100-102"], "at least 5"),
        (["tpauc", "--seeds", "a-b"], "no range such as 100-109"),
        (["tpauc", "--seeds", "100-109", "--quick"], "leave the seeds out"),
        (["tpauc", "--judge"], "--judge runs nothing"),
    ],
)
def test_reproduce_says_what_it_wants(arguments, message, tmp_path, capsys):
    assert message in _refused(["reproduce", *arguments, "--output", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()
