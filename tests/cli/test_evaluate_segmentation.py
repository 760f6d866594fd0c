"""`equipoise evaluate --segmentation` as a user meets it."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from equipoise.cli.main import main
from equipoise.dense import segmentation_scores

_NAMES = ["road", "<b>pole</b>", "=sky", "never"]


@pytest.fixture
def folders(tmp_path):
    """Predictions and truths of six images; PNG, a palette and NumPy arrays."""
    generator = np.random.default_rng(0)
    for name in ("pred", "true"):
        (tmp_path / name).mkdir()
    for k in range(6):
        truth = generator.choice([0, 1, 2, 255], p=[0.6, 0.1, 0.2, 0.1], size=(12, 9)).astype(np.uint8)
        pred = np.where(generator.random(truth.shape) < 0.15 * (k + 1), 0, truth)
        pred[truth == 255] = k % 3
        Image.fromarray(truth).save(tmp_path / "true" / f"scene_{k}.png")
        if k == 0:
            np.save(tmp_path / "pred" / "scene_0.npy", pred)
        else:
            picture = Image.fromarray(pred.astype(np.uint8))
            picture.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
            picture.save(tmp_path / "pred" / f"scene_{k}.png")
    return tmp_path


def _arguments(folder, *options):
    given = ["--segmentation", str(folder / "pred"), str(folder / "true"), "--output", str(folder / "out")]
    few = [] if "--resamples" in options else ["--resamples", "50"]
    return ["evaluate", *given, *few, *options]


def _maps(folder):
    found = []
    for name in ("pred", "true"):
        files = sorted((folder / name).iterdir(), key=lambda path: path.stem)
        arrays = [np.load(f) if f.suffix == ".npy" else np.asarray(Image.open(f)) for f in files]
        found.append(torch.from_numpy(np.stack(arrays).astype(np.int64)))
    return found


def test_numbers_tables_and_the_page_are_those_of_the_label_maps(folders, capsys):
    main(_arguments(folders, "--classes", *_NAMES, "--tail", "<b>pole</b>", "never", "--worst", "2"))
    out = folders / "out"
    summary = json.loads((out / "metrics.json").read_text())
    wanted = segmentation_scores(*_maps(folders), 4, groups={"tail": [1, 3]})
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "miou/tail"):
        found = summary["measures"][name]
        assert found["estimate"] == pytest.approx(float(wanted[name]))
        assert found["low"] <= found["estimate"] <= found["high"]
    assert summary["measures"]["kappa"] == pytest.approx(float(wanted["kappa"]))
    assert summary["groups"]["tail"] == ["<b>pole</b>", "never"]
    rows = list(csv.DictReader((out / "classes.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["road", "<b>pole</b>", "'=sky", "never"]
    assert [float(row["iou"] or "nan") for row in rows] == pytest.approx(wanted["iou"].tolist(), nan_ok=True)
    assert rows[1]["mostly_taken_for"] == "road"
    assert [row["iou"] for row in rows][3] == ""
    images = list(csv.DictReader((out / "images.csv").read_text().splitlines()))
    accuracy = [float(row["pixel_accuracy"]) for row in images]
    assert [row["image"] for row in images] == [f"scene_{k}" for k in range(6)]
    assert accuracy[0] > accuracy[5]
    matrix = np.array(
        [row[1:] for row in list(csv.reader((out / "confusion.csv").read_text().splitlines()))[1:]], dtype=int
    )
    assert matrix.sum() == int((_maps(folders)[1] != 255).sum())
    page = (out / "report.html").read_text()
    assert "<b>pole</b>" not in page
    assert page.count("data:image/png") == 2
    worst = sorted(images, key=lambda row: float(row["miou_of_its_classes"]))[:2]
    assert all(f"{row['image']}: mIoU" in page for row in worst)
    assert "mIoU of the tail" in capsys.readouterr().out


def test_classes_come_from_a_file_or_from_the_labels(folders):
    (folders / "names.txt").write_text("road\npole\n\nsky\n", encoding="utf-8")
    main(_arguments(folders, "--classes", str(folders / "names.txt")))
    summary = json.loads((folders / "out" / "metrics.json").read_text())
    assert list(summary["classes"]) == ["road", "pole", "sky"]
    main(_arguments(folders, "--overwrite"))
    summary = json.loads((folders / "out" / "metrics.json").read_text())
    assert list(summary["classes"]) == ["class 0", "class 1", "class 2"]
    assert summary["groups"]["tail"] == ["class 1"]


def test_one_image_has_no_interval(folders):
    for name in ("pred", "true"):
        for path in (folders / name).iterdir():
            if path.stem != "scene_3":
                path.unlink()
    main(_arguments(folders))
    found = json.loads((folders / "out" / "metrics.json").read_text())["measures"]["miou"]
    assert found["estimate"] > 0
    assert found["low"] is found["high"] is None


def _masks(folder, ones):
    """Masks of one class, written with other numbers in each of the two folders."""
    generator = np.random.default_rng(1)
    for name in ("pred", "true"):
        for path in (folder / name).iterdir():
            path.unlink()
        for k in range(4):
            mask = generator.random((12, 9)) < (0.3 if name == "true" else 0.4)
            Image.fromarray(np.where(mask, ones[name], 0).astype(np.uint8)).save(folder / name / f"scene_{k}.png")


@pytest.mark.parametrize(
    "options", [(), ("--ignore-index", "-1"), ("--classes", "back", "front"), ("--ignore-index", "254")]
)
def test_masks_of_black_and_white_are_two_classes(folders, options):
    _masks(folders, {"pred": 1, "true": 1})
    main(_arguments(folders))
    wanted = json.loads((folders / "out" / "metrics.json").read_text())
    _masks(folders, {"pred": 255, "true": 255})
    main(_arguments(folders, "--overwrite", *options))
    found = json.loads((folders / "out" / "metrics.json").read_text())
    assert found["measures"] == wanted["measures"]
    assert len(found["classes"]) == 2
    front = "front" if "front" in options else "class 1"
    assert found["notes"][-1] == f"The label maps hold 0 and 255 alone: 255 is {front}, and no pixel is ignored for it."
    assert found["notes"][:-1] == wanted["notes"]


def test_masks_of_which_nothing_is_found_are_no_perfect_score(folders):
    _masks(folders, {"pred": 0, "true": 255})
    main(_arguments(folders))
    found = json.loads((folders / "out" / "metrics.json").read_text())
    assert found["classes"]["class 1"]["iou"]["estimate"] == 0


def test_black_and_white_beside_three_names_stays_class_0_and_ignored(folders, capsys):
    _masks(folders, {"pred": 0, "true": 255})
    main(_arguments(folders, "--classes", *_NAMES))
    assert json.loads((folders / "out" / "metrics.json").read_text())["measures"]["pixel_accuracy"]["estimate"] == 1.0


@pytest.mark.parametrize(
    ("ones", "options", "words"),
    [
        ({"pred": 255, "true": 1}, (), "the predictions hold 0 and 255, the others 0 and 1; write the masks"),
        ({"pred": 1, "true": 255}, (), "the true label maps hold 0 and 255, the others 0 and 1; write the masks"),
        ({"pred": 1, "true": 255}, ("--ignore-index", "-1"), "the true label maps hold 0 and 255, the others 0 and 1"),
    ],
)
def test_masks_that_are_written_in_two_ways_are_refused(folders, capsys, ones, options, words):
    _masks(folders, ones)
    with pytest.raises(SystemExit) as stop:
        main(_arguments(folders, *options))
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def _without(folder):
    (folder / "pred" / "scene_2.png").unlink()


def _coloured(folder):
    Image.new("RGB", (9, 12)).save(folder / "pred" / "scene_2.png")


def _resized(folder):
    Image.new("L", (10, 12)).save(folder / "pred" / "scene_2.png")


def _ignored(folder):
    for path in (folder / "true").iterdir():
        Image.new("L", (9, 12), 255).save(path)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (_without, (), "1 of 6 true label maps have no prediction of the same stem, the first 'scene_2'"),
        (_coloured, (), "save class indices, not colours"),
        (_resized, (), "has 10 × 12 pixels, and its truth 9 × 12"),
        (_ignored, ("--classes", "a", "b"), "has the ignored label 255"),
        (None, ("--classes", "a", "b"), "wanted classes from 0 to 1"),
        (None, ("--classes", "a", "a"), "each once"),
        (None, ("--tail", "moon"), "--tail names 'moon'"),
        (None, ("--ignore-index", "9", "--classes", *_NAMES), "scene_0: target holds the label 255"),
        (None, ("--resamples", "0"), "resamples=0"),
        (None, ("--worst", "-1"), "worst=-1"),
        (None, ("--max-fpr", "0.1"), "--max-fpr has no meaning with --segmentation"),
        (None, ("--open",), "neither a file of scores nor --open"),
    ],
)
def test_bad_requests_are_one_sentence(change, options, words, folders, capsys):
    if change is not None:
        change(folders)
    with pytest.raises(SystemExit) as stop:
        main(_arguments(folders, *options))
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (folders / "out").exists()


def test_options_of_label_maps_are_refused_beside_a_file_of_scores(tmp_path, capsys):
    (tmp_path / "s.csv").write_text("y,s\n0,1\n1,2\n")
    command = ["evaluate", str(tmp_path / "s.csv"), "--output", str(tmp_path / "out")]
    for options, words in (
        (("--target", "y", "--score", "s", "--worst", "3"), "--worst needs --saliency or --segmentation"),
        (("--target", "y"), "--score is missing"),
        (("--score", "s"), "--target is missing"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *options])
        assert words in capsys.readouterr().err
