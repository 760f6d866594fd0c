import math
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage

from equipoise.dense import (
    SizeInvariant,
    e_measure_curve,
    object_frames,
    region_contributions,
    s_measure,
    saliency_metrics,
    structural_saliency_metrics,
    weighted_f,
)

EPS = np.finfo(np.float64).eps


def f_of(binary, g, beta2=0.3, predicted=None):
    tp = int((binary & g).sum())
    if tp == 0:
        return 0.0
    precision = tp / max(int(binary.sum()) if predicted is None else predicted, 1)
    recall = tp / int(g.sum())
    return (1 + beta2) * precision * recall / (beta2 * precision + recall)


def auc_of(p, g):
    pos, neg = p[g], p[~g]
    if not (len(pos) and len(neg)):
        return math.nan
    wins = [(a > b) + 0.5 * (a == b) for a in pos for b in neg]
    return float(np.mean(wins))


def e_of(binary, g, divisor):
    if not g.any():
        return float((~binary).sum() / divisor)
    if g.all():
        return float(binary.sum() / divisor)
    b, m = binary - binary.mean(), g - g.mean()
    align = 2 * b * m / (b**2 + m**2 + EPS)
    return float((((align + 1) ** 2) / 4).sum() / divisor)


def s_of(p, g, alpha=0.5):
    mu = g.mean()
    if mu in (0, 1):
        return float(p.mean() if mu else 1 - p.mean())

    def of_object(values):
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        return 2 * values.mean() / (values.mean() ** 2 + 1 + spread + EPS)

    objects = mu * of_object(p[g]) + (1 - mu) * of_object(1 - p[~g])
    rows, columns = np.nonzero(g)
    y, x = int(np.round(rows.mean())) + 1, int(np.round(columns.mean())) + 1
    regions = 0.0
    for block in (np.s_[:y, :x], np.s_[:y, x:], np.s_[y:, :x], np.s_[y:, x:]):
        a, b = p[block], g[block].astype(float)
        n = a.size
        if n == 0:
            continue
        mean_a, mean_b = a.mean(), b.mean()
        var_a, var_b = ((a - mean_a) ** 2).sum() / (n - 1 + EPS), ((b - mean_b) ** 2).sum() / (n - 1 + EPS)
        both = ((a - mean_a) * (b - mean_b)).sum() / (n - 1 + EPS)
        above, below = 4 * mean_a * mean_b * both, (mean_a**2 + mean_b**2) * (var_a + var_b)
        regions += n / p.size * (above / (below + EPS) if above else float(below == 0))
    return max(0.0, alpha * objects + (1 - alpha) * regions)


def wf_of(p, g, beta2=1.0):
    if not g.any():
        return 0.0
    error = np.abs(p - g)
    distance, nearest = np.zeros(g.shape), np.indices(g.shape)
    if not g.all():
        distance, nearest = ndimage.distance_transform_edt(~g, return_indices=True)
    moved = np.pad(error[nearest[0], nearest[1]], 3)
    grid = np.exp(-(np.arange(-3, 4)[:, None] ** 2 + np.arange(-3, 4)[None] ** 2) / 50)
    grid /= grid.sum()
    total, on, count = 0.0, 0.0, 0
    for y, x in np.ndindex(*g.shape):
        if g[y, x]:
            smooth = (moved[y : y + 7, x : x + 7] * grid).sum()
            on, count = on + min(error[y, x], smooth), count + 1
        else:
            total += error[y, x] * (2 - math.exp(math.log(0.5) / 5 * distance[y, x]))
    recall, true = 1 - on / count, count - on
    precision = true / (true + total + EPS)
    return (1 + beta2) * recall * precision / (recall + beta2 * precision + EPS)


