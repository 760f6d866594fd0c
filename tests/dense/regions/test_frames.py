import time

import numpy as np
import pytest
import torch

from equipoise.dense import frame_weight_map, instance_frames, object_frames
from equipoise.dense.regions.weights import as_frame_set, box_sums, frame_pixels, region_weights


def flooded(mask, connectivity):
    """Objects by flooding from each unseen pixel, row by row: boxes and areas."""
    steps = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    if connectivity == 8:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    seen, found = set(), []
    height, width = mask.shape
    for start in zip(*np.nonzero(mask), strict=True):
        if start in seen:
            continue
        queue, pixels = [start], []
        seen.add(start)
        while queue:
            y, x = queue.pop()
            pixels.append((y, x))
            for dy, dx in steps:
                near = (y + dy, x + dx)
                if 0 <= near[0] < height and 0 <= near[1] < width and mask[near] and near not in seen:
                    seen.add(near)
                    queue.append(near)
        rows, columns = zip(*pixels, strict=True)
        found.append(([min(rows), max(rows) + 1, min(columns), max(columns) + 1], len(pixels)))
    return found


def random_masks(count, seed=0, shape=(9, 11)):
    generator = np.random.default_rng(seed)
    return [generator.random(shape) < generator.uniform(0.05, 0.6) for _ in range(count)]


@pytest.mark.parametrize("connectivity", [4, 8])
def test_frames_are_those_of_a_flood(connectivity):
    for mask in random_masks(60):
        wanted = [box for box, _ in flooded(mask, connectivity)]
        assert object_frames(torch.from_numpy(mask), connectivity=connectivity).tolist() == wanted


@pytest.mark.parametrize("min_area", [1, 3, 1000])
def test_small_objects_are_dropped_but_never_all(min_area):
    for mask in random_masks(40, seed=1):
        objects = flooded(mask, 4)
        kept = [box for box, area in objects if area >= min_area]
        largest = max((area for _, area in objects), default=0)
        wanted = kept or [box for box, area in objects if area == largest]
        assert object_frames(torch.from_numpy(mask), min_area=min_area).tolist() == wanted


def test_of_a_mask_without_objects_and_of_a_full_one():
    empty = object_frames(torch.zeros(4, 5, dtype=torch.bool))
    assert empty.shape == (0, 4)
    assert empty.dtype is torch.int64
    assert object_frames(torch.ones(4, 5)).tolist() == [[0, 4, 0, 5]]


def test_instances_that_touch_have_frames_of_their_own():
    ids = torch.zeros(5, 6, dtype=torch.long)
    ids[1:3, 1:3], ids[1:3, 3:5], ids[4, 0], ids[4, 5] = 9, 4, 7, 7
    assert instance_frames(ids).tolist() == [[1, 3, 3, 5], [4, 5, 0, 6], [1, 3, 1, 3]]
    assert instance_frames(ids, min_area=3).tolist() == [[1, 3, 3, 5], [1, 3, 1, 3]]
    assert instance_frames(torch.ones(2, 3, dtype=torch.long)).tolist() == [[0, 2, 0, 3]]
    assert instance_frames(torch.zeros(2, 3, dtype=torch.long)).shape == (0, 4)


def test_a_negative_id_is_refused(plain_inputs):
    with pytest.raises(ValueError, match="instances holds the id -1"):
        instance_frames(torch.tensor([[-1, 0]]))


def weights_by_pixels(mask, alpha, per_object=False):
    height, width = mask.shape
    boxes = [box for box, _ in flooded(mask, 4)]
    if not boxes:
        return np.full(mask.shape, 1 / mask.size)
    inside = [[[t <= y < b and left <= x < r for x in range(width)] for y in range(height)] for t, b, left, r in boxes]
    inside = np.array(inside)
    union = inside.any(0)
    weight = sum(each / each.sum() for each in inside.astype(float)) / (len(boxes) if per_object else 1)
    behind = ~union
    if behind.any():
        weight = weight + behind * (1 / union.sum() if alpha == "ratio" else alpha / behind.sum())
    return weight


@pytest.mark.parametrize("alpha", ["ratio", 0.0, 0.7])
def test_the_weight_map_is_the_sum_over_frames(alpha):
    for mask in [*random_masks(40, seed=2), np.ones((3, 4), bool), np.zeros((3, 4), bool)]:
        found = frame_weight_map(torch.from_numpy(mask), alpha=alpha)
        np.testing.assert_allclose(found, weights_by_pixels(mask, alpha), rtol=1e-12, atol=1e-15)


def test_the_weight_map_adds_up_to_objects_and_alpha():
    mask = torch.from_numpy(random_masks(1, seed=3)[0])
    frames = as_frame_set([object_frames(mask)], (1, *mask.shape))
    behind = int((~frames.covered()).sum())
    alpha = behind / (mask.numel() - behind)
    assert float(frame_weight_map(mask).sum()) == pytest.approx(len(frames.boxes) + alpha)


def test_box_sums_and_pixels_are_those_of_slices():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 9, 11, generator=generator, dtype=torch.float64)
    boxes = [object_frames(torch.from_numpy(mask)) for mask in random_masks(3, seed=4)]
    frames = as_frame_set(boxes, values.shape)
    crops = [values[k, t:b, left:r] for k, found in enumerate(boxes) for t, b, left, r in found.tolist()]
    torch.testing.assert_close(box_sums(values, frames), torch.stack([crop.sum() for crop in crops]))
    pixel, frame = frame_pixels(frames)
    assert values.flatten()[pixel].tolist() == torch.cat([crop.flatten() for crop in crops]).tolist()
    assert frame.bincount().tolist() == [crop.numel() for crop in crops]


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (2, 1, 0, 1), (0, 5, 0, 1), (-1, 1, 0, 1), (0, 1, 3, 6)])
def test_frames_outside_the_image_are_refused(box, plain_inputs):
    with pytest.raises(ValueError, match="frames holds the box"):
        as_frame_set([torch.tensor([box])], (1, 4, 5))


def test_as_many_frames_as_masks_are_wanted(plain_inputs):
    with pytest.raises(ValueError, match="boxes of 1 masks, but there are 2"):
        as_frame_set([torch.tensor([[0, 1, 0, 1]])], (2, 4, 5))


def test_a_mask_of_255_says_how_to_mend_it(plain_inputs):
    with pytest.raises(ValueError, match=r"255.*divide"):
        object_frames(torch.full((2, 2), 255))


def test_the_time_of_weights_does_not_grow_with_the_number_of_objects():
    few, many = torch.zeros(2, 400, 400, dtype=torch.bool)
    few[10:300, 10:300] = True
    many[::4, ::4] = True
    few, many = (as_frame_set([object_frames(mask)], (1, 400, 400)) for mask in (few, many))
    assert len(many.boxes) == 10_000

    def fastest(frames):
        times = []
        for _ in range(7):
            start = time.process_time()
            region_weights(frames, "ratio").joint()
            times.append(time.process_time() - start)
        return min(times)

    assert fastest(many) < 3 * fastest(few) + 0.005
