import pytest
import torch

from equipoise.generative import attention_foreground, weigh_foreground


def _images(n=3):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("background", ["mean", "black"])
def test_the_map_blends_the_picture_with_what_is_behind(background):
    images, maps = _images(), torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = weigh_foreground(images, 7 * maps, background)
    for k in range(3):
        share = maps[k] / maps[k].max()
        behind = images[k].mean((1, 2))[:, None, None] if background == "mean" else 0
        torch.testing.assert_close(found[k], share * images[k] + (1 - share) * behind)


def test_a_whole_map_and_an_empty_one_leave_the_picture():
    images = _images(2)
    torch.testing.assert_close(weigh_foreground(images, torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])), images)


def test_coarse_maps_are_resized():
    images, coarse = _images(), torch.rand(3, 2, 2)
    fine = torch.nn.functional.interpolate(coarse[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(weigh_foreground(images, coarse), weigh_foreground(images, fine))


def test_a_mask_takes_the_background_out_of_an_embedding():
    images, mask = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8)
    images[:, 0, 2:6, 2:6], mask[:, 2:6, 2:6] = 1, 1
    images[:, 2, :2] = 1
    torch.testing.assert_close(weigh_foreground(images, mask, "black")[:, 2], torch.zeros(1, 8, 8))


def test_attention_is_averaged_over_steps_and_layers():
    a, b = torch.rand(2, 4, 4), torch.rand(2, 8, 8)
    up = torch.nn.functional.interpolate(a[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
    mean = (up + b) / 2
    torch.testing.assert_close(attention_foreground([a, b], 8, 8), mean / mean.amax((1, 2), keepdim=True))
    assert attention_foreground([torch.zeros(1, 2, 2)], 4, 4).sum() == 0


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: weigh_foreground(_images(), torch.ones(2, 8, 8)), "foreground must have shape"),
        (lambda: weigh_foreground(_images(), -torch.ones(3, 8, 8)), "foreground must be at least 0"),
        (lambda: weigh_foreground(_images(), torch.ones(3, 8, 8), "white"), "background='white'"),
        (lambda: attention_foreground([], 8, 8), "maps is empty"),
        (lambda: attention_foreground([torch.ones(1, 2, 2), torch.ones(2, 2, 2)], 8, 8), "different numbers"),
        (lambda: attention_foreground([torch.ones(2, 2)], 8, 8), "must have shape"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
