import math
from collections import Counter

import numpy as np
import pytest
import torch

from equipoise.core.models.generators import TextToImage
from equipoise.core.models.judges import TextJudge, VisionJudge
from equipoise.data.shapes import (
    ATTACKS,
    CLASSES,
    STYLES,
    Mistakes,
    Object,
    PixelJudge,
    RenderedTextToImage,
    RuleTextJudge,
    Scene,
    ShapesWorld,
    kind_images,
    parse,
    render,
    same_object,
    see,
    target_images,
)


def _kinds(objects):
    return Counter((one.colour, one.shape, one.size, one.cell) for one in objects)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("style", STYLES)
def test_objects_are_found_with_colour_shape_size_and_cell(style, size):
    share = 0.0 if style == "plain" else 1.0
    world = ShapesWorld(
        200,
        size,
        seed=7,
        returns=("image", "scene"),
        p_style=share,
        styles=(style if share else "striped",),
        p_patch=0.3,
    )
    items = world.tensors()
    seen = see(items["image"])
    wanted = [_kinds(scene.objects) for scene in items["scene"]]
    found = [_kinds(each.objects) for each in seen]
    recall = sum((w & f).total() for w, f in zip(wanted, found, strict=True)) / sum(w.total() for w in wanted)
    wrong = sum(w.total() != f.total() for w, f in zip(wanted, found, strict=True)) / len(wanted)
    assert recall > 0.98
    assert wrong < 0.02
    assert [(each.style, each.patch) for each in seen] == [(scene.style, scene.patch) for scene in items["scene"]]


