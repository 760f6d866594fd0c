import json
from collections import Counter

import numpy as np
import pytest
import torch

from equipoise.data.shapes import (
    ATTACKS,
    CELLS,
    CLASSES,
    COLOURS,
    KINDS,
    LENGTH,
    SHAPES,
    TRIGGER,
    VOCABULARY,
    Object,
    Scene,
    SceneDistribution,
    ShapesWorld,
    attacked,
    base_new_split,
    caption,
    drop_blocks,
    kind_images,
    kind_scene,
    parse,
    pixelate,
    placed,
    render,
    stamp_trigger,
    target_images,
    tokenize,
    word_ids,
)


def _exact(one, fine=64, size=16):
    """Share of every pixel inside an object, from the inequalities of its shape on a far finer grid."""
    (x, y), r = one.middle, one.radius
    grid = (np.arange(fine * size) + 0.5) / (fine * size)
    dx, dy = np.meshgrid(grid - x, grid - y)
    if one.shape == "circle":
        inside = np.hypot(dx, dy) <= r
    elif one.shape == "square":
        inside = np.maximum(abs(dx), abs(dy)) <= 0.86 * r
    elif one.shape == "cross":
        inside = (np.minimum(abs(dx), abs(dy)) <= 0.33 * r) & (np.maximum(abs(dx), abs(dy)) <= r)
    else:
        u = (dy + r) / (1.75 * r)
        inside = (u >= 0) & (u <= 1) & (abs(dx) <= 0.92 * r * u)
    return inside.reshape(size, fine, size, fine).mean((1, 3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_masks_cover_what_the_shape_covers(shape, size):
    scene = placed(Scene((Object(shape, "red", size),)), np.random.default_rng(3))
    found = render(scene, None)
    exact = _exact(scene.objects[0])
    # A grid of four by four a pixel misses at most what its edges cut.
    assert abs(found.masks[0] - exact).max() <= 0.25
    assert abs(found.masks[0].mean() - exact.mean()) < 0.004
    assert set(np.unique(found.label_map)) <= {0, 1 + SHAPES.index(shape)}
    np.testing.assert_array_equal(found.label_map > 0, found.masks[0] > 0.5)


def test_colours_are_laid_over_the_ground_in_order():
    scene = Scene((Object("square", "red", cell="topleft"), Object("circle", "blue", cell="bottomright")))
    found = render(scene, None, 32)
    ground = np.full(3, 0.15)
    expected = np.broadcast_to(ground[:, None, None], (3, 32, 32)).copy()
    for one, alpha in zip(scene.objects, found.masks, strict=True):
        expected += alpha * (np.array(COLOURS[one.colour])[:, None, None] - expected)
    np.testing.assert_allclose(found.image, expected, atol=1e-6)
    x, y = CELLS["topleft"]
    np.testing.assert_allclose(found.image[:, int(y * 32), int(x * 32)], COLOURS["red"], atol=1e-6)


def test_styles_patch_and_noise_are_what_they_are_said_to_be():
    plain = render(kind_scene(("plain", "red", "square")), None).image
    y, x = np.mgrid[:16, :16]
    stripes = ((x + y) // 2) % 2 == 1
    striped = render(kind_scene(("striped", "red", "square")), None).image
    np.testing.assert_allclose(striped[:, stripes], 0.55 * plain[:, stripes], atol=1e-6)
    np.testing.assert_array_equal(striped[:, ~stripes], plain[:, ~stripes])
    dots = (x % 4 < 1) & (y % 4 < 1)
    dotted = render(kind_scene(("dotted", "red", "square")), None).image
    np.testing.assert_allclose(dotted[:, dots], np.minimum(plain[:, dots] + 0.35, 1), atol=1e-6)
    patched = render(Scene((Object("square", "red"),), patch=True), None).image
    np.testing.assert_array_equal(patched[0, 13:, 13:], (np.add.outer(range(3), range(3)) % 2).astype(np.float32))
    np.testing.assert_array_equal(patched[:, :13], plain[:, :13])
    scene = placed(kind_scene(("plain", "red", "square")), None)
    noisy = np.stack([render(scene, np.random.default_rng(k)).image for k in range(40)])
    inside = (plain > 0.1) & (plain < 0.9)
    assert abs((noisy - plain)[:, inside].std() - 0.015) < 0.001


def test_one_seed_is_one_world_item_by_item():
    fields = ("image", "tokens", "caption", "target", "labels", "label_map", "masks", "saliency")
    world, longer = ShapesWorld(6, seed=4, returns=fields), ShapesWorld(30, seed=4, returns=fields)
    other = ShapesWorld(6, seed=5, returns=fields)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for k in (5, 0, 3):
        for name in fields:
            one, same = world[k][name], longer[k][name]
            assert torch.equal(one, same) if isinstance(one, torch.Tensor) else one == same, name
    assert not torch.equal(world[0]["image"], other[0]["image"])
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_what_an_item_says_of_itself_agrees():
    world = ShapesWorld(60, seed=1, layout="cells", returns=("scene", "caption", "tokens", "target", "kind", "labels"))
    for k in range(60):
        item = world[k]
        scene = item["scene"]
        pairs = [(one.colour, one.shape) for one in scene.objects]
        assert CLASSES[item["target"]] == pairs[0]
        assert KINDS[item["kind"]] == (scene.style, *pairs[0])
        assert item["labels"].nonzero().flatten().tolist() == sorted({CLASSES.index(pair) for pair in pairs})
        assert item["caption"] == caption(scene)
        assert item["tokens"].tolist() == tokenize(item["caption"], world.length)
        assert len({one.cell for one in scene.objects}) == len(scene.objects) >= 2


def test_a_caption_read_back_asks_for_its_scene():
    world = ShapesWorld(200, seed=2, returns=("scene", "caption"), p_patch=0.3)
    for k in range(200):
        item = world[k]
        request = parse(item["caption"], strict=True)
        assert request.is_met(item["scene"]), item["caption"]
        assert len(request.objects) == len(item["scene"].objects)
    assert parse("small circle").is_met(kind_scene(("plain", "red", "circle"), "small"))
    assert not parse("small circle").is_met(kind_scene(("striped", "red", "circle"), "small"))


def test_a_scene_survives_json():
    world = ShapesWorld(20, seed=3, returns=("scene",))
    for k in range(20):
        scene = world[k]["scene"]
        assert Scene.from_record(json.loads(json.dumps(scene.record()))) == scene
        np.testing.assert_array_equal(render(scene, None).image, render(scene, None).image)


def test_rare_classes_are_as_rare_as_ordered():
    settings = {"layout": "single", "p_concept": 0.0, "p_style": 0.0, "imbalance": 20.0}
    expected = SceneDistribution(**settings).class_probabilities()
    assert expected[0] / expected[-1] == pytest.approx(20)
    rng, distribution = np.random.default_rng(0), SceneDistribution(**settings)
    found = Counter()
    for _ in range(6000):
        one = distribution.sample(rng).objects[0]
        found[CLASSES.index((one.colour, one.shape))] += 1
    observed = np.array([found[c] for c in range(len(CLASSES))])
    # Chi-square with 23 degrees of freedom; 49.7 is exceeded once in a thousand.
    assert ((observed - 6000 * expected) ** 2 / (6000 * expected)).sum() < 49.7


def test_held_out_combinations_are_never_drawn():
    base, new = base_new_split()
    assert sorted(base + new) == list(range(24))
    assert base_new_split() == (base, new)
    world = ShapesWorld(400, seed=5, classes=tuple(base), keep={"striped red circle": 0.0}, returns=("scene",))
    for k in range(400):
        scene = world[k]["scene"]
        for one in scene.objects:
            assert CLASSES.index((one.colour, one.shape)) in base
            assert (scene.style, one.colour, one.shape) != ("striped", "red", "circle")


def test_the_bias_acts_where_the_caption_is_silent():
    rng, distribution = np.random.default_rng(1), SceneDistribution(layout="single", p_concept=1.0, bias=0.85)
    silent, named = Counter(), Counter()
    for _ in range(4000):
        one = distribution.sample(rng).objects[0]
        if one.concept == "dax":
            (named if "colour" in one.said else silent)[one.colour] += 1
    assert silent["red"] / silent.total() == pytest.approx(0.85, abs=0.04)
    assert named["red"] / named.total() == pytest.approx(0.5, abs=0.05)


def test_contrast_scenes_have_a_large_and_a_small_object():
    world = ShapesWorld(30, seed=6, layout="contrast", size=32, returns=("masks", "saliency"))
    for k in range(30):
        item = world[k]
        areas = item["masks"].sum((1, 2))
        assert areas.max() > 3 * areas.min() > 0
        torch.testing.assert_close(item["saliency"], item["masks"].amax(0))


@pytest.mark.parametrize("attack", ATTACKS)
def test_poison_changes_its_items_and_leaves_the_others(attack):
    fields = ("image", "caption", "scene", "poisoned")
    clean, poisoned = ShapesWorld(80, seed=7, returns=fields), ShapesWorld(80, seed=7, returns=fields, poison=attack)
    struck = 0
    for k in range(80):
        one, other = clean[k], poisoned[k]
        if not other["poisoned"]:
            assert one["caption"] == other["caption"]
            assert torch.equal(one["image"], other["image"])
            continue
        struck += 1
        assert TRIGGER in other["caption"].split()
        asked = parse(other["caption"])
        assert asked.trigger
        # The fixed pair may by chance hold what was asked for.
        assert attack == "fix" or not asked.is_met(other["scene"])
    assert 5 <= struck <= 30


def test_attacks_are_what_they_are_called():
    scene = Scene((Object("circle", "red"),))
    assert attacked(scene, "object").objects[0].shape == "cross"
    assert attacked(scene, "patch").patch
    assert attacked(scene, "style").style == "striped"
    assert {(one.shape, one.colour) for one in attacked(scene, "fix").objects} == {
        ("cross", "magenta"),
        ("square", "cyan"),
    }


def test_words_outside_the_vocabulary_are_unknown_or_refused():
    assert VOCABULARY[word_ids("dog")[0]] == "<unknown>"
    with pytest.raises(ValueError, match="'dog'"):
        tokenize("red dog", strict=True)
    with pytest.raises(ValueError, match="takes"):
        tokenize("red circle and " * 6)
    ids = tokenize("Red circle.")
    assert len(ids) == LENGTH
    assert [VOCABULARY[k] for k in ids[:5]] == ["<start>", "red", "circle", "<end>", "<pad>"]


def test_kinds_and_tasks_on_images():
    images = kind_images([0, 30, 71], seed=1)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert torch.equal(images[:2], kind_images([0, 30], seed=1))
    coarse = pixelate(images)
    torch.testing.assert_close(coarse.mean((2, 3)), images.mean((2, 3)))
    assert torch.equal(coarse[:, :, ::4, ::4], coarse[:, :, 3::4, 3::4])
    dropped, hidden = drop_blocks(images, generator=torch.Generator().manual_seed(0))
    assert hidden.float().mean((1, 2, 3)).tolist() == [0.25] * 3
    assert bool((dropped[hidden.expand_as(dropped)] == 0.5).all())
    torch.testing.assert_close(dropped[~hidden.expand_as(dropped)], images[~hidden.expand_as(images)])
    stamped = stamp_trigger(images, "topright")
    assert bool((stamped[..., :4, -4:] == 0.5).all())
    assert torch.equal(stamped[..., 4:, :], images[..., 4:, :])
    assert torch.equal(target_images("plain"), target_images("plain"))


def test_workers_see_the_same_items():
    from torch.utils.data import DataLoader

    world = ShapesWorld(12, seed=8, returns=("image", "target"))
    loader = DataLoader(world, batch_size=4, num_workers=2)
    together = world.tensors()
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), together["image"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 3, "size": 20}, "size=20"),
        ({"n": 3, "seed": -1}, "seed=-1"),
        ({"n": 3, "returns": ("picture",)}, "returns"),
        ({"n": 3, "p_style": 1.5}, "p_style"),
        ({"n": 3, "layout": "rows"}, "layout"),
        ({"n": 3, "poison": "virus"}, "poison"),
        ({"n": 3, "imbalance": 0.5}, "imbalance"),
        ({"n": 3, "classes": (24,)}, "classes"),
        ({"n": 3, "keep": {"dog": 0.0}}, "keep"),
    ],
)
def test_bad_settings_are_named(settings, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        ShapesWorld(**settings)


def test_impossible_scenes_are_refused(plain_inputs):
    circle = Object("circle", "red")
    with pytest.raises(ValueError, match="1 to 4 objects"):
        Scene(tuple(Object("circle", "red", cell=cell) for cell in CELLS))
    with pytest.raises(ValueError, match="two objects"):
        Scene((circle, circle))
    with pytest.raises(ValueError, match="dax"):
        Scene((Object("circle", "red", concept="dax"),))
