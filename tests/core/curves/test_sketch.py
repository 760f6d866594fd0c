"""A sketch says less than the curve, and never anything wrong: its bounds hold what `RocCurve` of all samples gives."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import equipoise.core.curves
from equipoise.core.curves.roc import RocCurve
from equipoise.core.curves.sketch import Bounds, CurveSketch
from equipoise.core.curves.sketch_cells import Counts, images, values_of
from equipoise.ranking.criteria import Criterion

SMALL = 4096  # about 150 rows, so that a few hundred samples have to be folded


def _values(curve, max_fpr, min_tpr):
    return {
        "auroc": (float(curve.auroc()), {}),
        "opauc": (float(curve.partial_area(max_fpr)), {"max_fpr": max_fpr}),
        "tpauc": (float(curve.partial_area(max_fpr, min_tpr)), {"max_fpr": max_fpr, "min_tpr": min_tpr}),
        "average_precision": (float(curve.average_precision()), {}),
        "tpr_at_fpr": (curve.tpr_at_fpr(max_fpr), {"max_fpr": max_fpr}),
    }


def _check_inside(sketch, scores, target, max_fpr=0.1, min_tpr=0.5):
    curve = RocCurve.from_scores(torch.as_tensor(scores), torch.as_tensor(target))
    assert (sketch.n_pos, sketch.n_neg) == (curve.n_pos, curve.n_neg)
    assert sketch.nbytes <= sketch.max_bytes
    if not curve.defined:
        return
    for name, (exact, region) in _values(curve, max_fpr, min_tpr).items():
        found = sketch.compute(name, **region)
        assert found.lower <= exact <= found.upper, (name, exact, found)
        assert found.lower <= found.value <= found.upper, (name, found)
        if sketch.exact:
            assert found == Bounds(exact, exact, exact)
    for normalization in ("raw", "mcclish"):
        found = sketch.compute("tpauc", max_fpr=max_fpr, min_tpr=min_tpr, normalization=normalization)
        assert found.lower <= float(curve.partial_area(max_fpr, min_tpr, normalization)) <= found.upper


def _sketch(scores, target, batches=1, max_bytes=SMALL):
    sketch = CurveSketch(max_bytes)
    for s, y in zip(
        torch.as_tensor(scores).tensor_split(batches), torch.as_tensor(target).tensor_split(batches), strict=True
    ):
        sketch.update(s, y)
        assert sketch.nbytes <= sketch.max_bytes
    return sketch


@st.composite
def _streams(draw):
    """Scores as hostile as they come, in an order that is too."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 1500))
    kind = draw(st.sampled_from(["normal", "huge", "tiny and huge", "ties", "atom", "constant", "close", "bits"]))
    scores = generator.normal(size=n)
    if kind == "huge":
        scores = np.sign(scores) * 10.0 ** generator.uniform(-300, 300, n)
    elif kind == "tiny and huge":
        scores = np.where(generator.random(n) < 0.5, scores * 1e-300, scores * 1e300)
    elif kind == "ties":
        scores = scores.round(draw(st.integers(0, 3)))
    elif kind == "atom":
        scores[generator.random(n) < 0.9] = scores[0]
    elif kind == "constant":
        scores[:] = draw(st.sampled_from([0.0, -0.0, 1e-300, -1e300, 5e-324]))
    elif kind == "close":
        scores = 1 + np.finfo(float).eps * generator.integers(0, 500, n)
    elif kind == "bits":
        scores = generator.integers(-(2**63), 2**63, n).view(np.float64)
        scores = np.where(np.isfinite(scores), scores, 0.0)
    if draw(st.booleans()):
        scores = np.clip(scores, -1e38, 1e38).astype(np.float32)
    rate = draw(st.sampled_from([0.5, 0.1, 0.01]))
    shift = 1.0 if kind == "normal" else 0.0
    target = generator.random(n) < rate
    scores = scores + (shift * target).astype(scores.dtype)
    order = draw(st.sampled_from(["as drawn", "ascending", "descending", "classes", "outside in", "zeros first"]))
    rank = {
        "as drawn": np.arange(n),
        "ascending": np.argsort(scores),
        "descending": np.argsort(scores)[::-1],
        "classes": np.argsort(target, kind="stable"),
        "outside in": np.argsort(-np.abs(scores)),
        "zeros first": np.argsort(np.abs(scores)),
    }[order]
    return scores[rank].copy(), target[rank].copy(), draw(st.integers(1, 12))


