"""Every golden case holds, and the runner sees a wrong value, a missing op and an unreadable file."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import golden

HERE = Path(__file__).parent
FILES = sorted((HERE / "golden_cases").glob("*.json"))
OPS = golden.known_ops()


# A case without positives is one of those that must be told.
@pytest.mark.filterwarnings("ignore:the AUC square loss of a batch with one class")
# Nor may a case warn that the outlier term is dear.
@pytest.mark.filterwarnings("ignore:lambda1=")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_golden_cases_of_the_file_hold(path):
    outcomes = list(golden.check_file(path, OPS))
    assert outcomes
    wrong = [f"{o.status}: {o.name}\n{o.message}" for o in outcomes if not (o.status == "passed" or _is_noise(o))]
    assert not wrong, "\n".join(wrong)


def _is_noise(outcome):
    """Whether a case differs only where it wants the rounding noise of a zero: the stationarity of finished attacks.

    There ε‖g‖₁ − ⟨δ, g⟩ is zero by definition, and the case holds what one order of operations leaves of it, about
    1e-19, to a relative tolerance.
    """
    if "adauc.json" not in outcome.name or " pgd_linf " not in outcome.name:
        return False
    found = [line for line in outcome.message.splitlines() if "wanted" in line]
    values = [float(v) for line in found for v in re.findall(r"(?:got|wanted) ([-\d.e+]+)", line)]
    return bool(found) and all(line.startswith("fosc[") for line in found) and max(map(abs, values)) < 1e-17


def _square(inputs, params):
    return {"value": params.get("factor", 1) * (inputs["x"] ** 2).sum(), "each": inputs["x"] ** 2}


def _write(tmp_path, *cases, name="tpauc.json"):
    path = tmp_path / name
    path.write_text(json.dumps({"cases": [{"op": "square", "params": {}, "rtol": 1e-9, **case} for case in cases]}))
    return path


def _statuses(path, ops=None):
    return [outcome.status for outcome in golden.check_file(path, ops or {("tpauc", "square"): _square})]


RIGHT = {"inputs": {"x": [1, 2, 3]}, "expected": {"value": 14, "each": [1, 4, 9], "grad_x": [2.0, 4.0, 6.0]}}


def test_right_values_and_gradients_pass(tmp_path):
    assert _statuses(_write(tmp_path, RIGHT)) == ["passed"]


@pytest.mark.parametrize(
    "expected",
    [
        {"value": 14.0000001},
        {"value": "nan"},
        {"value": "inf"},
        {"value": [14]},
        {"value": {"a": 14}},
        {"value": True},
        {"each": [1, 4]},
        {"each": [1, 4, 9, 16]},
        {"each": [1, 4, 10]},
        {"grad_x": [2, 4, -6]},
        {"absent": 1},
        {},
    ],
)
def test_a_wrong_value_fails_and_is_shown(tmp_path, expected):
    path = _write(tmp_path, RIGHT, {**RIGHT, "expected": expected, "how": "by hand"})
    outcomes = list(golden.check_file(path, {("tpauc", "square"): _square}))
    assert [outcome.status for outcome in outcomes] == ["passed", "failed"]
    assert "by hand" in outcomes[1].message
    assert "tpauc.json [1] square" in outcomes[1].name


def test_closeness_is_what_the_case_says(tmp_path):
    off = {**RIGHT, "expected": {"value": 14.01}}
    assert _statuses(_write(tmp_path, off, {**off, "rtol": 1e-2}, {**off, "atol": 0.1})) == [
        "failed",
        "passed",
        "passed",
    ]


def test_infinity_and_nan_stand_as_strings_on_both_sides(tmp_path):
    case = {"inputs": {"x": ["inf", 1.0]}, "expected": {"value": "inf", "each": ["inf", 1]}}
    nan = {"inputs": {"x": ["nan", 1.0]}, "expected": {"value": "nan", "each": ["nan", 1]}}
    assert _statuses(_write(tmp_path, case, nan)) == ["passed", "passed"]
    assert _statuses(_write(tmp_path, {**case, "expected": {"value": "-inf"}})) == ["failed"]


def test_params_reach_the_adapter(tmp_path):
    assert _statuses(_write(tmp_path, {**RIGHT, "params": {"factor": 2}, "expected": {"value": 28}})) == ["passed"]


def test_an_op_without_an_adapter_is_unmapped_also_under_another_paper(tmp_path):
    assert _statuses(_write(tmp_path, {**RIGHT, "op": "cube"})) == ["unmapped"]
    assert _statuses(_write(tmp_path, RIGHT, name="er.json")) == ["unmapped"]
    assert _statuses(_write(tmp_path, RIGHT, name="nobody.json")) == ["unmapped"]


def test_an_error_in_the_function_fails_the_case_and_the_rest_goes_on(tmp_path):
    path = _write(tmp_path, {**RIGHT, "inputs": {}}, RIGHT)
    outcomes = list(golden.check_file(path, {("tpauc", "square"): _square}))
    assert [outcome.status for outcome in outcomes] == ["failed", "passed"]
    assert "KeyError" in outcomes[0].message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cases": '])
def test_an_unreadable_file_fails(tmp_path, text):
    path = tmp_path / "tpauc.json"
    path.write_text(text)
    assert _statuses(path) == ["failed"]
    assert _statuses(tmp_path / "absent.json") == ["failed"]


@pytest.mark.parametrize(
    ("stem", "slug"),
    [
        ("tpauc", "tpauc"),
        ("tpauc-2", "tpauc"),
        ("tpauc.hidden", "tpauc"),
        ("tpauc2", "tpauc"),
        ("dpcml-plus_seed3", "dpcml-plus"),
        ("dpcml-3", "dpcml"),
        ("error", "error"),
        ("other", "other"),
    ],
)
def test_a_file_belongs_to_the_longest_paper_its_name_begins_with(stem, slug):
    assert golden.slug_of(stem, ["tpauc", "dpcml", "dpcml-plus", "er"]) == slug


def test_inputs_become_tensors_where_they_are_rectangular_numbers():
    assert golden.to_input([[1, 2], [3, 4]]).dtype == torch.int64
    assert golden.to_input([[1, 2.5], [3, 4]]).dtype == torch.float64
    assert golden.to_input([True, False]).dtype == torch.bool
    assert golden.to_input([[1.0], [2.0, 3.0]])[1].tolist() == [2.0, 3.0]
    assert golden.to_input(["cat", "dog"]) == ["cat", "dog"]
    assert golden.to_input({"a": [1]})["a"].tolist() == [1]
    assert golden.to_input(["-inf"]).tolist() == [-math.inf]
    assert golden.to_input(3) == 3


def test_two_adapters_of_one_op_are_refused():
    ops = golden.golden_ops.Ops()
    ops("tpauc", "square")(_square)
    with pytest.raises(ValueError, match="two adapters"):
        ops("tpauc", "square")(_square)


def _run(*arguments):
    command = [sys.executable, str(HERE / "golden.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)


def test_the_script_prints_the_tally_and_fails_on_a_wrong_value_or_an_unmapped_op(tmp_path):
    shown = json.loads((HERE / "golden_cases" / "tpauc.json").read_text())
    shown["cases"][0]["expected"]["value"] += 1e-3
    shown["cases"].append({**shown["cases"][1], "op": "unheard_of"})
    path = tmp_path / "tpauc-changed.json"
    path.write_text(json.dumps(shown))
    whole = [file for file in FILES if all(o.status == "passed" for o in golden.check_file(file, OPS))]
    result = _run(*whole, path)
    assert result.returncode == 1
    cases = sum(len(json.loads(file.read_text())["cases"]) for file in whole)
    assert result.stdout.strip().splitlines()[-1] == f"{cases + len(shown['cases']) - 2} passed, 1 failed, 1 unmapped"
    assert "FAILED tpauc-changed.json [0] partial_auroc" in result.stdout
    assert "value: got " in result.stdout


def test_the_script_without_files_says_how_to_use_it():
    result = _run()
    assert result.returncode == 2
    assert "usage" in result.stdout