def everything(p, g, levels=256, alpha=0.5):
    """All measures by the definitions, one threshold after another."""
    frames = [(np.s_[t:b, left:r]) for t, b, left, r in object_frames(torch.from_numpy(g)).tolist()]
    steps, cut = np.floor((levels - 1) * p), min(2 * p.mean(), 1.0)
    outside = np.ones(g.shape, bool)
    for frame in frames:
        outside[frame] = False
    found = {}
    for name, error in (("mae", np.abs(p - g)), ("mse", (p - g) ** 2)):
        found[name] = found[f"si_{name}"] = error.mean()
        if frames:
            a = outside.sum() / (~outside).sum()
            total = sum(error[frame].mean() for frame in frames) + (a * error[outside].mean() if a else 0)
            found[f"si_{name}"] = total / (len(frames) + a)
    whole = [f_of(steps >= t, g) for t in range(levels)]
    parts = [[f_of(steps[f] >= t, g[f], predicted=None if t else g.size) for t in range(levels)] for f in frames] or [
        whole
    ]
    found |= {"f_max": max(whole), "f_mean": np.mean(whole), "f_adaptive": f_of(p >= cut, g), "auc": auc_of(p, g)}
    curve = np.mean(parts, 0)
    found |= {"si_f_max": curve.max(), "si_f_mean": curve.mean(), "si_f_max_per_object": np.mean(np.max(parts, 1))}
    found["si_f_adaptive"] = np.mean([f_of(p[f] >= cut, g[f]) for f in frames] or [found["f_adaptive"]])
    areas = [auc_of(p[f], g[f]) for f in frames] or [found["auc"]]
    known = [each for each in areas if not math.isnan(each)]
    found["si_auc"] = np.mean(known) if known else math.nan
    one = g.size - 1 + EPS
    whole = [e_of(steps >= t, g, one) for t in range(levels)]
    parts = [[e_of(steps[f] >= t, g[f], g[f].size) for t in range(1, levels)] for f in frames] or [whole]
    curve = np.mean(parts, 0)
    found |= {"e_max": max(whole), "e_mean": np.mean(whole), "e_adaptive": e_of(p >= cut, g, one)}
    found |= {"si_e_max": curve.max(), "si_e_mean": curve.mean()}
    found["si_e_adaptive"] = np.mean([e_of(p[f] >= cut, g[f], g[f].size) for f in frames] or [found["e_adaptive"]])
    for name, measure in (("s_measure", lambda a, b: s_of(a, b, alpha)), ("wf", wf_of)):
        found[name] = measure(p, g)
        found[f"si_{name}"] = np.mean([measure(p[f], g[f]) for f in frames] or [found[name]])
    return found


def worlds():
    generator = np.random.default_rng(0)
    blobs = np.zeros((12, 14), bool)
    blobs[1:6, 1:5], blobs[2, 5], blobs[8:10, 8:13], blobs[8, 8], blobs[11, 0] = True, True, True, False, True
    masks = {
        "blobs": blobs,
        "one": np.pad(np.tri(4, dtype=bool), ((2, 6), (1, 9))),
        "scattered": generator.random((12, 14)) < 0.2,
        "pixel": np.pad(np.ones((1, 1), bool), ((0, 11), (13, 0))),
        "corner": np.pad(np.ones((3, 3), bool), ((9, 0), (11, 0))),
        "empty": np.zeros((12, 14), bool),
        "full": np.ones((12, 14), bool),
        "nested": np.pad(np.pad(np.ones((2, 2), bool), 2), 1, constant_values=True),
    }
    for name, g in masks.items():
        noise = generator.random(g.shape)
        for kind, p in {
            "noisy": np.clip(0.5 * g + 0.6 * noise, 0, 1),
            "bytes": np.round(255 * np.clip(0.4 * g + 0.7 * noise, 0, 1)) / 255,
            "binary": (noise < 0.5 + 0.3 * g).astype(float),
            "constant": np.full(g.shape, 0.375),
            "zero": np.zeros(g.shape),
            "right": g.astype(float),
        }.items():
            yield pytest.param(p, g, id=f"{name}-{kind}")


