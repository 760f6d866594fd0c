"""Augmented pictures, descriptions and the order of training."""

import collections
import math

import pytest
import torch

from equipoise.generative import CurriculumSampler, IdentityAugmentation, IdentityPrompts
from equipoise.generative.curation.prompts import POSES

_OFF = dict.fromkeys(("flip", "jitter", "grey", "affine", "rotate", "blur", "halve"), 0.0)


def _pictures(n=6, height=12, width=16, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _only(images, seed=0, **settings):
    return IdentityAugmentation(**{**_OFF, **settings})(images, torch.Generator().manual_seed(seed))


def test_nothing_is_changed_where_nothing_is_asked_for():
    images = _pictures()
    assert _only(images).equal(images)


def test_a_seed_gives_the_same_pictures_in_range_and_other_seeds_others():
    images = _pictures(20)
    change = IdentityAugmentation()
    first, again, other = (change(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert change.one(images[0], 5).equal(change.one(images[0], 5))
    assert change(images[:0]).shape == images[:0].shape
    assert change(images.half(), torch.Generator().manual_seed(0)).dtype == torch.float32
    assert change(images.double(), torch.Generator().manual_seed(0)).dtype == torch.float64


def test_a_mirror_a_grey_picture_and_chances():
    images = _pictures(2000, 2, 2)
    assert _only(images, flip=1.0).equal(images.flip(-1))
    grey = _only(images, grey=1.0)
    wanted = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    assert all(torch.allclose(grey[:, c], wanted) for c in range(3))
    for chance in (0.2, 0.5, 0.8):
        changed = (_only(images, flip=chance) != images).flatten(1).any(1).double().mean()
        assert abs(float(changed) - chance) < 0.05


def test_colours_change_within_their_range():
    images = 0.3 + 0.1 * _pictures(50)
    brighter = _only(images, jitter=1.0, colours=(0.4, 0.0, 0.0, 0.0))
    factor = (brighter / images).flatten(1)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), atol=1e-4)
    assert 0.6 <= factor.min() < 0.7
    assert 1.3 < factor.max() <= 1.4 + 1e-6
    flat = torch.full((4, 3, 5, 5), 0.5)
    assert torch.allclose(_only(flat, jitter=1.0, colours=(0.0, 0.4, 0.4, 0.1)), flat, atol=1e-5)
    hue = _only(images, jitter=1.0, colours=(0.0, 0.0, 0.0, 0.1))
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose((hue * luma).sum(1), (images * luma).sum(1), atol=1e-3)
    assert not torch.allclose(hue, images, atol=1e-3)


def _by_hand(image, degrees, shear, right, down, scale):
    """Each pixel's source by the inverse of scale · turn ∘ shear about the centre, between pixels bilinear."""
    _, height, width = image.shape
    angle, slant = math.radians(degrees), math.tan(math.radians(shear))
    forward = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = forward @ torch.tensor([[1.0, slant], [0.0, 1.0]])
    inverse = torch.linalg.inv(forward)
    found = torch.empty_like(image)
    for i in range(height):
        for j in range(width):
            place = torch.tensor([j + 0.5 - width / 2 - right * width, i + 0.5 - height / 2 - down * height])
            x, y = (inverse @ place + torch.tensor([width / 2, height / 2]) - 0.5).tolist()
            x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            a, b = int(x), int(y)
            c, d = min(a + 1, width - 1), min(b + 1, height - 1)
            u, v = x - a, y - b
            top = (1 - u) * image[:, b, a] + u * image[:, b, c]
            found[:, i, j] = (1 - v) * top + v * ((1 - u) * image[:, d, a] + u * image[:, d, c])
    return found


@pytest.mark.parametrize(
    "values", [(20, 0, 0, 0, 1), (0, 0, 0.25, -0.1, 1), (0, 15, 0, 0, 1), (0, 0, 0, 0, 1.2), (9, 4, 0.1, 0.2, 0.9)]
)
def test_a_warp_is_a_turned_sheared_shifted_scaled_picture(values):
    from equipoise.generative.curation.augmenting import _warped

    image = _pictures(1, 9, 14)[0].double()
    found = _warped(image[None], *(torch.tensor([float(each)], dtype=torch.float64) for each in values))[0]
    torch.testing.assert_close(found, _by_hand(image, *values), atol=1e-4, rtol=0)


def test_warps_stay_within_their_range():
    size = 41
    dot = torch.zeros(200, 3, size, size)
    dot[:, :, size // 2, size // 2 + 15] = 1.0

    def places(images):
        mass = images[:, 0]
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        total = mass.sum((1, 2))
        return ((mass * rows).sum((1, 2)) / total - size // 2), ((mass * columns).sum((1, 2)) / total - size // 2)

    down, right = places(_only(dot, rotate=1.0, turn=5.0))
    angle = torch.rad2deg(torch.atan2(down, right))
    assert 4 < angle.max() < 5.3
    assert -5.3 < angle.min() < -4
    down, right = places(_only(dot, affine=1.0, degrees=0.0, shear=0.0, scale=(1.0, 1.0)))
    assert float(down.abs().max()) <= 0.05 * size + 0.01
    assert float((right - 15).abs().max()) <= 0.05 * size + 0.01


def test_blur_keeps_the_mean_of_what_it_spreads_and_halving_drops_detail():
    dot = torch.zeros(8, 3, 9, 9)
    dot[:, :, 4, 4] = 1.0
    blurred = _only(dot, blur=1.0)
    torch.testing.assert_close(blurred.sum((2, 3)), torch.ones(8, 3))
    assert (blurred[:, 0, 3:6, 3:6].sum((1, 2)) > 0.999).all()
    ratio = blurred[:, 0, 4, 3] / blurred[:, 0, 4, 4]
    assert ((ratio <= math.exp(-1 / 8) + 1e-6) & (ratio > 0)).sum() >= 7
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    halved = _only(board.float().expand(1, 3, 16, 16), halve=1.0)
    assert float(halved[..., 2:-2, 2:-2].std()) < 0.05
    assert _only(torch.rand(1, 3, 1, 5), halve=1.0).shape == (1, 3, 1, 5)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: IdentityAugmentation(flip=1.5), "flip=1.5"),
        (lambda: IdentityAugmentation(scale=(1.1, 0.9)), "scale"),
        (lambda: IdentityAugmentation(sigma=(0.0, 1.0)), "sigma"),
        (lambda: IdentityAugmentation(colours=(0.1, 0.2, 0.3, 1.4)), "colours"),
        (lambda: IdentityAugmentation()(torch.zeros(2, 1, 4, 4)), "images must have shape"),
        (lambda: IdentityAugmentation()(torch.full((2, 3, 4, 4), 255.0)), "images must lie in"),
        (lambda: IdentityPrompts([]), "bases is empty"),
        (lambda: IdentityPrompts(["x"], {"pose": {}}), "parts"),
        (lambda: IdentityPrompts(["x"], {"pose": {"a": -1.0}}), "parts"),
        (lambda: IdentityPrompts(["x"])(-1), "seed=-1"),
        (lambda: CurriculumSampler(["real"]), "source_of_sample holds no 'synthetic'"),
        (lambda: CurriculumSampler(["synthetic"], base_share=0.5), "base_share=0.5"),
        (lambda: CurriculumSampler(["synthetic", "real"], ramp=0.0), "ramp=0.0"),
        (lambda: CurriculumSampler(["synthetic", "real"], num_replicas=2, rank=2), "rank=2"),
    ],
)
def test_bad_settings_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_descriptions_follow_their_weights():
    assert sum(POSES.values()) == pytest.approx(1.0)
    prompts = IdentityPrompts(["a", "b"], {"pose": POSES})
    counts = collections.Counter(prompts(seed).split(", ", 1)[1] for seed in range(4000))
    for pose, weight in POSES.items():
        assert counts[pose] / 4000 == pytest.approx(weight, abs=0.03)
    assert prompts(7) == prompts(7)
    assert IdentityPrompts(["x"], {})(0) == "x"


