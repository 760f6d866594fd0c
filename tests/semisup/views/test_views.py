"""Views: known cases of each change, seeds, ranges, and one call for all strong ones."""

import math

import pytest
import torch
from torch import Generator

from equipoise.semisup import ImageAugmentation, MultiViewSampler, SignalAugmentation, TableAugmentation

ALL = [
    (ImageAugmentation, (6, 2, 8, 10)),
    (SignalAugmentation, (6, 2, 50)),
    (SignalAugmentation, (6, 50)),
    (TableAugmentation, (6, 5)),
]


def _seeded(seed=0):
    return Generator().manual_seed(seed)


def _batch(shape, dtype=torch.float32):
    return torch.rand(shape, generator=_seeded(1), dtype=dtype)


@pytest.mark.parametrize(("kind", "shape"), ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_gives_the_same_views_and_leaves_batch_and_global_state_alone(kind, shape, dtype):
    batch, state = _batch(shape, dtype), torch.get_rng_state()
    kept = batch.clone()
    for view in (kind.weak(), kind.strong(), kind.strong(1.0)):
        first, again, other = (view(batch, _seeded(seed)) for seed in (0, 0, 1))
        assert first.equal(again)
        assert not first.equal(other)
        assert (first.shape, first.dtype) == (batch.shape, dtype)
        assert first.isfinite().all()
    assert batch.equal(kept)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize(("kind", "shape"), ALL)
def test_nothing_asked_for_is_nothing_done(kind, shape):
    batch = _batch(shape)
    assert kind()(batch, _seeded()).equal(batch)


@pytest.mark.parametrize(("kind", "shape"), ALL)
def test_strong_views_are_further_away_than_weak_ones(kind, shape):
    batch = _batch(shape)
    weak, strong = (float((view(batch, _seeded()) - batch).square().mean()) for view in (kind.weak(), kind.strong()))
    assert strong > 1.5 * weak > 0


def test_samples_are_changed_independently():
    batch = _batch((1, 1, 8, 8)).repeat(5, 1, 1, 1)
    for name in ("rotation", "scale", "shift", "intensity", "contrast", "noise", "erase"):
        views = ImageAugmentation(**{name: 0.4})(batch, _seeded())
        assert len({tuple(view.flatten().tolist()) for view in views}) == 5, name


def test_an_image_is_turned_in_pixels_and_shifted_and_mirrored_whole():
    image = torch.zeros(1, 1, 9, 17)
    image[..., 4, 8:] = 1.0
    turned = ImageAugmentation(rotation=math.pi / 2)
    # The angle that is drawn is the same that is drawn here.
    angle = math.pi / 2 * (2 * torch.rand(1, generator=_seeded(3)).item() - 1)
    found = turned(image, _seeded(3))[0, 0]
    y, x = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(17.0) - 8, indexing="ij")
    length = float((found * (x**2 + y**2).sqrt()).sum() / found.sum())
    direction = math.atan2(float((found * y).sum()), float((found * x).sum()))
    assert direction == pytest.approx(-angle, abs=0.05)
    assert 1.5 < length < 4.5
    batch = _batch((64, 3, 8, 8))
    mirrored = ImageAugmentation(flip=True)(batch, _seeded())
    which = torch.tensor([torch.allclose(m, b, atol=1e-5) for m, b in zip(mirrored, batch, strict=True)])
    torch.testing.assert_close(mirrored[~which], batch[~which].flip(-1), rtol=1e-4, atol=1e-5)
    assert 16 < which.sum() < 48


def test_an_erased_square_has_its_side_and_lies_inside():
    views = ImageAugmentation(erase=0.375)(torch.ones(200, 2, 8, 8), _seeded())
    gone = views == 0
    assert gone.sum((1, 2, 3)).tolist() == [18] * 200
    assert gone[:, 0].equal(gone[:, 1])
    assert gone.any(0).all()
    assert ImageAugmentation(erase=1.0)(torch.ones(1, 1, 4, 6), _seeded()).sum() == 8


@pytest.mark.parametrize(("size", "share", "side"), [(12, 0.375, 5), (28, 0.375, 11), (20, 0.125, 3), (4, 0.1, 1)])
def test_a_half_is_rounded_up_and_a_share_is_never_nothing(size, share, side):
    views = ImageAugmentation(erase=share)(torch.ones(5, 1, size, size + 3), _seeded())
    assert (views == 0).sum((1, 2, 3)).tolist() == [side**2] * 5
    masked = SignalAugmentation(mask=share)(_batch((5, size)), _seeded()) != _batch((5, size))
    assert masked.sum(1).tolist() == [side] * 5


@pytest.mark.usefixtures("plain_inputs")
def test_views_of_bytes_are_those_of_pixels_from_0_to_1():
    images = torch.randint(256, (40, 3, 9, 8), dtype=torch.uint8, generator=_seeded(1))
    kept = images.clone()
    assert ImageAugmentation()(images, _seeded()).equal(images)
    for view in (ImageAugmentation.weak(flip=True), ImageAugmentation.strong(), ImageAugmentation(contrast=0.9)):
        found, wanted = view(images, _seeded()), view(images.float() / 255, _seeded())
        assert found.dtype is torch.uint8
        torch.testing.assert_close(found.float() / 255, wanted.clamp(0, 1), rtol=0, atol=0.5 / 255 + 1e-6)
    noise = ImageAugmentation(noise=0.1)(torch.full((50, 1, 8, 8), 128, dtype=torch.uint8), _seeded()).float()
    assert float(noise.std()) == pytest.approx(25.5, rel=0.03)
    assert images.equal(kept)


