"""Folders of maps and masks judged as a user has them."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from equipoise.dense import SaliencyReport
from equipoise.dense.saliency.judging import Judging
from equipoise.workflows import InputError, SaliencyRequest, evaluate_saliency
from equipoise.workflows.saliency.judging import judge_pairs
from equipoise.workflows.saliency.reading import match_files, read_map, read_mask


def make_folders(folder, n=6):
    """Maps of bytes and masks of 0 and 255 in two folders; gives their pixels."""
    generator = np.random.default_rng(0)
    (folder / "maps").mkdir()
    (folder / "masks").mkdir()
    pixels = []
    for k in range(n):
        mask = np.zeros((20, 24), bool)
        mask[1:9, 2:12], mask[14:17, 18:22] = True, True
        mask[1, 2], mask[14, 18] = False, False
        pred = np.round(255 * np.clip(0.6 * mask + 0.4 * generator.random(mask.shape), 0, 1)).astype(np.uint8)
        Image.fromarray(pred).save(folder / "maps" / f"picture {k}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(folder / "masks" / f"picture {k}.png")
        pixels.append((pred, mask))
    return pixels


def judged(folder, **options):
    told = []
    request = SaliencyRequest(output=folder / "out", **options)
    outcome = evaluate_saliency(folder / "maps", folder / "masks", request, notice=told.append, progress=lambda _: None)
    return outcome, told


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_numbers_are_those_of_the_report(tmp_path):
    pixels = make_folders(tmp_path)
    outcome, told = judged(tmp_path)
    report = SaliencyReport()
    report.update([torch.from_numpy(p / 255) for p, _ in pixels], [torch.from_numpy(m) for _, m in pixels])
    wanted = {name: float(value) for name, value in report.compute().items()}
    assert outcome.summary == pytest.approx(wanted, nan_ok=True)
    assert told == []
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["measures"]["si_mae"] == pytest.approx(wanted["si_mae"])
    assert written["counts"]["n_objects"] == 12
    images, objects = rows_of(tmp_path / "out" / "images.csv"), rows_of(tmp_path / "out" / "objects.csv")
    assert [row["image"] for row in images] == [f"picture {k}" for k in range(6)]
    assert [float(row["mae"]) for row in objects] == pytest.approx([row["mae"] for row in report.per_object()])
    curves = rows_of(tmp_path / "out" / "curves.csv")
    assert len(curves) == 256
    assert float(curves[100]["si_f"]) == pytest.approx(float(report.curves()["si_f"][100]))
    assert curves[0]["si_e"] == ""
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6 == len(list((tmp_path / "out" / "worst").iterdir()))
    assert "Error by the size of objects" in page
    assert not list(tmp_path.glob(".out*"))


def test_options_reach_the_measures(tmp_path):
    make_folders(tmp_path)
    outcome, _ = judged(tmp_path, min_area=20, normalize=True, pixelwise=True, worst=0)
    assert outcome.summary["n_objects"] == 6
    assert "wf" not in outcome.summary
    assert not (tmp_path / "out" / "worst").exists()
    assert "S-measure" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_odd_files_are_told_of(tmp_path):
    make_folders(tmp_path, 4)
    Image.fromarray(np.full((5, 5), 7, np.uint8)).save(tmp_path / "maps" / "lonely.png")
    (tmp_path / "masks" / "picture 0.png").rename(tmp_path / "masks" / "other.png")
    Image.open(tmp_path / "maps" / "picture 1.png").resize((12, 10)).save(tmp_path / "maps" / "picture 1.png")
    Image.fromarray(np.arange(480, dtype=np.uint8).reshape(20, 24)).save(tmp_path / "masks" / "picture 2.png")
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "masks" / "picture 3.png")
    outcome, told = judged(tmp_path)
    words = " ".join(told)
    for part in (
        "2 maps have no mask and were left out: lonely, picture 0",
        "1 mask has no map and were left out: other",
        "1 of 3 maps were of another size",
        "1 of 3 masks hold more than two values",
        "1 of 3 masks hold no object",
        "AUC is undefined on 1 of 3 images",
    ):
        assert part in words, words
    assert len(outcome.page.warnings) == len(told)


def test_masks_of_all_kinds_read_alike(tmp_path):
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:6] = True
    kinds = {
        "bytes": Image.fromarray((255 * mask).astype(np.uint8)),
        "ones": Image.fromarray(mask.astype(np.uint8)),
        "bits": Image.fromarray(mask),
        "colour": Image.fromarray(np.repeat((255 * mask).astype(np.uint8)[..., None], 3, 2)),
        "deep": Image.fromarray((65535 * mask).astype(np.uint16)),
        "grey": Image.fromarray((20 + 200 * mask).astype(np.uint8)),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        found, plain = read_mask(tmp_path / f"{name}.png")
        assert plain, name
        assert (found == mask).all(), name
    for value, wanted in ((0, False), (255, True), (1, True)):
        Image.fromarray(np.full((3, 3), value, np.uint8)).save(tmp_path / "flat.png")
        assert (read_mask(tmp_path / "flat.png")[0] == wanted).all()
    Image.fromarray(np.full((3, 3), 0.25, np.float32)).save(tmp_path / "map.tif")
    assert (read_map(tmp_path / "map.tif") == 0.25).all()
    Image.fromarray(np.full((3, 3), 32768, np.uint16)).save(tmp_path / "map.png")
    assert read_map(tmp_path / "map.png")[0, 0] == pytest.approx(0.5, abs=1e-4)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    make_folders(tmp_path, 5)
    pairs, how = match_files(tmp_path / "maps", tmp_path / "masks").pairs, Judging()
    kept, said = tmp_path / "kept", []

    class StoppedError(Exception):
        pass

    def stop(words):
        raise StoppedError

    with pytest.raises(StoppedError):
        judge_pairs(pairs, how, kept=kept, workers=1, progress=stop)
    first = judge_pairs(pairs[:3], how, kept=kept, workers=1, progress=said.append)
    both = judge_pairs(pairs, how, kept=kept, workers=1, progress=said.append)
    assert "3 of 5 were judged before" in said
    assert said[-1] == "judged 5 of 5 maps"
    np.testing.assert_array_equal(both[0].row, first[0].row)
    wanted = judge_pairs(pairs, how, kept=tmp_path / "elsewhere", workers=1, progress=lambda _: None)
    for one, other in zip(both, wanted, strict=True):
        for name in ("row", "objects", "curves"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    said.clear()
    judge_pairs(pairs, Judging(min_area=20), kept=kept, workers=1, progress=said.append)
    assert "were judged before" not in " ".join(said)
    (kept / "broken.npz").write_bytes(b"PK")
    judge_pairs(pairs, how, kept=kept, workers=1, progress=said.append)


@pytest.mark.slow
def test_processes_give_the_same(tmp_path):
    make_folders(tmp_path, 9)
    one, _ = judged(tmp_path)
    two, _ = judged(tmp_path, workers=2, overwrite=True)
    assert two.summary == one.summary


def test_what_cannot_be_done_is_said(tmp_path):
    make_folders(tmp_path, 2)
    with pytest.raises(InputError, match="worst=-1 must be at least 0"):
        judged(tmp_path, worst=-1)
    with pytest.raises(InputError, match="is no folder"):
        evaluate_saliency(tmp_path / "nowhere", tmp_path / "masks", SaliencyRequest(output=tmp_path / "out"))
    (tmp_path / "others").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        evaluate_saliency(tmp_path / "maps", tmp_path / "others", SaliencyRequest(output=tmp_path / "out"))
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "others" / "x.png")
    with pytest.raises(InputError, match="is called like one of"):
        evaluate_saliency(tmp_path / "maps", tmp_path / "others", SaliencyRequest(output=tmp_path / "out"))
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "maps" / "picture 0.bmp")
    with pytest.raises(InputError, match="holds both"):
        judged(tmp_path)
    (tmp_path / "maps" / "picture 0.bmp").unlink()
    (tmp_path / "maps" / "picture 1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"picture 1\.png cannot be read as an image"):
        judged(tmp_path)
    Image.fromarray(np.full((20, 24), 3.0, np.float32)).save(tmp_path / "maps" / "picture 1.tif")
    (tmp_path / "maps" / "picture 1.png").unlink()
    with pytest.raises(InputError, match="outside of"):
        judged(tmp_path)
    assert not (tmp_path / "out").exists()