SOURCES = ["real"] * 30 + ["synthetic"] * 10


@pytest.mark.parametrize(("epoch", "share"), [(0, 1.0), (2, 0.7), (5, 0.25), (8, 0.25), (40, 0.25)])
def test_the_share_falls_from_one_to_the_base(epoch, share):
    sampler = CurriculumSampler(SOURCES, epochs=11, base_share=0.25)
    sampler.set_epoch(epoch)
    assert sampler.share == pytest.approx(0.25 + 0.75 * max(0, 1 - epoch / 10 / 0.5))
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 40
    assert sum(k >= 30 for k in drawn) == round(sampler.share * 40)
    assert sampler.share == pytest.approx(share)


def test_at_its_own_share_every_sample_is_drawn_once_and_groups_are_drawn_evenly():
    sampler = CurriculumSampler(SOURCES, epochs=4, seed=1)
    sampler.set_epoch(3)
    assert sorted(sampler) == list(range(40))
    sampler.set_epoch(0)
    counts = collections.Counter(sampler)
    assert set(counts) == set(range(30, 40))
    assert set(counts.values()) == {4}
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)


def test_processes_share_an_epoch_in_equal_parts():
    parts = [CurriculumSampler(SOURCES[1:], epochs=1, ramp=0.5, base_share=0.5, num_replicas=2, rank=r) for r in (0, 1)]
    assert [len(list(part)) for part in parts] == [len(part) for part in parts] == [19, 19]
    whole = list(CurriculumSampler(SOURCES[1:], epochs=1, base_share=0.5))
    assert list(parts[0]) == whole[0:38:2]
    assert list(parts[1]) == whole[1:38:2]