@given(_streams(), st.sampled_from([0.01, 0.05, 0.37, 1.0]), st.sampled_from([0.0, 0.5, 0.95]))
def test_the_exact_value_lies_inside_whatever_comes_in_whatever_order(stream, max_fpr, min_tpr):
    scores, target, batches = stream
    _check_inside(_sketch(scores, target, batches), scores, target, max_fpr, min_tpr)


@given(_streams(), st.integers(2, 5))
def test_merged_sketches_hold_the_exact_value_of_the_union(stream, parts):
    scores, target, batches = stream
    pieces = zip(np.array_split(scores, parts), np.array_split(target, parts), strict=True)
    first, *others = [_sketch(s, y, batches) for s, y in pieces]
    for other in others:
        before = other.state_dict()
        first.merge(other)
        assert first.nbytes <= first.max_bytes
        after = other.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    _check_inside(first, scores, target)


@given(st.permutations(range(4)), st.integers(0, 1000))
def test_while_it_is_exact_the_order_of_updates_and_merges_does_not_matter(order, seed):
    generator = np.random.default_rng(seed)
    scores, target = generator.normal(size=120).round(1), generator.random(120) < 0.3
    parts = [_sketch(s, y) for s, y in zip(scores.reshape(4, 30), target.reshape(4, 30), strict=True)]
    whole = CurveSketch(SMALL)
    for k in order:
        whole.merge(parts[k])
    wanted = _sketch(scores, target).state_dict()
    assert all(torch.equal(part, wanted[name]) for name, part in whole.state_dict().items())


def test_average_precision_is_not_monotone_so_that_it_needs_bounds_of_its_own():
    # A positive that leaves a tie upwards lowers it.
    tied, apart = (
        float(RocCurve.from_scores(torch.tensor(s), torch.tensor([0, 1, 1])).average_precision())
        for s in ([3.0, 1.0, 1.0], [3.0, 1.0, 2.0])
    )
    assert apart < tied


