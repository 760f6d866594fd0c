"""Row groups of Parquet files counted into sketches: the same answer whoever does it, and bounds that hold it."""

import multiprocessing
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from equipoise.core.curves.roc import RocCurve
from equipoise.core.curves.sketch import CurveSketch
from equipoise.workflows.errors import InputError
from equipoise.workflows.scores import streaming
from equipoise.workflows.scores.evaluate import evaluate_scores
from equipoise.workflows.scores.requests import EvaluateRequest
from equipoise.workflows.scores.streaming import find_parts, run_task, stream_scores

ROWS = 60_000


def _data(rows=ROWS, seed=0):
    generator = np.random.default_rng(seed)
    target = (generator.random(rows) < 0.1).astype(np.int8)
    return pd.DataFrame({"y": target, "s": generator.normal(size=rows) + target, "noise": generator.normal(size=rows)})


def _write(frame, path, group=7000):
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def frame():
    return _data()


@pytest.fixture(scope="module")
def file(frame, tmp_path_factory):
    return _write(frame, tmp_path_factory.mktemp("stream") / "scores.parquet")


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr(streaming, "_TASK_ROWS", 15_000)
    monkeypatch.setattr(streaming, "_COUNT_ROWS", 9_000)
    monkeypatch.setattr(streaming, "_READ_ROWS", 4_000)


def _exact(frame, score="s", positive=1):
    return RocCurve.from_scores(
        torch.tensor(frame[score].to_numpy(dtype=np.float64)), torch.tensor((frame["y"] == positive).to_numpy())
    )


def _states(counted):
    return {name: sketch.state_dict() for name, sketch in counted.sketches.items()}


def _same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(part, second[name][key]) for name, state in first.items() for key, part in state.items()
    )


@pytest.mark.usefixtures("small_tasks")
def test_bounds_from_a_file_hold_the_exact_values(file, frame):
    counted = stream_scores(find_parts(file), target="y", score=["s", "noise"])
    assert counted.labels == {0: int((frame["y"] == 0).sum()), 1: int(frame["y"].sum())}
    assert (counted.positive, counted.files, counted.groups) == (1, 1, 9)
    for name, sketch in counted.sketches.items():
        curve = _exact(frame, name)
        assert (sketch.n_pos, sketch.n_neg) == (curve.n_pos, curve.n_neg)
        for metric, exact, region in (
            ("auroc", curve.auroc(), {}),
            ("opauc", curve.partial_area(0.05), {"max_fpr": 0.05}),
            ("ap", curve.average_precision(), {}),
        ):
            found = sketch.compute(metric, **region)
            assert found.lower <= float(exact) <= found.upper
            assert found.width < 1e-4


@pytest.mark.usefixtures("small_tasks")
def test_one_thread_and_several_come_to_the_same_state(file):
    one, several = (stream_scores(find_parts(file), target="y", score=["s"], workers=n) for n in (1, 4))
    assert _same(_states(one), _states(several))


@pytest.mark.usefixtures("small_tasks")
def test_processes_come_to_the_same_state(file):
    (part,) = find_parts(file)
    tasks = [
        streaming.Task(part.path, groups, "y", 1, ("s",))
        for groups in streaming._neighbours(part, streaming._TASK_ROWS)
    ]
    whole = CurveSketch()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for states in pool.map(run_task, tasks):
            piece = CurveSketch()
            piece.load_state_dict(states["s"])
            whole.merge(piece)
    assert _same({"s": whole.state_dict()}, _states(stream_scores(find_parts(file), target="y", score=["s"])))


@pytest.mark.usefixtures("small_tasks")
def test_ray_comes_to_the_same_state_and_the_same_complaint(file, frame, tmp_path):
    ray = pytest.importorskip("ray")
    bad = frame[:1000].copy()
    bad.loc[700, "s"] = np.nan
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        here, there = (stream_scores(find_parts(file), target="y", score=["s"], ray=by_ray) for by_ray in (False, True))
        with pytest.raises(InputError, match=r"^column 's' holds 1 missing or infinite scores in row group 1 of"):
            stream_scores(find_parts(_write(bad, tmp_path / "f.parquet", 500)), target="y", score=["s"], ray=True)
    finally:
        ray.shutdown()
    assert _same(_states(here), _states(there))


def test_without_ray_it_is_said_how_to_get_it(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"equipoise\[ray\]"):
        stream_scores(find_parts(file), target="y", score=["s"], ray=True)


