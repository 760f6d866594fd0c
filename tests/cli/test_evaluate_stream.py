"""`equipoise evaluate` on Parquet that is streamed, as a user meets it."""

import json

import numpy as np
import pandas as pd
import pytest

from equipoise.cli.main import main


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        target = generator.random(3000) < 0.2
        frame = pd.DataFrame({"y": target.astype(int), "good": generator.normal(size=3000) + target, "text": "t"})
        (tmp_path / "parts").mkdir(exist_ok=True)
        frame.to_parquet(tmp_path / "parts" / f"{name}.parquet")
    return tmp_path


def _run(folder, *more):
    main(
        [
            *("evaluate", str(folder / "parts"), "--target", "y", "--score", "good", "--resamples", "50"),
            *("--output", str(folder / "out"), *more),
        ]
    )


def test_a_folder_of_parts_is_judged_with_certified_bounds(folder, capsys):
    _run(folder, "--wanted-fpr", "0.1", "--workers", "2")
    said = capsys.readouterr().out
    assert "certain for good" in said
    assert "at least" in said
    found = json.loads((folder / "out" / "metrics.json").read_text())
    assert found["rows"] == 6000
    bounds, estimate = found["certified"]["good"]["AUROC"], found["models"]["good"]["AUROC"]
    assert bounds["lower"] <= estimate["estimate"] <= bounds["upper"]
    assert estimate["low"] < bounds["lower"]
    assert "For certain" in (folder / "out" / "report.html").read_text()


def test_one_part_with_stream_gives_what_the_whole_in_memory_gives(folder, capsys):
    part = str(folder / "parts" / "a.parquet")
    found = []
    for more in ([], ["--stream"]):
        main(
            [
                *("evaluate", part, "--target", "y", "--score", "good", "--resamples", "50"),
                *("--output", str(folder / f"out{len(more)}"), *more),
            ]
        )
        found.append(json.loads((folder / f"out{len(more)}" / "metrics.json").read_text()))
    whole, streamed = (each["models"]["good"]["AUROC"]["estimate"] for each in found)
    assert streamed == pytest.approx(whole, abs=1e-6)
    assert "certified" not in found[0]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{csv}", "--score", "s", "--stream"], "cannot be streamed"),
        (["{dir}/empty", "--score", "s"], "no Parquet files"),
        (["{dir}/parts/*.parquet", "--score", "bad"], "no column 'bad'"),
        (["{dir}/parts", "--score", "text"], "no numbers"),
        (["{dir}/parts", "--score", "good", "--max-fpr", "5"], "max_fpr=5"),
        (["{dir}/parts", "--score", "good", "--workers", "0"], "workers=0"),
        (["{dir}/none/*.parquet", "--score", "good"], "no Parquet files"),
    ],
)
def test_bad_requests_are_one_sentence_and_leave_nothing(arguments, message, folder, capsys):
    (folder / "empty").mkdir()
    pd.DataFrame({"y": [0, 1], "s": [0.1, 0.2]}).to_csv(folder / "s.csv", index=False)
    filled = [a.format(dir=folder, csv=folder / "s.csv") for a in arguments]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *filled, "--target", "y", "--output", str(folder / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (folder / "out").exists()