@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_every_way_to_place_what_is_unknown_and_those_of_areas_are_reached(seed):
    generator = np.random.default_rng(seed)
    # Eight neighbouring floats, the cells of a tree over them, and samples that are known to be in one, or exactly.
    base = images(np.array([1.0]))[0]
    cells, points = {}, {}
    places, target = [[0], [7]], [int(seed % 2), int(seed % 4 < 2)]
    for end, label in zip((0, 7), target, strict=True):
        points[end] = [label, 1 - label]
    ways = 1
    while ways < 100:
        size = int(generator.choice([1, 2, 4, 8]))
        begin, label = size * int(generator.integers(8 // size)), int(generator.integers(2))
        table, key = (points, begin) if size == 1 else (cells, begin + size // 2)
        counts = table.setdefault(key, [0, 0])
        counts[1 - label] += 1
        places.append(list(range(begin, begin + size)))
        target.append(label)
        ways *= size
    if len(set(target)) == 1:
        return
    sketch = CurveSketch(SMALL)
    sketch._points, sketch._cells = (
        Counts(base + np.array(sorted(table), np.uint64), *np.array([table[k] for k in sorted(table)]).T)
        for table in (points, cells)
    )
    exact: dict[str, list[float]] = {}
    for way in itertools.product(*places):
        scores = torch.from_numpy(values_of(base + np.array(way, np.uint64)))
        found = _values(RocCurve.from_scores(scores, torch.tensor(target)), 0.7, 0.3)
        for name, (value, _) in found.items():
            exact.setdefault(name, []).append(value)
    for name, (_, region) in found.items():
        bounds, least, most = sketch.compute(name, **region), min(exact[name]), max(exact[name])
        assert bounds.lower <= least <= most <= bounds.upper, name
        if name != "average_precision":
            assert (bounds.lower, bounds.upper) == pytest.approx((least, most)), name


@pytest.mark.parametrize("order", ["as drawn", "ascending", "classes"])
@pytest.mark.parametrize("kind", ["normal", "beta", "sharp"])
def test_ordinary_scores_are_bounded_within_a_ten_thousandth(kind, order):
    generator = np.random.default_rng(0)
    n = 400_000
    target = generator.random(n) < 0.01
    scores = generator.normal(size=n) + {"normal": 1, "sharp": 4}.get(kind, 0) * target
    if kind == "beta":
        scores = np.where(target, generator.beta(4, 2, n), generator.beta(2, 4, n))
    if order != "as drawn":
        rank = np.argsort(scores if order == "ascending" else target, kind="stable")
        scores, target = scores[rank], target[rank]
    sketch = _sketch(scores, target, batches=4, max_bytes=1 << 20)
    curve = RocCurve.from_scores(torch.from_numpy(scores), torch.from_numpy(target))
    for name, (exact, region) in _values(curve, 0.05, 0.5).items():
        found = sketch.compute(name, **region)
        assert found.lower <= exact <= found.upper
        assert found.width < 1e-4, (name, found)
        assert abs(found.value - exact) < (1e-4 if name == "tpr_at_fpr" else 3e-6), name


def test_merging_many_sketches_keeps_the_bounds_narrow():
    generator = np.random.default_rng(1)
    whole = CurveSketch()
    for _ in range(5):
        target = torch.from_numpy(generator.random(100_000) < 0.1)
        part = CurveSketch()
        part.update(torch.from_numpy(generator.normal(size=100_000)) + target, target)
        whole.merge(part)
    assert whole.compute("auroc").width < 1e-4
    assert whole.compute("opauc", max_fpr=0.05).width < 1e-4


def test_small_updates_are_collected_and_agree_with_one_large_one():
    generator = np.random.default_rng(2)
    scores, target = torch.from_numpy(generator.normal(size=3000)), torch.from_numpy(generator.random(3000) < 0.5)
    by_one, at_once = CurveSketch(), CurveSketch()
    for s, y in zip(scores.split(7), target.split(7), strict=True):
        by_one.update(s, y)
    at_once.update(scores, target)
    assert by_one.compute("auroc") == at_once.compute("auroc")
    assert (by_one.n_pos, by_one.n_neg) == (at_once.n_pos, at_once.n_neg)


def test_few_distinct_scores_stay_exact_however_many_samples_there_are():
    generator = np.random.default_rng(3)
    scores, target = generator.normal(size=200_000).round(2), generator.random(200_000) < 0.1
    sketch = _sketch(scores, target, batches=9, max_bytes=1 << 16)
    assert sketch.exact
    _check_inside(sketch, scores, target)


def test_a_saturated_score_stays_a_tie_among_many_others():
    generator = np.random.default_rng(4)
    target = generator.random(20_000) < 0.2
    scores = np.minimum(1.0, generator.normal(size=20_000) + target)
    sketch = _sketch(scores, target, batches=4, max_bytes=1 << 15)
    assert not sketch.exact
    _check_inside(sketch, scores, target)
    assert sketch.compute("average_precision").width < 0.005
    assert sketch.compute("auroc").width < 0.002


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("of_target", [torch.bool, torch.int8, torch.int64])
def test_every_dtype_is_counted_exactly(dtype, of_target):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(100, generator=generator).to(dtype)
    target = torch.rand(100, generator=generator) < 0.4
    sketch = CurveSketch()
    sketch.update(scores, target.to(of_target))
    assert sketch.compute("auroc").value == float(RocCurve.from_scores(scores, target).auroc())


def test_the_two_zeros_tie_in_one_batch_and_in_two():
    sketch, other = CurveSketch(), CurveSketch()
    sketch.update(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
    other.update(torch.tensor([-0.0, -0.0, -0.0]), torch.tensor([1, 0, 1]))
    assert other.compute("auroc").value == 0.5
    sketch.merge(other)
    assert sketch.compute("auroc").value == 0.5
    positives, _ = sketch.counts_above(torch.tensor([0.0, -0.0]))
    assert positives.tolist() == [[0, 0], [0, 0]]


def test_the_state_survives_a_journey_and_fits_a_smaller_sketch():
    generator = np.random.default_rng(5)
    scores, target = generator.normal(size=5000), generator.random(5000) < 0.3
    sketch = _sketch(scores, target, batches=3, max_bytes=1 << 15)
    copy = CurveSketch(1 << 15)
    copy.load_state_dict(sketch.state_dict())
    assert copy.compute("auroc") == sketch.compute("auroc")
    assert all(torch.equal(part, copy.state_dict()[name]) for name, part in sketch.state_dict().items())
    smaller = CurveSketch(SMALL)
    smaller.load_state_dict(sketch.state_dict())
    _check_inside(smaller, scores, target)


def test_thresholds_keep_their_promise_for_certain_and_waste_little():
    generator = np.random.default_rng(7)
    target = generator.random(4000) < 0.3
    scores = (generator.normal(size=4000) + target).round(3)
    for sketch in (_sketch(scores, target, batches=3, max_bytes=1 << 14), _sketch(scores, target, max_bytes=1 << 20)):
        slack = 0 if sketch.exact else 100
        for allowed in (0, 1, 30, 500, sketch.n_neg - 1):
            above = int((scores[~target] > sketch.lowest_threshold(allowed)).sum())
            assert allowed - slack - 10 <= above <= allowed
        for wanted in (1, 20, 600, sketch.n_pos):
            above = int((scores[target] > sketch.highest_threshold(wanted)).sum())
            assert wanted <= above <= wanted + slack + 10
    assert sketch.lowest_threshold(sketch.n_neg) == -math.inf
    assert sketch.highest_threshold(0) == math.inf


def test_counts_above_a_threshold_are_bounded():
    generator = np.random.default_rng(6)
    scores, target = generator.normal(size=3000), generator.random(3000) < 0.3
    sketch = _sketch(scores, target, batches=3)
    # Scores that were seen are thresholds too: what equals one is not above it.
    at = torch.cat([torch.linspace(-3, 3, 41, dtype=torch.float64), torch.from_numpy(scores[:40])])
    for found, of_class in zip(sketch.counts_above(at), (scores[target], scores[~target]), strict=True):
        exact = (torch.from_numpy(of_class)[None] > at[:, None]).sum(1)
        assert bool(((found[:, 0] <= exact) & (exact <= found[:, 1])).all())
        assert int((found[:, 1] - found[:, 0]).max()) < 200


@pytest.mark.parametrize("target", [[1, 1], [0, 0]])
def test_one_class_is_nan_with_one_warning_or_raises(target):
    sketch = CurveSketch()
    sketch.update(torch.tensor([0.1, 0.2]), torch.tensor(target))
    with pytest.warns(UserWarning, match="needs both classes"):
        found = sketch.compute("auroc")
    assert all(map(math.isnan, (found.lower, found.value, found.upper)))
    assert math.isnan(sketch.compute("auroc").width)
    with pytest.raises(ValueError, match="needs both classes"):
        sketch.compute("ap", on_undefined="raise")


def test_nothing_counted_is_nan_and_empty_batches_change_nothing():
    sketch = CurveSketch()
    sketch.update(torch.empty(0), torch.empty(0, dtype=torch.long))
    with pytest.warns(UserWarning, match="0 positives and 0 negatives"):
        assert math.isnan(sketch.compute("auroc").value)


def test_a_sketch_merged_with_itself_has_counted_all_twice():
    sketch = _sketch([0.9, 0.1, 0.4, 0.5], [1, 0, 0, 1])
    before = sketch.compute("auroc")
    for times in (2, 4):
        sketch.merge(sketch)
        assert (sketch.n_pos, sketch.n_neg) == (2 * times, 2 * times)
    assert sketch.compute("auroc") == before


def test_a_criterion_names_metric_and_region():
    sketch = _sketch([0.9, 0.1, 0.4, 0.5], [1, 0, 0, 1])
    assert sketch.compute(Criterion("opauc", 0.5)) == sketch.compute("opauc", max_fpr=0.5)
    assert sketch.compute("ap") == sketch.compute("average_precision")


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.update(torch.tensor([0.1, math.nan]), torch.tensor([0, 1])), "NaN or infinite"),
        (lambda s: s.update(torch.tensor([0.1, -math.inf]), torch.tensor([0, 1])), "NaN or infinite"),
        (lambda s: s.update(torch.tensor([0.1, 0.2]), torch.tensor([0, 2])), "holds the value 2"),
        (lambda s: s.update(torch.tensor([0.1, 0.2]), torch.tensor([0])), "shape"),
        (lambda s: s.compute("f1"), "f1"),
        (lambda s: s.compute("opauc"), "needs max_fpr"),
        (lambda s: s.compute("auroc", max_fpr=0.1), "does not use max_fpr"),
        (lambda s: s.compute("opauc", max_fpr=5), "did you mean 0.05"),
        (lambda s: s.compute("opauc", max_fpr=0.1, normalization="none"), "normalization"),
        (lambda s: s.load_state_dict({}), "points and cells"),
        (lambda s: s.load_state_dict({"points": torch.ones(2, 3, dtype=torch.long), "cells": torch.ones(0, 3)}), "asc"),
        (lambda s: CurveSketch(max_bytes=100), "max_bytes=100"),
    ],
)
def test_bad_input_is_named_and_counts_nothing(call, message):
    sketch = CurveSketch()
    sketch.update(torch.tensor([0.5, 0.6]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=message):
        call(sketch)
    assert (sketch.n_pos, sketch.n_neg) == (1, 1)


def test_the_sketch_is_found_where_the_curves_are():
    assert equipoise.core.curves.CurveSketch is CurveSketch