@pytest.mark.parametrize(("p", "g"), list(worlds()))
@pytest.mark.filterwarnings("ignore:AUC is undefined")
def test_every_measure_is_its_definition(p, g):
    pred, gt = torch.from_numpy(p), torch.from_numpy(g)
    wanted = everything(p, g, levels=32)
    found = saliency_metrics(pred, gt, num_levels=32)
    found |= structural_saliency_metrics(pred, gt, num_levels=32)
    assert set(found) == {*wanted, "frames"}
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name


def test_settings_are_those_of_the_definitions():
    p, g = next(worlds()).values
    pred, gt = torch.from_numpy(p), torch.from_numpy(g)
    assert s_measure(pred, gt, 0.2) == pytest.approx(s_of(p, g, 0.2))
    assert weighted_f(pred, gt, 0.3) == pytest.approx(wf_of(p, g, 0.3))
    curve = e_measure_curve(pred, gt, 16)
    assert curve.tolist() == pytest.approx([e_of(np.floor(15 * p) >= t, g, g.size - 1) for t in range(16)])
    low, high = 0.2 + 0.5 * pred, saliency_metrics(pred, gt, normalize=True)
    assert saliency_metrics(low, gt, normalize=True)["mae"] == pytest.approx(high["mae"])
    assert saliency_metrics(low, gt, min_area=3)["frames"].shape == (2, 4)


def test_a_constant_map_is_one_whatever_its_digits():
    gt = torch.zeros(20, 20, dtype=torch.long)
    gt[4:9, 5:9] = 1
    near, exact = (s_measure(torch.full((20, 20), level, dtype=torch.float64), gt) for level in (0.37, 0.375))
    assert abs(near - exact) < 0.01


def test_a_map_of_bytes_is_cut_at_its_own_values():
    p = torch.arange(256, dtype=torch.float64) / 255
    for dtype in (torch.float64, torch.float32):
        gt = torch.ones(1, 256, dtype=torch.long)
        curve = e_measure_curve((p.to(dtype))[None], gt) * 255
        torch.testing.assert_close(curve, torch.arange(256, 0, -1, dtype=torch.float64))


def test_missing_small_objects_costs_what_missing_a_part_of_the_large_one_does_not():
    mask = torch.zeros(48, 48, dtype=torch.long)
    mask[2:32, 2:32] = 1
    large = mask.clone()
    for top, left in ((38, 4), (38, 20), (10, 40)):
        mask[top : top + 4, left : left + 4] = 1
    part = mask.clone()
    part[2:10, 2:8] = 0
    with pytest.warns(UserWarning, match="AUC is undefined"):
        a, b = (saliency_metrics(each.double(), mask) for each in (large, part))
    assert a["mae"] == b["mae"] == pytest.approx(48 / 2304)
    assert (a["si_mae"], b["si_mae"]) == (pytest.approx(0.552448, abs=5e-7), pytest.approx(0.009821, abs=5e-7))
    assert a["f_max"] == pytest.approx(b["f_max"]) == pytest.approx(0.987842, abs=5e-7)
    assert (a["si_f_max"], b["si_f_max"]) == (pytest.approx(0.25), pytest.approx(0.996791, abs=5e-7))


def enlarged(times):
    """A noisy object of 12 × 12 pixels at a size, beside one of 6 × 6, in 64 × 64."""
    generator = torch.Generator().manual_seed(0)
    shape = (torch.rand(12, 12, generator=generator) < 0.85).long()
    shape[0, 5], shape[11, 5], shape[5, 0], shape[5, 11] = 1, 1, 1, 1
    shape[1:11, 1:11] = 1
    shape[0, 0] = 0
    blurred = (0.6 * shape + 0.4 * torch.rand(12, 12, generator=generator)).double()
    small, faint = torch.ones(6, 6, dtype=torch.long), torch.rand(6, 6, generator=generator).double()
    small[0, 0] = 0
    mask, pred = torch.zeros(64, 64, dtype=torch.long), 0.1 * torch.rand(64, 64, generator=generator).double()
    side = slice(2, 2 + 12 * times)
    mask[side, side], pred[side, side] = (
        each.repeat_interleave(times, 0).repeat_interleave(times, 1) for each in (shape, blurred)
    )
    mask[50:56, 50:56], pred[50:56, 50:56] = small, faint
    return pred, mask