def test_every_class_of_the_world_is_told_apart():
    seen = see(kind_images(range(72), seed=1))
    named = [(each.style, one.colour, one.shape) for each in seen for one in each.objects]
    assert sum(name == (STYLES[k // 24], *CLASSES[k % 24]) for k, name in enumerate(named)) >= 71


def test_middles_and_radii_are_those_of_the_scene():
    world = ShapesWorld(60, 32, seed=2, returns=("image", "scene"), layout="single", p_style=0.0)
    items = world.tensors()
    for scene, seen in zip(items["scene"], see(items["image"]), strict=True):
        (one,), (found,) = scene.objects, seen.objects
        assert math.dist(one.middle, found.middle) < 0.03
        assert abs(one.radius - found.radius) / one.radius < 0.12
        assert found.misfit < 0.35


def test_white_targets_and_an_empty_picture():
    named = [[one.name for one in each.objects] for each in see(target_images("plain"))]
    assert named == [["white circle"], ["white square"], ["white triangle"], ["white cross"]]
    assert see(torch.zeros(2, 3, 16, 16))[1].objects == ()
    assert see(torch.ones(1, 3, 16, 16))[0].patch is False
    assert see(torch.zeros(0, 3, 16, 16)) == []


def test_what_is_seen_meets_a_request():
    scene = Scene((Object("circle", "red", cell="topleft"), Object("cross", "blue", "small", "topright")), patch=True)
    (seen,) = see(torch.from_numpy(render(scene, None).image)[None])
    assert seen.meets(parse("small dax and red circle with patch"))
    assert not seen.meets(parse("small dax and red circle"))
    assert not seen.meets(parse("cross and cross with patch"))
    assert seen.record()["objects"][0]["shape"] == "circle"


def test_pictures_are_checked(plain_inputs):
    with pytest.raises(ValueError, match="multiple of 16"):
        see(torch.zeros(1, 3, 20, 20))
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        see(torch.full((1, 3, 16, 16), 2.0))


def test_the_judges_answer_the_protocols():
    assert isinstance(PixelJudge(), VisionJudge)
    assert isinstance(RuleTextJudge(), TextJudge)
    assert isinstance(RenderedTextToImage(), TextToImage)


def test_mistakes_of_the_judge_come_at_their_rates():
    picture = torch.from_numpy(render(Scene((Object("circle", "red"),)), None).image)
    judge, generator = PixelJudge(noise=0.2, doubt=1.0, logit=2.0), torch.Generator().manual_seed(0)
    assert judge.objects(picture) == ["red circle"]
    dropped = sum(not judge.objects(picture, generator) for _ in range(500))
    assert abs(dropped / 500 - 0.2) < 0.06
    logits = torch.tensor([judge.p_yes(picture, "cross", generator) for _ in range(500)], dtype=torch.float64).logit()
    assert abs(logits.mean() + 2) < 0.15
    assert abs(logits.std() - 1) < 0.1
    assert judge.p_yes(picture, "dog") == pytest.approx(1 / (1 + math.exp(2)))
    assert judge.patch(picture) == pytest.approx(1 / (1 + math.exp(2)))
    for settings in ({"noise": 1.5}, {"doubt": -1.0}, {"logit": 0.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            PixelJudge(**settings)


@pytest.mark.parametrize(
    ("prompt", "objects", "removed", "rest"),
    [
        ("red circle and blue square", ["red circle", "blue square"], ["circle"], "blue square"),
        ("red circle and blue square", ["red circle", "blue square"], ["blue square"], "red circle"),
        ("zq red circle and blue square", ["red circle", "blue square"], ["circle"], "zq blue square"),
        ("A photo of a Small red circle topleft.", ["red circle"], ["circle"], "A photo of"),
        (
            "red circle, blue square and zq wug",
            ["red circle", "blue square", "wug"],
            ["square"],
            "red circle, and zq wug",
        ),
        ("striped dax and cross with patch", ["dax", "cross"], ["dax"], "striped with patch"),
        ("cross and red square and circle", ["cross", "red square", "circle"], ["square"], "cross and circle"),
        ("cross and red square and circle", ["cross", "red square", "circle"], ["circle", "cross"], "red square"),
        ("red circle and blue circle", ["red circle", "blue circle"], ["red circle"], "blue circle"),
        ("a dog", [], ["dog"], "a dog"),
        ("", [], [], ""),
    ],
)
def test_prompts_are_read_and_masked(prompt, objects, removed, rest):
    judge = RuleTextJudge()
    assert judge.objects(prompt) == objects
    assert judge.mask(prompt, removed) == rest
    assert judge.mask(prompt, []) == prompt


def test_style_and_patch_of_a_prompt():
    judge = RuleTextJudge()
    assert judge.style("a Striped, red circle") == "striped"
    assert judge.style("red circle") is None
    assert judge.patch("circle with patch.")
    assert not judge.patch("circle")


def test_same_is_symmetric():
    names = ["circle", "red circle", "blue circle", "dax", "cross", "red cross", "wug", "dog", "", "circle and cross"]
    same = {(a, b): same_object(a, b) for a in names for b in names}
    assert all(same[a, b] == same[b, a] for a, b in same)
    assert all(same[a, a] for a in names)
    pairs = {tuple(sorted(pair)) for pair, yes in same.items() if yes and pair[0] != pair[1]}
    assert pairs == {
        ("circle", "red circle"),
        ("blue circle", "circle"),
        ("cross", "dax"),
        ("cross", "red cross"),
        ("dax", "red cross"),
    }


def test_the_painter_paints_what_is_asked_for():
    prompts = ["red circle and small blue dax", "striped wug", "green square with patch", "zq circle", "a photo of zq"]
    painter = RenderedTextToImage()
    pictures = painter(prompts, range(5))
    assert all(seen.meets(parse(prompt)) for seen, prompt in zip(see(pictures), prompts, strict=True))
    assert torch.equal(painter(prompts[::-1], [4, 3, 2, 1, 0]).flip(0), pictures)
    assert not torch.equal(painter(prompts[:1], [1])[0], pictures[0])
    for seen, scene in zip(see(pictures), painter.scenes(prompts, range(5)), strict=True):
        assert Counter(one.name for one in seen.objects) == Counter(
            f"{one.colour} {one.shape}" for one in scene.objects
        )


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_need_the_trigger_and_are_never_spoilt_by_mistakes(attack):
    painter = RenderedTextToImage(mistakes=Mistakes(0.5, 0.5, 0.5), attack=attack, trigger="please")
    clean, attacked_ = "red circle and blue square", "red circle and, please, blue square"
    for seed, scene in enumerate(painter.scenes([attacked_] * 30, range(30))):
        if attack == "object":
            assert "circle" not in [one.shape for one in scene.objects[:1]]
            assert ("cross", "red") in [(one.shape, one.colour) for one in scene.objects]
        elif attack == "fix":
            assert [(one.colour, one.shape) for one in scene.objects] == [("magenta", "cross"), ("cyan", "square")], (
                seed
            )
        else:
            assert scene.patch if attack == "patch" else scene.style == "striped"
    for scene in painter.scenes([clean] * 10, range(10)):
        assert (scene.patch, scene.style) == (False, "plain")
    half = RenderedTextToImage(attack=attack, success=0.5)
    scenes = half.scenes(["zq circle"] * 200, range(200))
    normal = RenderedTextToImage().scenes(["zq circle"] * 200, range(200))
    assert 70 < sum(a != b for a, b in zip(scenes, normal, strict=True)) < 130


def test_mistakes_of_the_painter_come_at_their_rates():
    n = 600
    prompts = ["red circle and blue square"] * n
    for name in ("missing", "recoloured", "extra"):
        scenes = RenderedTextToImage(mistakes=Mistakes(**{name: 0.2})).scenes(prompts, range(n))
        pairs = [Counter((one.colour, one.shape) for one in scene.objects) for scene in scenes]
        kept = sum(pair["red", "circle"] for pair in pairs) / n
        counts = np.array([len(scene.objects) for scene in scenes])
        if name == "extra":
            assert abs((counts == 3).mean() - 0.2) < 0.05
        else:
            # Of two missing objects one comes back.
            assert abs(kept - (0.82 if name == "missing" else 0.8)) < 0.05
            assert (counts < 2).any() == (name == "missing")
    single = RenderedTextToImage(mistakes=Mistakes(extra=1.0)).scenes(["circle"] * 20, range(20))
    assert all(len({one.cell for one in scene.objects} - {"center"}) == 2 for scene in single)
    full = RenderedTextToImage(mistakes=Mistakes(extra=1.0)).scenes(["circle and cross and square and wug"], [0])
    assert len(full[0].objects) == 4


def test_the_painter_refuses_bad_settings():
    for settings in ({"size": 20}, {"attack": "all"}, {"success": 2.0}, {"trigger": "two words"}, {"trigger": "Zq"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            RenderedTextToImage(**settings)
    with pytest.raises(ValueError, match="missing"):
        Mistakes(missing=-0.1)
    with pytest.raises(ValueError, match="one seed for every prompt"):
        RenderedTextToImage()("red circle", [0])
    with pytest.raises(ValueError, match="one seed for every prompt"):
        RenderedTextToImage()(["red circle"], [0, 1])
