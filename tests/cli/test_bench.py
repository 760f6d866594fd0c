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
