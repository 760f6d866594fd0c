"""Model folders that were damaged, tampered with, or are not ours: one sentence, and nothing in them runs."""

import json
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from equipoise.cli.main import main
from equipoise.data.tables.encoding import TableEncoder
from equipoise.ranking.criteria import Criterion
from equipoise.workflows.errors import InputError
from equipoise.workflows.manifest import MANIFEST, write_manifest
from equipoise.workflows.tables.candidates import Candidate
from equipoise.workflows.tables.model_folder import FittedModel
from equipoise.workflows.tables.predict import predict_table

ROWS = 200
MODELS = ("linear", "lightgbm", "xgboost")


def _frame(classes=2):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": random.normal(size=ROWS),
            "town": random.choice(["Rome", "Bonn", None], ROWS),
            "text": [f"word{k} some{k % 7}" for k in range(ROWS)],
            "seen": pd.date_range("2024-01-01", periods=ROWS, freq="h").astype(str),
        }
    ), np.arange(ROWS) % classes


def _fitted(model, folder, classes=2):
    frame, target = _frame(classes)
    candidate = Candidate(model, "cross_entropy")
    encoder = TableEncoder(candidate.family.encoding)
    criterion = Criterion("auroc" if classes == 2 else "ovo_auroc")
    estimator = candidate.estimator(criterion, 0).fit(encoder.fit_transform(frame), target)
    labels = tuple(f"kind {k}" for k in range(classes))
    FittedModel(candidate, encoder, estimator, "y", labels, "AUROC").save(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {model: _fitted(model, tmp_path_factory.mktemp(model) / "model") for model in MODELS}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "new.csv"
    _frame()[0].to_csv(path, index=False)
    return path


def _outcome(model, table, output):
    """The scores, or the sentence; anything else is raised."""
    try:
        found = pd.read_csv(predict_table(model, table, output=output / "out"))
    except InputError as error:
        said = str(error)
    else:
        said = None
    if said is not None:
        assert "\n" not in said
        assert not (output / "out").exists()
        return said
    shutil.rmtree(output / "out")
    assert np.isfinite(found["probability"]).all()
    return None


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "cut": lambda content: content[:-1],
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
    "zeros": lambda content: bytes(len(content)),
    "list": lambda content: b"[]",
    "number": lambda content: b"7",
    "null": lambda content: b"null",
    "other": lambda content: b'{"format": 2, "classes": 5}',
    "nested": lambda content: b"[" * 100_000,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_every_damaged_file_is_one_sentence(model, damage, folders, table, tmp_path):
    files = [path.relative_to(folders[model]) for path in folders[model].rglob("*") if path.is_file()]
    assert len(files) == 6
    for listed in (True, False):
        for name in files:
            if name.name == MANIFEST and not listed:
                continue
            copy = tmp_path / "model"
            shutil.copytree(folders[model], copy)
            if damage == "missing":
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(DAMAGES[damage]((copy / name).read_bytes()))
            if not listed:  # a list that agrees with the damage, as of a folder that was packed when it was damaged
                write_manifest(copy)
            said = _outcome(copy, table, tmp_path)
            # The last line of LightGBM's text, and of JSON written with one, holds nothing.
            if listed or not (damage == "cut" and name.suffix in (".txt", ".json")):
                assert said, (name, listed)
            shutil.rmtree(copy)


@pytest.mark.parametrize("model", MODELS)
def test_a_changed_byte_is_noticed(model, folders, table, tmp_path):
    random = np.random.default_rng(0)
    files = [path.relative_to(folders[model]) for path in folders[model].rglob("*") if path.is_file()]
    for name in files:
        for _ in range(3):
            copy = tmp_path / "model"
            shutil.copytree(folders[model], copy)
            content = bytearray((copy / name).read_bytes())
            content[random.integers(len(content))] ^= 1 << random.integers(8)
            (copy / name).write_bytes(content)
            said = _outcome(copy, table, tmp_path)
            if name.name != MANIFEST:
                assert re.search("damaged|format", said)
            shutil.rmtree(copy)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_sound_folder_scores_as_its_model_and_without_its_list_not_at_all(model, classes, tmp_path):
    folder = _fitted(model, tmp_path / "model", classes)
    frame, _ = _frame(classes)
    first, second = FittedModel.load(folder), FittedModel.load(folder)
    one, two = (m.estimator.predict_proba(m.encoder.transform(frame)) for m in (first, second))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (ROWS, classes)
    (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"manifest\.json is missing; copy the folder again"):
        FittedModel.load(folder)


def _edit(path, *steps):
    """Set a value deep in a JSON file: keys and positions, then the value."""
    *keys, last, value = steps
    tree = at = json.loads(path.read_text())
    for key in keys:
        at = at[key]
    at[last] = value
    path.write_text(json.dumps(tree))


_XGBOOST_TREE = ("learner", "gradient_booster", "model", "trees", 0)


@pytest.mark.parametrize(
    ("model", "file", "steps"),
    [
        ("linear", "model.json", ["format", 1]),
        ("linear", "model.json", ["format", 3]),
        ("linear", "model.json", ["classes", ["one"]]),
        ("linear", "model.json", ["classes", 2]),
        ("linear", "model.json", ["model", "forest"]),
        ("linear", "model.json", ["model", ["linear"]]),
        ("linear", "model.json", ["objective", 3]),
        ("linear", "estimator/settings.json", ["calibration", ["a", [0]]]),
        ("linear", "estimator/settings.json", ["calibration", [float("nan"), [0]]]),
        ("linear", "estimator/settings.json", ["features", "many"]),
        ("linear", "estimator/settings.json", ["features", 10**15]),
        ("linear", "estimator/settings.json", ["parameters", {"seed": 1}]),
        ("linear", "estimator/settings.json", ["classes", [0, 1, 2]]),
        ("linear", "encoder.json", ["state", {}]),
        ("linear", "encoder.json", ["object", "skrub._to_str.ToStr"]),
        ("xgboost", "estimator/booster.json", [*_XGBOOST_TREE, "left_children", 0, 10**6]),
        ("xgboost", "estimator/booster.json", [*_XGBOOST_TREE, "left_children", 0, 0]),
        ("xgboost", "estimator/booster.json", [*_XGBOOST_TREE, "split_indices", 0, 10**6]),
        ("xgboost", "estimator/booster.json", [*_XGBOOST_TREE, "split_conditions", []]),
        ("xgboost", "estimator/booster.json", ["learner", "gradient_booster", "model", "tree_info", 0, 7]),
        ("xgboost", "estimator/booster.json", ["learner", "gradient_booster", "name", "gblinear"]),
    ],
)
def test_nonsense_that_its_list_agrees_with_is_one_sentence(model, file, steps, folders, table, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folders[model], copy)
    _edit(copy / file, *steps)
    write_manifest(copy)
    assert _outcome(copy, table, tmp_path)


@pytest.mark.parametrize(
    ("line", "edited"),
    [
        ("left_child=", "left_child=900000 "),
        ("left_child=", "left_child=0 "),
        ("right_child=", "right_child=-900000 "),
        ("split_feature=", "split_feature=77777 "),
        ("leaf_value=", "leaf_value=nan "),
        ("num_leaves=", "num_leaves=9"),
        ("num_cat=0", "num_cat=3"),
        ("is_linear=0", "is_linear=1"),
        ("max_feature_idx=", "max_feature_idx=9"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=5"),
        ("num_class=1", "num_class=9"),
        ("tree_sizes=", "tree_sizes=9"),
        ("threshold=", "threshold=x "),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
def test_a_nonsense_lightgbm_booster_never_reaches_the_library(line, edited, sized, folders, table, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folders["lightgbm"], copy)
    path = copy / "estimator" / "booster.txt"
    text = path.read_text()
    assert line in text
    first = text.split("\ntree_sizes=")[1].split()[0]
    text = text.replace(line, edited, 1)
    if sized and "tree_sizes" not in edited:  # the sizes agree with the text, as a careful forger would have it
        tree = text[text.index("Tree=0") :].split("Tree=1\n")[0]
        text = text.replace(f"tree_sizes={first}", f"tree_sizes={len(tree)}", 1)
    path.write_text(text)
    write_manifest(copy)
    assert "booster" in _outcome(copy, table, tmp_path) or "estimator" in _outcome(copy, table, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, folders, table, tmp_path):
    from safetensors.numpy import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(folders["linear"], copy)
    path = copy / "estimator" / "network.safetensors"
    weights = load_file(path)
    next(w for name, w in weights.items() if w.ndim == 2 and "weight" in name)[0, 0] = value
    save_file(weights, path)
    write_manifest(copy)
    assert "not finite" in _outcome(copy, table, tmp_path)


def _node(kind, loader, content, module="builtins"):
    return {"__class__": kind, "__module__": module, "__loader__": loader, "content": content}


def _text(value):
    return {**_node("str", "JsonNode", json.dumps(value)), "is_json": True}


def _dict(**items):
    keys = _node("list", "ListNode", [_node("str", "TypeNode", None) for _ in items])
    return {**_node("dict", "DictNode", items), "key_types": keys}


def _skops_attack(ran):
    """An encoder whose `transform` is a call of `subprocess.run`, by what modules of skrub re-export."""
    module = _node("subprocess", "FunctionNode", None, "skrub._data_ops._caching")
    run = _node("subprocess", "MethodNode", {"func": "run", "obj": module}, "skrub._data_ops._caching")
    command = _node("tuple", "TupleNode", [_text(f"touch {ran}"), _text(1), _text(None)])
    call = {
        **_node("partial", "PartialNode", None, "skrub._data_ops._estimator"),
        "content": {"func": run, "args": command, "kwds": _dict(shell=_text(True)), "namespace": _text(None)},
    }
    state = _dict(kind=_text("neural"), seed=_text(0), transform=call)
    return {**_node("TableEncoder", "ObjectNode", state, "equipoise.data.tables.encoding"), "protocol": 2}


def test_a_tampered_folder_of_the_first_format_runs_nothing(folders, table, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folders["linear"], copy)
    with zipfile.ZipFile(copy / "encoder.skops", "w") as file:
        file.writestr("schema.json", json.dumps(_skops_attack(tmp_path / "ran")))
    _edit(copy / "model.json", "format", 1)
    (copy / MANIFEST).unlink()
    with pytest.raises(InputError, match="format 1"):
        predict_table(copy, table, output=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_tampered_encoder_runs_nothing(folders, table, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folders["linear"], copy)
    state = {"func": "run", "args": {"tuple": [f"touch {tmp_path / 'ran'}"]}}
    call = {"object": "skrub._data_ops._caching.subprocess", "state": state}
    _edit(copy / "encoder.json", "state", "transform", call)
    write_manifest(copy)
    with pytest.raises(InputError, match="class that no encoder has"):
        predict_table(copy, table, output=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_the_command_says_so_and_ends_with_2(folders, table, tmp_path, capsys):
    copy = tmp_path / "model"
    shutil.copytree(folders["lightgbm"], copy)
    (copy / "estimator" / "booster.txt").write_bytes(b"tree\n")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(copy), str(table), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "changed or damaged" in said


def test_a_list_of_files_leads_nowhere_else(folders, table, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folders["linear"], copy)
    for name in ("../../secret", "/dev/zero"):
        _edit(copy / MANIFEST, "sha256", {name: "0"})
        assert "manifest.json is damaged" in _outcome(copy, table, tmp_path)


def test_a_table_of_other_types_is_one_sentence(tmp_path):
    frame, target = _frame()
    frame["span"] = pd.to_timedelta(np.arange(ROWS) % 9, unit="h")
    encoder = TableEncoder("tree")
    candidate = Candidate("lightgbm", "cross_entropy")
    estimator = candidate.estimator(Criterion("auroc"), 0).fit(encoder.fit_transform(frame), target)
    FittedModel(candidate, encoder, estimator, "y", (0, 1), "AUROC").save(tmp_path / "model")
    frame.assign(span="soon").to_csv(tmp_path / "new.csv", index=False)
    assert "'span'" in _outcome(tmp_path / "model", tmp_path / "new.csv", tmp_path)
