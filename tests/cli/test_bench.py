import json

import numpy as np
import pytest

from equipoise.cli.main import main


@pytest.fixture
def tables(tmp_path):
    generator = np.random.default_rng(0)
    y = (np.arange(120) % 5 == 0).astype(int)
    arrays = {f"{name}__X": generator.normal(size=(120, 3)) + y[:, None] for name in ("one", "two")}
    np.savez(tmp_path / "tables.npz", **arrays, one__y=y, two__y=y)
    return tmp_path / "tables.npz"


def test_bench_tabular_prints_ranks_and_writes_a_summary(tables, tmp_path, capsys):
    out = tmp_path / "out"
    chosen = ["--tables", "one", "two", "--methods", "logistic regression", "lightgbm · cross_entropy"]
    main(["bench", "tabular", "--data", str(tables), "--splits", "1", "--output", str(out), *chosen])
    assert "average rank" in capsys.readouterr().out
    assert len((out / "results.csv").read_text().splitlines()) == 1 + 4
    assert "without early stopping" not in (out / "summary.md").read_text()
    with pytest.raises(SystemExit):
        main(["bench", "tabular", "--data", str(tables), "--output", str(out), "--held-out", "0", *chosen])
    assert "results of another budget" in capsys.readouterr().err


def test_bench_tabular_says_what_is_wrong(tables, tmp_path, capsys):
    for arguments, message in (
        (["--methods", "mlp"], "there is no method 'mlp'"),
        (["--tables", "none"], "there is no table 'none'"),
        (["--splits", "0"], "splits=0"),
        (["--held-out", "1"], "held_out=1.0 must lie in [0, 1)"),
    ):
        with pytest.raises(SystemExit):
            main(["bench", "tabular", "--data", str(tables), "--output", str(tmp_path / "out"), *arguments])
        assert message in capsys.readouterr().err


_TINY = ["--pictures", "100", "--test", "8", "--steps", "2", "--merge-steps", "2", "--repair-steps", "2"]


def test_bench_bridges_prints_its_tables(tmp_path, capsys):
    out = tmp_path / "out"
    main(["bench", "bridges", *_TINY, "--attacks", "1", "--output", str(out)])
    printed = capsys.readouterr().out
    assert all(title in printed for title in ("utility", "specificity", "stealth", "detection", "scan", "repair"))
    assert str(out / "results.json") in printed.replace("\n", "")
    main(["bench", "bridges", *_TINY, "--attacks", "1", "--json", "--output", str(out), "--overwrite"])
    tables = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in tables["utility"]] == ["no attack", "one network", "mixture", "mixture, price 1"]


def test_bench_bridges_says_what_is_wrong(tmp_path, capsys):
    for arguments, message in (
        (["--attacks", "4"], "attacks=4 must be at most 3"),
        (["--task", "colouring"], "colouring"),
        (["--trigger-size", "20"], "trigger_size=20 must be at most 16"),
        (["--steps", "0"], "steps=0 must be at least 1"),
        (["--pictures", "5"], "pictures=5 must be at least 96"),
        (["--learning-rate", "0"], "learning-rate=0.0 must be above 0"),
    ):
        with pytest.raises(SystemExit):
            main(["bench", "bridges", *arguments, "--output", str(tmp_path / "out")])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
