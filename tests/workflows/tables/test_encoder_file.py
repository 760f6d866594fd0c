"""Encoders on disk: what comes back encodes alike, and a file that names anything else is refused, not run."""

import json

import numpy as np
import pandas as pd
import pytest

from equipoise.data.tables.encoding import KINDS, TableEncoder
from equipoise.workflows.tables.encoder_file import CLASSES, TREE, read_encoder, write_encoder

ROWS = 240


@pytest.fixture(scope="module")
def frame():
    """Columns of every type that pandas and Parquet hand over."""
    random = np.random.default_rng(0)
    hours = pd.date_range("2024-01-01", periods=ROWS, freq="h")
    return pd.DataFrame(
        {
            "number": np.where(random.random(ROWS) < 0.2, np.nan, random.normal(size=ROWS)),
            "small": random.normal(size=ROWS).astype(np.float32),
            "whole": pd.array(random.integers(0, 9, ROWS), dtype="Int64"),
            "mostly": np.where(np.arange(ROWS) % 10 == 0, random.normal(size=ROWS), 0.0),
            "flag": random.random(ROWS) < 0.5,
            "maybe": pd.array(random.random(ROWS) < 0.5, dtype="boolean"),
            "town": random.choice(["Rome", "Bonn", None], ROWS),
            "side": random.choice(["left", "right"], ROWS),
            "kind": pd.Categorical(random.choice(["u", "v", "w"], ROWS)),
            "code": pd.Categorical(random.integers(0, 3, ROWS)),
            "arrow": pd.array(random.choice(["p", "q", "z"], ROWS), dtype="string[pyarrow]"),
            "mixed": [1, "a", None] * (ROWS // 3),
            "text": [f"word{k} some{k % 7} thing" for k in range(ROWS)],
            "written": hours.astype(str),
            "hour": hours,
            "zone": hours.tz_localize("UTC").tz_convert("Europe/Berlin"),
            "day": pd.date_range("2024-01-01", periods=ROWS, freq="D"),
            "span": pd.to_timedelta(random.integers(0, 9, ROWS), unit="h"),
            "constant": 1,
            "empty": [None] * ROWS,
        }
    )


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, frame):
    fitted = TableEncoder(request.param)
    fitted.fit_transform(frame)
    return fitted


def test_an_encoder_of_every_type_of_column_comes_back(encoder, frame, tmp_path):
    write_encoder(encoder, tmp_path)
    again = read_encoder(tmp_path)
    new = frame.sample(frac=1, random_state=0).assign(town="Paris", text=None)
    for rows in (frame, new[new.columns[::-1]]):
        np.testing.assert_array_equal(again.transform(rows), encoder.transform(rows))


def test_the_listed_classes_are_those_of_real_encoders(frame, tmp_path):
    found = set()
    for kind in KINDS:
        fitted = TableEncoder(kind)
        fitted.fit_transform(frame)
        write_encoder(fitted, tmp_path)
        found |= _classes(json.loads((tmp_path / TREE).read_text()))
    assert found == CLASSES


def _classes(tree):
    if isinstance(tree, list):
        return set().union(*map(_classes, tree))
    if isinstance(tree, dict):
        return {tree[key] for key in ("object",) if key in tree}.union(*map(_classes, tree.values()))
    return set()


# What an attacker would put in the place of an object: classes, functions and modules that a listed module re-exports.
_ATTACKS = [
    ("subprocess.Popen", {"args": "touch ran"}),
    ("skrub._data_ops._caching.subprocess", {}),
    ("skrub._data_ops._caching.subprocess.run", {"args": ["touch", "ran"]}),
    ("skrub._data_ops._estimator.partial", {"func": "os.system"}),
    ("skrub._apply_to_each_col.Parallel", {}),
    ("skrub._to_str.ToStr.__init__", {}),
    ("os.system", {"command": "touch ran"}),
    ("builtins.eval", {"source": "open('ran', 'w')"}),
    ("sklearn.preprocessing._function_transformer.FunctionTransformer", {"func": "os.system"}),
    (["skrub._to_str.ToStr"], {}),
    (None, {}),
]


@pytest.mark.parametrize(("name", "state"), _ATTACKS)
def test_a_file_that_names_another_class_is_refused(name, state, encoder, tmp_path):
    write_encoder(encoder, tmp_path)
    tree = json.loads((tmp_path / TREE).read_text())
    tree["state"]["vectorizer_"] = {"object": name, "state": state}
    (tmp_path / TREE).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="class that no encoder has"):
        read_encoder(tmp_path)


@pytest.mark.parametrize("kind", ["reduce", "method", "function", "call", "__reduce__"])
def test_there_is_no_node_that_calls_anything(kind, encoder, tmp_path):
    write_encoder(encoder, tmp_path)
    (tmp_path / TREE).write_text(json.dumps({kind: "os.system", "args": ["touch ran"]}))
    with pytest.raises(ValueError, match="unknown kind"):
        read_encoder(tmp_path)