def test_a_folder_and_a_pattern_are_read_like_one_file(frame, tmp_path):
    (tmp_path / "parts" / "day=1").mkdir(parents=True)
    _write(frame[:20_000], tmp_path / "parts" / "a.parquet")
    _write(frame[20_000:], tmp_path / "parts" / "day=1" / "b.parquet")
    (tmp_path / "parts" / "_SUCCESS.parquet").touch()
    (tmp_path / "parts" / "readme.txt").touch()
    folder, pattern = find_parts(tmp_path / "parts"), find_parts(tmp_path / "parts" / "**" / "[ab].parquet")
    assert folder == pattern
    assert sum(sum(part.rows) for part in folder) == ROWS
    counted = stream_scores(folder, target="y", score=["s"])
    found, exact = counted.sketches["s"].compute("auroc"), float(_exact(frame).auroc())
    assert found.lower <= exact <= found.upper
    assert (counted.files, counted.groups) == (2, 9)


@pytest.mark.parametrize(
    ("labels", "positive", "chosen"),
    [
        (["no", "yes"], None, "yes"),
        (["no", "yes"], "no", "no"),
        ([0, 1], "0", 0),
        ([False, True], None, True),
        ([0.0, 1.0], None, 1.0),
        ([2, 7], None, 7),
    ],
)
@pytest.mark.parametrize("categorical", [False, True])
def test_labels_of_every_kind_are_read_as_in_memory(labels, positive, chosen, categorical, tmp_path):
    frame = _data(3000)
    frame["y"] = np.array(labels)[frame["y"].to_numpy()]
    if categorical:
        frame["y"] = frame["y"].astype("category")
    path = _write(frame, tmp_path / "f.parquet", 500)
    counted = stream_scores(find_parts(path), target="y", score=["s"], positive=positive)
    assert counted.positive == chosen
    assert list(counted.labels)[-1] == chosen
    assert counted.sketches["s"].compute("auroc").value == float(_exact(frame, positive=chosen).auroc())


def test_one_class_of_three_is_held_against_the_rest_when_it_is_named(tmp_path):
    frame = _data(3000)
    frame["y"] = np.random.default_rng(0).choice(["a", "b", "c"], 3000)
    parts = find_parts(_write(frame, tmp_path / "f.parquet"))
    assert stream_scores(parts, target="y", score=["s"], positive="b").sketches["s"].n_pos == (frame["y"] == "b").sum()
    with pytest.raises(InputError, match="3 classes"):
        stream_scores(parts, target="y", score=["s"])


@pytest.mark.parametrize(
    "kind", [np.float32, np.float16, np.int32, np.uint8, bool, lambda s: [Decimal(str(round(x, 2))) for x in s]]
)
def test_scores_of_every_kind_are_counted_exactly(kind, tmp_path):
    frame = _data(2000)
    frame["s"] = (10 * frame["s"].clip(0, 5)).astype(kind) if isinstance(kind, type) else kind(frame["s"])
    counted = stream_scores(find_parts(_write(frame, tmp_path / "f.parquet")), target="y", score=["s"])
    assert counted.sketches["s"].compute("auroc").value == float(_exact(frame).auroc())


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        ({"s": (1500, np.nan)}, {}, "column 's' holds 1 missing or infinite scores in row group 3 of"),
        ({"s": (1500, np.inf)}, {}, "row group 3"),
        ({"y": (1500, None)}, {}, "target column 'y' has no value in 1 rows of row group 3"),
        ({"y": (1500, 2)}, {}, "3 classes"),
        ({"y": (slice(None), 1)}, {}, "one value only"),
        ({}, {"score": ["z"]}, "no column 'z'"),
        ({}, {"target": "x"}, "no column 'x'"),
        ({}, {"score": ["name"]}, "no numbers"),
        ({}, {"target": "s"}, "different values"),
        ({}, {"positive": "maybe"}, "maybe"),
        ({}, {"workers": 0}, "workers=0"),
    ],
)
def test_what_a_user_has_to_mend_is_named_with_its_row_group(change, asked, message, tmp_path):
    frame = _data(3000)
    frame["name"] = "n"
    frame["y"] = frame["y"].astype(object)
    for column, (row, value) in change.items():
        frame.loc[row if isinstance(row, int) else frame.index[row], column] = value
    parts = find_parts(_write(frame, tmp_path / "f.parquet", 500))
    with pytest.raises(InputError, match=message):
        stream_scores(parts, **{"target": "y", "score": ["s"], **asked})


