import csv
import json

import numpy as np
import pytest

from equipoise.workflows.bench import tabular_benchmark
from equipoise.workflows.bench.request import BenchRequest, Budget
from equipoise.workflows.bench.tabular_benchmark import bench_tabular
from equipoise.workflows.bench.tabular_protocol import BINARY, bounds, method_names
from equipoise.workflows.errors import InputError

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
    found = bench_tabular(BenchRequest(output=tmp_path / "out", data=[tables], splits=2, methods=METHODS), budget=SMALL)
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
        for suffix in ("png", "svg"):
            assert (tmp_path / "out" / f"critical_difference_{metric.split('(')[0].lower()}.{suffix}").exists()
        assert f"<h2>{metric}</h2>" in (tmp_path / "out" / "summary.html").read_text()


def test_a_stopped_run_goes_on_and_ends_with_the_same_numbers(tables, tmp_path):
    whole = tmp_path / "whole"
    bench_tabular(BenchRequest(output=whole, data=[tables], splits=1, methods=METHODS), budget=SMALL)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    lines = (whole / "results.csv").read_bytes().decode().splitlines(keepends=True)
    (stopped / "budget.json").write_bytes((whole / "budget.json").read_bytes())
    # Killed in the midst of writing the fifth run.
    (stopped / "results.csv").write_text("".join(lines[:5]) + lines[5][:20], newline="")
    seen = []
    bench_tabular(
        BenchRequest(output=stopped, data=[tables], splits=1, methods=METHODS), budget=SMALL, progress=seen.append
    )
    assert seen[-1].startswith("8 of 8 runs")

    def plain(folder):
        return sorted(tuple(v for k, v in row.items() if k != "seconds") for row in _rows(folder))

    assert plain(stopped) == plain(whole)


def test_a_method_that_fails_ranks_last_and_is_named(tables, tmp_path, monkeypatch):
    real = tabular_benchmark._scores

    def failing(method, *arguments, **options):
        if method == "lightgbm · auc":
            raise ArithmeticError("too few\nrows")
        return real(method, *arguments, **options)

    monkeypatch.setattr(tabular_benchmark, "_scores", failing)
    found = bench_tabular(BenchRequest(output=tmp_path / "out", data=[tables], splits=1, methods=METHODS), budget=SMALL)
    assert found.failures == 4
    assert found.comparisons["AP"].methods[-1] == "lightgbm · auc"
    assert {r["failure"] for r in _rows(tmp_path / "out")} == {"", "ArithmeticError: too few"}
    assert "4 runs failed" in (tmp_path / "out" / "summary.md").read_text()


def test_several_processes_give_the_numbers_of_one(tables, tmp_path):
    names = ["logistic regression", "lightgbm · cross_entropy"]
    one = bench_tabular(BenchRequest(output=tmp_path / "one", data=[tables], splits=1, methods=names), budget=SMALL)
    two = bench_tabular(
        BenchRequest(output=tmp_path / "two", data=[tables], splits=1, methods=names, jobs=2), budget=SMALL
    )
    assert one.comparisons == two.comparisons


def test_partial_objectives_are_for_two_classes_only():
    assert "mlp · partial_auc" in method_names(2)
    assert "mlp · partial_auc" not in method_names(3)
    assert "lightgbm · partial_auc" not in method_names(3)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        bench_tabular(BenchRequest(output=tmp_path / "out", data=[tmp_path / "absent.npz"]))


def test_every_class_is_in_both_parts():
    target = np.repeat([0, 1, 2, 3], [40, 2, 3, 2])
    for seed in range(10):
        train, test = tabular_benchmark._split(target, seed)
        assert sorted([*train, *test]) == list(range(47))
        assert set(target[train]) == set(target[test]) == {0, 1, 2, 3}
        assert len(test) in (12, 13, 14)


def test_a_table_that_cannot_be_split_is_a_failure_of_its_runs(tables, tmp_path):
    with np.load(tables) as arrays:
        lonely = np.arange(160) == 7
        np.savez(tmp_path / "more.npz", **arrays, lonely__X=arrays["easy__X"], lonely__y=lonely.astype(int))
    found = bench_tabular(
        BenchRequest(
            output=tmp_path / "out",
            data=[tmp_path / "more.npz"],
            splits=1,
            tables=["easy", "hard", "lonely"],
            methods=METHODS[:2],
        )
    )
    assert found.failures == 2
    failed = [r for r in _rows(tmp_path / "out") if r["failure"]]
    assert {r["table"] for r in failed} == {"lonely"}
    assert found.comparisons["AUROC"].against["logistic regression"].wins < 3


def test_with_nothing_held_out_all_rounds_are_trained(tables, tmp_path):
    names = ["mlp · cross_entropy", *(m for m in method_names(2) if m.startswith("lightgbm"))]
    budget = Budget(epochs=2, rounds=5, held_out=0.0)
    found = bench_tabular(BenchRequest(output=tmp_path / "out", data=[tables], splits=1, methods=names), budget=budget)
    assert found.failures == 0
    assert "without early stopping" in (tmp_path / "out" / "summary.md").read_text()
    with pytest.raises(InputError, match="results of another budget"):
        bench_tabular(BenchRequest(output=tmp_path / "out", data=[tables], splits=1, methods=names), budget=SMALL)
    with pytest.raises(InputError, match=r"held_out=1\.0 must lie"):
        bench_tabular(BenchRequest(output=tmp_path / "new", data=[tables]), budget=Budget(held_out=1.0))


def test_results_of_other_data_are_not_gone_on_with(tables, tmp_path):
    bench_tabular(
        BenchRequest(output=tmp_path / "out", data=[tables], splits=1, methods=METHODS[:1] + METHODS[2:]), budget=SMALL
    )
    with np.load(tables) as arrays:
        np.savez(tmp_path / "other.npz", **{**arrays, "easy__X": arrays["easy__X"][:, :3]})
    with pytest.raises(InputError, match="'easy' of other data"):
        bench_tabular(
            BenchRequest(output=tmp_path / "out", data=[tmp_path / "other.npz"], splits=1, methods=METHODS),
            budget=SMALL,
        )
    with pytest.raises(InputError, match="table 'easy' is in two of the files"):
        bench_tabular(BenchRequest(output=tmp_path / "new", data=[tables, tmp_path / "other.npz"]))
    (tmp_path / "out" / "results.csv").write_text("table,split\na,0\n")
    with pytest.raises(InputError, match="other columns"):
        bench_tabular(BenchRequest(output=tmp_path / "out", data=[tables]))


def test_objectives_get_the_region_they_need():
    assert bounds("cross_entropy") == {}
    assert bounds("two_way_partial_auc") == {"max_fpr": 0.5, "min_tpr": 0.5}


def test_ranks_are_shown_by_rarity_when_there_are_enough_tables(tmp_path):
    generator, arrays = np.random.default_rng(0), {}
    for k in range(12):
        y = (np.arange(80) < 4 + 2 * k).astype(int)
        arrays |= {f"t{k:02}__X": generator.normal(size=(80, 2)) + y[:, None], f"t{k:02}__y": y}
    np.savez(tmp_path / "tables.npz", **arrays)
    chosen = ["logistic regression", "lightgbm · cross_entropy"]
    bench_tabular(
        BenchRequest(output=tmp_path / "out", data=[tmp_path / "tables.npz"], splits=1, methods=chosen), budget=SMALL
    )
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| method | up to 11 rows (4 tables) | 12 to 18 (4 tables) | more than 18 (4 tables) |" in text