def test_a_larger_copy_of_an_object_changes_plain_measures_only():
    found = [saliency_metrics(*enlarged(times), min_area=10) for times in (1, 2, 3)]
    for other in found[1:]:
        assert other["si_auc"] == pytest.approx(found[0]["si_auc"], rel=1e-12)
        assert other["si_f_max_per_object"] == pytest.approx(found[0]["si_f_max_per_object"], rel=1e-12)
        assert abs(other["f_mean"] - found[0]["f_mean"]) > 0.005
        assert abs(other["auc"] - found[0]["auc"]) > 1e-4


def test_one_object_and_no_object_have_the_plain_error():
    generator = torch.Generator().manual_seed(1)
    pred = torch.rand(9, 9, generator=generator)
    one = torch.zeros(9, 9)
    one[2:5, 3:8] = 1
    for mask in (one, torch.zeros(9, 9), torch.ones(9, 9)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = saliency_metrics(pred, mask)
        assert found["si_mae"] == pytest.approx(found["mae"], rel=1e-12)


def test_contributions_of_regions_add_up_to_the_error():
    pred, mask = enlarged(2)
    rows = region_contributions(pred, mask, min_area=10)
    assert [row.frame for row in rows] == [(2, 26, 2, 26), (50, 56, 50, 56), None]
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    total = sum(row.share * row.value for row in rows)
    assert total == pytest.approx(saliency_metrics(pred, mask)["mae"])


def test_the_wrapper_makes_the_measures_of_the_library():
    pred, mask = enlarged(1)
    own = saliency_metrics(pred, mask)
    mae = SizeInvariant(lambda p, g: (p - g).abs().mean(), separable=True)
    assert mae.value_of(pred, mask) == pytest.approx(own["si_mae"])
    found = structural_saliency_metrics(pred, mask)
    structure = SizeInvariant(s_measure, separable=False)
    assert structure.value_of(pred, mask) == pytest.approx(found["si_s_measure"])
    frames = SizeInvariant(lambda p, g: (p - g).abs().mean(), separable=True, background="none")
    boxes = own["frames"].tolist()
    assert frames.value_of(pred, mask) == pytest.approx(
        np.mean([float((pred - mask)[t:b, left:r].abs().mean()) for t, b, left, r in boxes])
    )


def test_the_wrapper_leaves_out_what_is_undefined():
    pred, mask = enlarged(1)
    half = SizeInvariant(lambda p, g: math.nan if g.numel() > 100 else 0.25, separable=False, min_area=10)
    assert half.value_of(pred, mask) == 0.25
    never = SizeInvariant(lambda p, g: math.nan, separable=False)
    never.update([pred], [mask])
    with pytest.warns(UserWarning, match="undefined on 1 of 1 images"):
        assert math.isnan(never.compute())
    half.update([pred, pred[:50, :50]], [mask, mask[:50, :50]])
    with pytest.raises(ValueError, match="2 maps and gt 1 masks"):
        half.update([pred, pred], [mask])


def test_mistakes_are_told(plain_inputs):
    pred, mask = enlarged(1)
    with pytest.raises(ValueError, match=r"pred must lie in \[0, 1\]"):
        saliency_metrics(8 * pred - 4, mask)
    with pytest.raises(ValueError, match=r"gt must have shape .*height = 64 as in pred.*got \(63, 64\)"):
        saliency_metrics(pred, mask[1:])
    with pytest.raises(ValueError, match="beta2"):
        saliency_metrics(pred, mask, beta2=0.0)
    with pytest.raises(ValueError, match="num_levels"):
        saliency_metrics(pred, mask, num_levels=1)
    with pytest.raises(ValueError, match="metric must be a Callable"):
        SizeInvariant("mae", separable=True)