def test_a_folder_without_parquet_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="no Parquet files"):
        find_parts(tmp_path)
    with pytest.raises(InputError, match="no Parquet files"):
        find_parts(tmp_path / "*.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        find_parts(tmp_path)
    (tmp_path / "a.csv").touch()
    assert find_parts(tmp_path / "a.csv") == find_parts(tmp_path / "none.csv") == ()


def test_a_file_without_rows_is_refused(tmp_path):
    parts = find_parts(_write(_data(10)[:0], tmp_path / "f.parquet"))
    with pytest.raises(InputError, match="no rows"):
        stream_scores(parts, target="y", score=["s"])


def test_a_streamed_evaluation_agrees_with_the_one_in_memory(file, frame, tmp_path):
    asked = {"target": "y", "score": ["s", "noise"], "resamples": 200, "max_fpr": 0.1}
    whole = evaluate_scores(file, EvaluateRequest(**asked, output=tmp_path / "whole"))
    streamed = evaluate_scores(file, EvaluateRequest(**asked, stream=True, output=tmp_path / "streamed"))
    assert not whole.certified
    assert whole.report.metric == streamed.report.metric
    assert dict(whole.report.data.classes) == dict(streamed.report.data.classes)
    for ours, theirs in zip(streamed.report.models, whole.report.models, strict=True):
        assert list(ours.metrics) == list(theirs.metrics)
        for name, exact in theirs.metrics.items():
            found, bounds = ours.metrics[name], streamed.certified[ours.name][name]
            assert bounds.lower <= exact.estimate <= bounds.upper
            assert found.low <= bounds.lower <= bounds.upper <= found.high
            # The same bootstrap, drawn with other numbers and a little wider.
            spread = exact.high - exact.low
            assert found.low == pytest.approx(exact.low, abs=0.15 * spread + 1e-4)
            assert found.high == pytest.approx(exact.high, abs=0.15 * spread + 1e-4)
    for ours, theirs in zip(streamed.report.thresholds, whole.report.thresholds, strict=True):
        for line, exact in zip(ours.rows, theirs.rows, strict=True):
            assert (line.rate, line.wanted, line.guaranteed) == (exact.rate, exact.wanted, None)
            held = frame.loc[frame["y"] == (line.rate == "tpr"), ours.name] > line.estimated.threshold
            assert held.mean() <= line.wanted if line.rate == "fpr" else held.mean() >= line.wanted
            assert line.estimated.fpr == pytest.approx(exact.estimated.fpr, abs=2e-3)
            assert line.estimated.tpr == pytest.approx(exact.estimated.tpr, abs=2e-3)
    drawn, exact = streamed.report.curves[0], whole.report.curves[0]
    assert (drawn.n_pos, drawn.n_neg) == (exact.n_pos, exact.n_neg)
    at = np.linspace(0, 1, 50)
    assert np.interp(at, *drawn.roc.T) == pytest.approx(np.interp(at, *exact.roc.T), abs=2e-3)
    assert drawn.histogram.positives.sum() == drawn.n_pos
    assert drawn.histogram.negatives.sum() == drawn.n_neg


def test_a_large_file_is_streamed_without_asking(file, tmp_path, monkeypatch):
    monkeypatch.setattr("equipoise.workflows.scores.evaluate.STREAM_ROWS", 1000)
    found = evaluate_scores(file, EvaluateRequest(target="y", score=["s"], resamples=20, output=tmp_path / "out"))
    assert found.certified


@pytest.mark.parametrize("scores", ["constant", "two", "huge"])
def test_scores_that_are_hard_to_draw_are_evaluated(scores, tmp_path):
    frame = _data(2000)
    frame["s"] = {"constant": 0.5, "two": np.arange(2000) % 2, "huge": frame["s"] * 1e307}[scores]
    path = _write(frame, tmp_path / "f.parquet")
    found = evaluate_scores(
        path, EvaluateRequest(target="y", score=["s"], resamples=20, stream=True, output=tmp_path / "out")
    )
    exact = float(_exact(frame).auroc())
    assert found.certified["s"]["AUROC"].value == exact
    assert (tmp_path / "out" / "report.html").exists()
