import csv
import json

import numpy as np
import pytest

from equipoise.cli.main import main
from equipoise.workflows import tabular_benchmark
from equipoise.workflows.errors import InputError
from equipoise.workflows.tabular_benchmark import BINARY, Budget, bench_tabular, method_names

SMALL = Budget(epochs=3, rounds=5)
METHODS = ["logistic regression", "mlp · cross_entropy", "lightgbm · auc"]


@pytest.fixture
def tables(tmp_path):
    generator, arrays = np.random.default_rng(0), {}
    for name, classes in (("easy", 2), ("hard", 2), ("three", 3), ("four", 4)):
        y = np.arange(160) % (2 * classes) % classes if classes > 2 else (np.arange(160) % 5 == 0).astype(int)
        x = generator.normal(size=(160, 4)) + (3.0 if name == "easy" else 0.7) * y[:, None]
        x[3, 1] = np.nan
        arrays |= {f"{name}__X": x, f"{name}__y": y}
    np.savez(tmp_path / "tables.npz", **arrays)
    return tmp_path / "tables.npz"


def _rows(folder):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_method_is_judged_on_every_split_and_compared(tables, tmp_path):
    found = bench_tabular(tmp_path / "out", data=[tables], splits=2, methods=METHODS, budget=SMALL)
    rows = _rows(tmp_path / "out")
    assert len(rows) == 4 * 2 * 3
    assert found.failures == 0
    assert set(found.comparisons) == {*BINARY, "MAUC"}
    assert found.comparisons["AUROC"].reference == "mlp · cross_entropy"
    by_table = {name: [float(r["AUROC"]) for r in rows if r["table"] == name] for name in ("easy", "hard")}
    assert np.mean(by_table["easy"]) > np.mean(by_table["hard"]) + 0.1
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["epochs"] == 3
    text = (tmp_path / "out" / "summary.md").read_text()
    for metric in (*BINARY, "MAUC"):
        assert f"## {metric}" in text
        assert (tmp_path / "out" / f"critical_difference_{metric.split('(')[0].lower()}.png").exists()


def test_a_stopped_run_goes_on_and_ends_with_the_same_numbers(tables, tmp_path):
    whole = tmp_path / "whole"
    bench_tabular(whole, data=[tables], splits=1, methods=METHODS, budget=SMALL)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    lines = (whole / "results.csv").read_text().splitlines(keepends=True)
    (stopped / "results.csv").write_text("".join(lines[:5]))
    seen = []
    bench_tabular(stopped, data=[tables], splits=1, methods=METHODS, budget=SMALL, progress=seen.append)
    assert seen[-1].startswith("8 of 8 runs")

    def plain(folder):
        return sorted(tuple(v for k, v in row.items() if k != "seconds") for row in _rows(folder))

    assert plain(stopped) == plain(whole)


def test_a_method_that_fails_ranks_last_and_is_named(tables, tmp_path, monkeypatch):
    real = tabular_benchmark._scores

    def failing(method, *arguments, **options):
        if method == "lightgbm · auc":
            raise ValueError("too few\nrows")
        return real(method, *arguments, **options)

    monkeypatch.setattr(tabular_benchmark, "_scores", failing)
    found = bench_tabular(tmp_path / "out", data=[tables], splits=1, methods=METHODS, budget=SMALL)
    assert found.failures == 4
    assert found.comparisons["AP"].methods[-1] == "lightgbm · auc"
    assert {r["failure"] for r in _rows(tmp_path / "out")} == {"", "ValueError: too few"}
    assert "4 runs failed" in (tmp_path / "out" / "summary.md").read_text()


def test_several_processes_give_the_numbers_of_one(tables, tmp_path):
    names = ["logistic regression", "lightgbm · cross_entropy"]
    one = bench_tabular(tmp_path / "one", data=[tables], splits=1, methods=names, budget=SMALL)
    two = bench_tabular(tmp_path / "two", data=[tables], splits=1, methods=names, budget=SMALL, jobs=2)
    assert one.comparisons == two.comparisons


def test_partial_objectives_are_for_two_classes_only():
    assert "mlp · partial_auc" in method_names(2)
    assert "mlp · partial_auc" not in method_names(3)
    assert "lightgbm · partial_auc" not in method_names(3)


def test_the_command_writes_a_summary_and_says_what_is_wrong(tables, tmp_path, capsys):
    out = tmp_path / "out"
    chosen = ["--tables", "easy", "hard", "--methods", "logistic regression", "lightgbm · cross_entropy"]
    main(["bench", "tabular", "--data", str(tables), "--splits", "1", "--output", str(out), *chosen])
    assert "average rank" in capsys.readouterr().out
    assert len(_rows(out)) == 4
    for arguments, message in (
        (["--methods", "mlp"], "there is no method 'mlp'"),
        (["--tables", "none"], "there is no table 'none'"),
        (["--splits", "0"], "splits=0"),
    ):
        with pytest.raises(SystemExit):
            main(["bench", "tabular", "--data", str(tables), "--output", str(out), *arguments])
        assert message in capsys.readouterr().err


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        bench_tabular(tmp_path / "out", data=[tmp_path / "absent.npz"])
