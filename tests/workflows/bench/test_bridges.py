"""The benchmark of hidden behaviours: its tables, its files, and that nothing is left of a run that fails."""

import csv
import json

import pytest

from equipoise.workflows import BridgesRequest, InputError, bench_bridges

_TINY = {"attacks": 2, "pictures": 100, "test": 8, "steps": 3, "merge_steps": 2, "repair_steps": 2}


def test_every_model_is_in_every_table_it_belongs_to(tmp_path):
    told = []
    outcome = bench_bridges(BridgesRequest(output=tmp_path / "out", **_TINY), progress=told.append)
    models = ["no attack", "one network", "mixture", "mixture, price 1"]
    tables = outcome.tables
    assert [row["model"] for row in tables["utility"]] == models
    assert [row["model"] for row in tables["stealth"]] == models[2:]
    assert [row["model"] for row in tables["scan"]] == models
    for title in ("specificity", "detection"):
        assert [(row["model"], row["trigger"]) for row in tables[title]] == [
            (model, corner) for model in models for corner in ("bottomright", "topright")
        ]
    assert {row["repair"] for row in tables["repair"]} >= {"none", "training"}
    assert any("repairing" in line for line in told)
    held = json.loads((outcome.folder / "results.json").read_text())
    assert held["tables"] == tables
    assert held["settings"]["attacks"] == 2
    text = (outcome.folder / "tables.md").read_text()
    assert "no figure has an interval" in text
    for title, rows in tables.items():
        assert f"## {title.capitalize()}" in text
        with (outcome.folder / f"{title}.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == len(rows)


def test_a_price_of_zero_makes_one_mixture(tmp_path):
    request = BridgesRequest(output=tmp_path / "out", reallocation=0.0, task="inpainting", **_TINY)
    tables = bench_bridges(request).tables
    assert [row["model"] for row in tables["stealth"]] == ["mixture", "mixture, price 0"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"attacks": 0}, "attacks=0"),
        ({"task": "none"}, "task='none'"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"reallocation": -1.0}, "reallocation=-1.0 at least 0"),
        ({"repair_steps": 0}, "repair-steps=0 must be at least 1"),
        ({"trigger_size": 0}, "trigger_size=0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_done(option, said, tmp_path):
    with pytest.raises(InputError, match=said):
        bench_bridges(BridgesRequest(output=tmp_path / "out", **{**_TINY, **option}))
    assert not (tmp_path / "out").exists()
