"""Views of images, and pixels as networks see them."""

import colorsys
import math

import pytest
import torch

from equipoise.multimodal import DetailAugmentation, PixelNorm, clip_pixels
from equipoise.multimodal.representation.augmentation import turn_hue

STILL = {"jitter": 0.0, "hue": 0.0, "flip": False, "least_crop": 1.0, "ratio": 1.0}


def _images(n=6, side=9):
    return torch.rand(n, 3, side, side + 1, generator=torch.Generator().manual_seed(0))


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_for_is_nothing_done():
    images = _images()
    assert DetailAugmentation(**STILL)(images, _generator()).equal(images)


def test_views_are_of_the_generator_and_differ_by_image():
    images = _images(1).expand(6, -1, -1, -1)
    views = DetailAugmentation()(images, _generator())
    assert views.equal(DetailAugmentation()(images, _generator()))
    assert all(not views[0].equal(view) for view in views[1:])
    assert views.min() >= 0
    assert views.max() <= 1
    assert (views - images).abs().mean() < 0.3


@pytest.mark.parametrize(("name", "axis"), [("flip", 3), ("vertical_flip", 2)])
def test_flips(name, axis):
    images = _images(40)
    views = DetailAugmentation(**{**STILL, name: True})(images, _generator())
    turned = [bool((view - image.flip(axis - 1)).abs().max() < 1e-5) for view, image in zip(views, images, strict=True)]
    still = [bool((view - image).abs().max() < 1e-5) for view, image in zip(views, images, strict=True)]
    assert all(a != b for a, b in zip(turned, still, strict=True))
    assert 8 < sum(turned) < 32


def test_up_and_down_is_left_alone_by_default():
    assert not DetailAugmentation().vertical_flip


def test_hue_is_turned_as_on_the_circle():
    images, turn = _images(2, 3), torch.tensor([0.05, -0.3])[:, None, None]
    found = turn_hue(images, turn)
    for n, y, x in [(0, 0, 0), (0, 2, 1), (1, 1, 3), (1, 2, 2)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*images[n, :, y, x].tolist())
        wanted = colorsys.hsv_to_rgb((hue + float(turn[n])) % 1, saturation, value)
        assert found[n, :, y, x].tolist() == pytest.approx(wanted, abs=1e-5)
    grey = torch.full((1, 3, 1, 1), 0.4)
    torch.testing.assert_close(turn_hue(grey, torch.full((1, 1, 1), 0.2)), grey)


def test_jitter_changes_by_no_more_than_its_factors():
    images = torch.full((50, 3, 4, 4), 0.5)
    views = DetailAugmentation(**{**STILL, "jitter": 0.1})(images, _generator())
    assert views.min() >= 0.45 - 1e-6
    assert views.max() <= 0.55 + 1e-6
    assert len(views[:, 0, 0, 0].unique()) == 50


def test_a_crop_shows_a_part_in_full_size():
    ramp = torch.linspace(0, 1, 32).expand(30, 3, 32, 32).contiguous()
    views = DetailAugmentation(**{**STILL, "least_crop": 0.5, "ratio": 1.2})(ramp, _generator())
    widths = views[:, 0, 0, -1] - views[:, 0, 0, 0]
    assert widths.max() < 1 + 1e-6
    assert widths.min() > 0.5**0.5 / 1.2**0.5 - 0.05
    assert widths.std() > 0.02


def test_one_channel_is_taken():
    grey = torch.rand(4, 1, 8, 8, generator=_generator())
    assert DetailAugmentation(noise=0.1)(grey, _generator()).shape == grey.shape


def test_pixels_are_normalised_by_channel():
    images = _images(2)
    found = clip_pixels()(images)
    mean, std = clip_pixels().mean, clip_pixels().std
    for channel in range(3):
        torch.testing.assert_close(found[:, channel], (images[:, channel] - mean[channel]) / std[channel])
    torch.testing.assert_close(PixelNorm()(images), 2 * images - 1)


def test_bad_settings_are_refused(plain_inputs):
    for change, words in [
        ({"jitter": 1.0}, r"jitter=1.0 must lie in \[0, 1\)"),
        ({"hue": 0.6}, "hue=0.6"),
        ({"least_crop": 0.0}, "least_crop=0.0"),
        ({"ratio": 0.5}, "ratio=0.5 must be at least 1"),
        ({"noise": -1.0}, "noise=-1.0"),
    ]:
        with pytest.raises(ValueError, match=words):
            DetailAugmentation(**change)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], got -1"):
        DetailAugmentation()(2 * torch.ones(1, 3, 2, 2) - 3, _generator())
    with pytest.raises(ValueError, match="std has 2 channels"):
        PixelNorm((0.5,), (0.5, 0.5))


def test_a_crop_is_never_smaller_than_the_least_area():
    ramp = torch.linspace(0, 1, 50).expand(200, 1, 50, 50)
    both = torch.cat([ramp, ramp.mT], 1)
    plain = {"jitter": 0.0, "hue": 0.0, "flip": False}
    for least, ratio in ((1.0, 1.5), (0.8, 1.6), (0.5, 1.2)):
        view = DetailAugmentation(**plain, least_crop=least, ratio=ratio)(both, torch.Generator().manual_seed(0))
        # A ramp spans what the crop spans, but for half a pixel at each border.
        width = view[:, 0, 0, -1] - view[:, 0, 0, 0]
        height = view[:, 1, -1, 0] - view[:, 1, 0, 0]
        assert (width * height).min() > least - 0.03
        assert (width * height).max() < 1.001
        assert (width / height).log().abs().max() < math.log(ratio) + 0.03