def test_intensity_contrast_and_noise_have_their_size():
    batch = torch.full((4000, 1, 2, 2), 0.5)
    factors = ImageAugmentation(intensity=0.3)(batch, _seeded())[:, 0, 0, 0] / 0.5
    assert 0.7 <= factors.min() < 0.71
    assert 1.29 < factors.max() <= 1.3
    torch.testing.assert_close(ImageAugmentation(contrast=0.5)(batch, _seeded()), batch)
    noise = ImageAugmentation(noise=0.2)(batch, _seeded()) - batch
    assert float(noise.std()) == pytest.approx(0.2, rel=0.03)


def test_a_signal_is_shifted_whole_with_its_ends_held():
    ramp = torch.arange(20.0).repeat(50, 2, 1)
    views = SignalAugmentation(shift=0.25)(ramp, _seeded())
    by = views[:, 0, 10] - 10
    assert by.abs().max() <= 5
    assert len(by.unique()) > 5
    torch.testing.assert_close(views, (ramp + by[:, None, None]).clamp(0, 19))


def test_a_masked_piece_of_a_signal_is_its_mean():
    views = SignalAugmentation(mask=0.3)(_batch((50, 2, 20)), _seeded())
    batch = _batch((50, 2, 20))
    gone = views != batch
    assert (gone.sum(-1) == 6).all()
    assert gone[:, 0].equal(gone[:, 1])
    torch.testing.assert_close(views[gone], batch.mean(-1, keepdim=True).expand_as(batch)[gone])
    edges = gone[:, 0].long().diff(dim=1).abs().sum(1)
    assert (edges <= 2).all()


def test_noise_of_a_signal_is_in_its_own_deviation():
    batch = torch.stack([torch.randn(20_000, generator=_seeded()), 100 * torch.randn(20_000, generator=_seeded(1))])
    noise = SignalAugmentation(noise=0.5)(batch, _seeded(2)) - batch
    torch.testing.assert_close(noise.std(-1) / batch.std(-1), torch.tensor([0.5, 0.5]), rtol=0.03, atol=0)


def test_cells_are_masked_and_swapped_within_their_column():
    batch = torch.stack([torch.arange(1.0, 2001.0), -torch.arange(1.0, 2001.0)], 1)
    masked = TableAugmentation(mask=0.3)(batch, _seeded())
    assert float((masked == 0).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert masked[masked != 0].equal(batch[masked != 0])
    swapped = TableAugmentation(swap=0.3)(batch, _seeded())
    assert float((swapped != batch).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert (swapped[:, 0] > 0).all()
    assert (swapped[:, 1] < 0).all()


def test_strong_views_come_from_one_call_view_by_view():
    calls = []

    def strong(batch, generator):
        calls.append(len(batch))
        return batch + torch.arange(len(batch))[:, None]

    views = MultiViewSampler(lambda u, generator: -u, strong, variants=3)(torch.zeros(4, 1), _seeded())
    assert calls == [12]
    assert views.weak.shape == (4, 1)
    assert views.strong.flatten().tolist() == list(range(12))
    assert views.strong.shape == (3, 4, 1)


def test_the_number_of_views_is_drawn_by_its_probabilities():
    sampler = MultiViewSampler(_same, _same, variants=3, variant_probs=(0.5, 0.3, 0.2))
    generator = _seeded()
    counts = [len(sampler(torch.zeros(2, 1), generator).strong) for _ in range(2000)]
    assert sum(counts) / 2000 == pytest.approx(1.7, abs=0.05)
    assert set(counts) == {1, 2, 3}
    assert {len(MultiViewSampler(_same, _same, 4)(torch.zeros(2, 1), generator).strong) for _ in range(5)} == {4}


def _same(batch, generator):
    return batch


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ((0.5, 0.4), "must sum to 1, got 0.9"),
        ((0.25,) * 4, "has 4 probabilities"),
        ((), "has 0"),
        ((-1.0, 2.0), "0, 1"),
    ],
)
def test_bad_probabilities_are_refused(probabilities, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        MultiViewSampler(_same, _same, 3, probabilities)


def test_views_that_lose_samples_are_refused(plain_inputs):
    for name in ("weak", "strong"):
        given = {"weak": _same, "strong": _same, name: lambda u, generator: u[1:]}
        with pytest.raises(ValueError, match=f"{name} must give a tensor of"):
            MultiViewSampler(**given)(torch.zeros(4, 2), _seeded())
    with pytest.raises(ValueError, match="variants"):
        MultiViewSampler(_same, _same, 0)
    with pytest.raises(ValueError, match="batch"):
        TableAugmentation()(torch.zeros(2, 3, 4), _seeded())
