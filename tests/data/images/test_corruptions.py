import pytest
import torch

from equipoise.data import CORRUPTIONS, corrupt, corrupted_sets


def _images(channels=(3,)):
    return torch.rand(6, *channels, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_pictures_keep_their_shape_and_range_and_change_more_with_severity(kind, channels):
    images = _images(channels)
    changes = []
    for severity in (1, 3, 5):
        found = corrupt(images, kind, severity, torch.Generator().manual_seed(1))
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert found.min() >= 0
        assert found.max() <= 1
        changes.append((found - images).abs().mean().item())
    assert 0 < changes[0] < changes[1] < changes[2]


def test_the_same_seed_gives_the_same_sets_whichever_are_asked_for():
    images = _images()
    whole = {(kind, severity): x for kind, severity, x in corrupted_sets(images, seed=3)}
    assert len(whole) == 5 * len(CORRUPTIONS)
    some = list(corrupted_sets(images, kinds=["occlusion", "gaussian_noise"], severities=(4,), seed=3))
    assert [(kind, severity) for kind, severity, _ in some] == [("occlusion", 4), ("gaussian_noise", 4)]
    assert all(torch.equal(x, whole[kind, severity]) for kind, severity, x in some)
    other = {kind: x for kind, _, x in corrupted_sets(images, severities=(4,), seed=4)}
    assert not torch.equal(other["gaussian_noise"], whole["gaussian_noise", 4])


def test_a_blur_leaves_flat_pictures_and_the_occluded_square_is_of_the_stated_size():
    flat = torch.full((2, 1, 9, 9), 0.4)
    torch.testing.assert_close(corrupt(flat, "blur", 5), flat)
    torch.testing.assert_close(corrupt(flat, "contrast", 5), flat)
    hidden = corrupt(flat, "occlusion", 2, torch.Generator().manual_seed(0)) == 0
    assert hidden.sum((1, 2, 3)).tolist() == [9, 9]
    assert hidden.any(2).sum().item() == 6


def test_a_wide_blur_of_a_point_is_a_box():
    image = torch.zeros(1, 9, 9)
    image[0, 4, 4] = 1.0
    found = corrupt(image, "blur", 2)
    torch.testing.assert_close(found[0, 3:6, 3:6], torch.full((3, 3), 1 / 9))
    assert found.count_nonzero() == 9


def test_an_unknown_kind_among_several_is_named_at_once(plain_inputs):
    with pytest.raises(ValueError, match=r"kinds\[1\]='fog' is not known; choose one of 'gaussian_noise'"):
        corrupted_sets(_images(), kinds=["blur", "fog"])
