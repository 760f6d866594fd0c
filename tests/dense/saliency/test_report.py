import io
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.dense import SaliencyReport, saliency_metrics, structural_saliency_metrics

# SOD with the maps of two published models: masks, pred_picanet and pred_dss as packed images.
_SOD = Path(os.environ.get("EQUIPOISE_SOD", "sod_bsd300.npz"))


def world(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, 14, 16, dtype=torch.long)
    for k in range(n):
        masks[k, 1 : 6 + k % 2, 1:7], masks[k, 9:12, 10:14] = 1, 1
        masks[k, 1, 1], masks[k, 9, 10] = 0, 0
    noise = torch.rand(masks.shape, generator=generator, dtype=torch.float64)
    return 0.3 * masks + 0.7 * noise, masks


def test_scalars_are_means_over_images_and_curves_come_first():
    pred, gt = world()
    report = SaliencyReport()
    report.update(pred[:2], gt[:2])
    report.update(pred[2:, None], gt[2:, None])
    found = {name: float(value) for name, value in report.compute().items()}
    rows = [saliency_metrics(p, g) | structural_saliency_metrics(p, g) for p, g in zip(pred, gt, strict=True)]
    for name in (
        "mae",
        "si_mae",
        "mse",
        "auc",
        "si_auc",
        "f_adaptive",
        "s_measure",
        "si_s_measure",
        "wf",
        "si_e_adaptive",
    ):
        assert found[name] == pytest.approx(np.mean([row[name] for row in rows])), name
    assert found["f_max_per_image"] == pytest.approx(np.mean([row["f_max"] for row in rows]))
    assert found["f_mean"] == pytest.approx(np.mean([row["f_mean"] for row in rows]))
    curves = report.curves()
    for curve in ("f", "si_f", "e"):
        assert found[f"{curve}_max"] == pytest.approx(float(curves[curve].max()))
        assert found[f"{curve}_max"] <= found[f"{curve}_max_per_image"] + 1e-12
    assert math.isnan(curves["si_e"][0])
    assert found["si_e_max"] == pytest.approx(float(curves["si_e"][1:].max()))
    assert (found["n_images"], found["n_objects"], found["n_empty"]) == (5, 10, 0)


def test_rows_of_images_and_objects_are_those_of_the_functions():
    pred, gt = world(3)
    report = SaliencyReport(min_area=3)
    report.update(list(pred), list(gt))
    rows, objects = report.per_image(), report.per_object()
    assert [row["mae"] for row in rows] == pytest.approx(
        [saliency_metrics(p, g)["mae"] for p, g in zip(pred, gt, strict=True)]
    )
    assert [row["image"] for row in objects] == [0, 0, 1, 1, 2, 2]
    for row in objects:
        crop = slice(int(row["top"]), int(row["bottom"])), slice(int(row["left"]), int(row["right"]))
        p, g = pred[row["image"]][crop], gt[row["image"]][crop]
        assert row["area"] == int(g.sum())
        assert row["mae"] == pytest.approx(float((p - g).abs().mean()))
        assert row["auc"] == pytest.approx(saliency_metrics(p, g)["auc"])
    assert "| MAE |" in report.to_markdown()


def test_maps_of_another_size_are_resized_and_counted():
    pred, gt = world(2)
    small = torch.nn.functional.interpolate(pred[:, None], size=(7, 8), mode="bilinear")[:, 0]
    report = SaliencyReport(structural=False)
    report.update([small[0], pred[1]], [gt[0], gt[1]])
    back = torch.nn.functional.interpolate(small[:1, None], size=(14, 16), mode="bilinear")[0, 0]
    found = report.compute()
    assert int(found["n_resized"]) == 1
    assert [row["resized"] for row in report.per_image()] == [1.0, 0.0]
    assert report.per_image()[0]["mae"] == pytest.approx(float((back - gt[0]).abs().mean()))


def test_images_without_an_area_are_counted_apart():
    pred, gt = world(3)
    gt[1], gt[2] = 0, 1
    report = SaliencyReport()
    report.update(pred, gt)
    with pytest.warns(UserWarning, match="AUC is undefined on 2 of 3 images"):
        found = report.compute()
    assert (int(found["n_undefined_auc"]), int(found["n_empty"])) == (2, 1)
    assert float(found["auc"]) == pytest.approx(saliency_metrics(pred[0], gt[0])["auc"])
    assert report.per_image()[1]["f_max"] == report.per_image()[1]["wf"] == 0.0


def test_only_empty_masks_have_the_curve_of_the_image():
    pred, gt = world(2)
    report = SaliencyReport()
    report.update(pred, torch.zeros_like(gt))
    with pytest.warns(UserWarning, match="AUC is undefined"):
        found = report.compute()
    assert float(found["si_e_mean"]) == pytest.approx(float(found["e_mean"]))
    assert not report.curves()["si_e"].isnan().any()
    assert report.per_object() == []


def test_as_many_maps_as_masks_are_wanted(plain_inputs):
    pred, gt = world(2)
    with pytest.raises(ValueError, match="pred holds 2 maps and gt 1 masks"):
        SaliencyReport().update(list(pred), list(gt[:1]))
    with pytest.raises(ValueError, match=r"pred\[1\] must lie in"):
        SaliencyReport().update([pred[0], 3 * pred[1]], list(gt))


@pytest.mark.slow
@pytest.mark.skipif(not _SOD.exists(), reason="EQUIPOISE_SOD names no file with SOD and its maps")
@pytest.mark.parametrize(("model", "mae", "auc", "f_mean_of_best"), [("picanet", 0.1025, 0.9335, 0.801)])
def test_on_real_maps_the_measures_are_the_known_ones(model, mae, auc, f_mean_of_best):
    image = pytest.importorskip("PIL.Image")
    with np.load(_SOD, allow_pickle=False) as file:
        packed = {name: (file[name], file[f"{name}_offsets"]) for name in ("masks", f"pred_{model}")}

    def read(name, k):
        data, ends = packed[name]
        return np.asarray(image.open(io.BytesIO(data[ends[k] : ends[k + 1]].tobytes())))

    report = SaliencyReport(min_area=50, structural=False)
    for k in range(300):
        pred = torch.from_numpy(read(f"pred_{model}", k)[..., 0] / 255)
        report.update([pred], [torch.from_numpy(read("masks", k).astype(bool))])
    found = report.compute()
    assert float(found["mae"]) == pytest.approx(mae, abs=5e-5)
    assert float(found["auc"]) == pytest.approx(auc, abs=5e-5)
    assert float(found["f_max"]) == pytest.approx(f_mean_of_best, abs=5e-4)
    assert float(found["si_mae"]) > float(found["mae"])
    assert int(found["n_images"]) == 300
