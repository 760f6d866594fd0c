"""Stylizers: what of the texture they carry over, and what of the image they keep."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from equipoise.dense import (
    AdaINStylizer,
    GatysStylizer,
    MomentStylizer,
    MongeStylizer,
    PyramidStylizer,
    adain,
    gram_matrix,
    monge_color_transfer,
)
from equipoise.dense.transfer.stylizers import laplacian_pyramid

PIXELS = [MomentStylizer, MongeStylizer, PyramidStylizer]


def _image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _network(*layers, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(*[make() for make in layers]).double()


def test_moments_and_colours_are_the_functions_of_pixels():
    image, texture = _image(3, 6, 7), _image(3, 5, 4, seed=1)
    assert MomentStylizer(1e-3)(image, texture).equal(adain(image, texture, 1e-3))
    assert MongeStylizer(1e-3)(image, texture).equal(monge_color_transfer(image, texture, 1e-3))


def _pyramid_by_hand(image, texture, levels, eps=1e-5):
    """The definition for one channel, with loops over pixels in the boxes."""

    def halved(x):
        rows, columns = -(-x.shape[0] // 2), -(-x.shape[1] // 2)
        return torch.tensor(
            [[x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(columns)] for i in range(rows)]
        ).double()

    def up(x, like):
        return nn.functional.interpolate(x[None, None], like.shape, mode="bilinear")[0, 0]

    def taken_apart(x):
        bands = []
        for _ in range(levels):
            coarse = halved(x)
            bands.append(x - up(coarse, x))
            x = coarse
        return bands, x

    (bands, rest), (styles, style_rest) = taken_apart(image), taken_apart(texture)
    found = adain(rest[None], style_rest[None], eps)[0]
    for band, style in zip(bands[::-1], styles[::-1], strict=True):
        centred = band - band.mean()
        new = torch.empty_like(band)
        for i in range(len(band)):
            for j in range(band.shape[1]):
                box = centred[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
                energy = ((box**2).mean() + 1e-8).sqrt()
                new[i, j] = centred[i, j] / energy * style.std(correction=0) + style.mean()
        found = up(found, band) + new
    return found.clamp(0, 1)


def test_the_pyramid_is_its_definition_on_odd_sizes():
    image, texture = _image(1, 11, 14), _image(1, 9, 13, seed=1)
    found = PyramidStylizer(3)(image, texture)
    torch.testing.assert_close(found[0], _pyramid_by_hand(image[0], texture[0], 3))


@pytest.mark.parametrize("size", [(16, 16), (11, 14), (1, 5)])
def test_the_bands_of_a_pyramid_sum_up_to_the_image(size):
    image = _image(1, 2, *size)
    bands, rest = laplacian_pyramid(image, 2)
    for band in reversed(bands):
        rest = nn.functional.interpolate(rest, band.shape[-2:], mode="bilinear") + band
    torch.testing.assert_close(rest, image)


def test_the_pyramid_gives_the_strength_of_detail_that_the_texture_has():
    image = _image(1, 48, 48)
    rough, smooth = _image(1, 48, 48, seed=1), 0.5 + 0.01 * _image(1, 48, 48, seed=2)
    found = {name: PyramidStylizer()(image, texture) for name, texture in (("rough", rough), ("smooth", smooth))}
    detail = {name: laplacian_pyramid(each[None], 1)[0][0].std() for name, each in found.items()}
    assert detail["rough"] > 10 * detail["smooth"]
    flat = PyramidStylizer()(image.mul(1e-3), rough)
    assert laplacian_pyramid(flat[None], 1)[0][0].std() > 0.5 * laplacian_pyramid(rough[None], 1)[0][0].std()


def test_the_pyramid_has_fewer_levels_where_an_image_or_a_texture_is_small():
    image, texture = _image(3, 9, 12), _image(3, 5, 6, seed=1)
    assert PyramidStylizer(6)(image, texture).equal(PyramidStylizer(2)(image, texture))
    assert PyramidStylizer(6)(texture, image).equal(PyramidStylizer(2)(texture, image))
    dot = _image(3, 1, 1, seed=2)
    torch.testing.assert_close(PyramidStylizer()(image, dot), MomentStylizer()(image, dot))


@pytest.mark.parametrize("kind", PIXELS)
def test_stylizers_of_pixels_keep_shape_and_dtype_and_take_batches(kind):
    batch, texture = _image(2, 3, 9, 12), _image(3, 5, 6, seed=1)
    found = kind()(batch, texture)
    assert found.shape == batch.shape
    torch.testing.assert_close(found, torch.stack([kind()(image, texture) for image in batch]))
    assert kind()(batch.float(), texture.float()).dtype is torch.float32
    assert kind()(batch.to(memory_format=torch.channels_last), texture).shape == batch.shape
    constant = torch.full_like(batch, 0.5)
    assert torch.isfinite(kind()(constant, texture)).all()


@pytest.mark.parametrize("kind", PIXELS)
def test_stylizers_of_pixels_remember_textures_and_travel_to_workers(kind):
    image, texture = _image(3, 9, 12), _image(3, 8, 8, seed=1)
    stylizer = kind()
    wanted = stylizer(image, texture)
    assert len(stylizer._memory._kept) == 1
    assert stylizer(image, texture).equal(wanted)
    for other in (pickle.loads(pickle.dumps(stylizer)), copy.deepcopy(stylizer)):
        assert other == stylizer
        assert other(image, texture).equal(wanted)
    texture.mul_(0.5)
    assert not stylizer(image, texture).equal(wanted)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("kind", PIXELS)
def test_pixels_outside_of_0_and_1_are_refused(kind):
    image, texture = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    for bad in (255 * torch.ones(3, 4, 4), -torch.ones(3, 4, 4)):
        with pytest.raises(ValueError, match=r"content must lie in \[0, 1\]"):
            kind()(bad, texture)
        with pytest.raises(ValueError, match=r"style must lie in \[0, 1\]"):
            kind()(image, bad)
    with pytest.raises(ValueError, match="style must have shape"):
        kind()(image, torch.zeros(1, 4, 4))


class _Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = _network(partial(nn.Conv2d, 3, 6, 3, padding=1), nn.Tanh)
        self.second = _network(partial(nn.Conv2d, 6, 4, 3, 2, 1), lambda: nn.BatchNorm2d(4), nn.Tanh, seed=1)

    def forward(self, x):
        first = self.first(x)
        return {"first": first, "second": self.second(first)}


@pytest.mark.parametrize(("optimizer", "rate"), [("lbfgs", 0.5), ("adam", 0.02)])
def test_gatys_brings_the_gram_matrices_near_those_of_the_texture(optimizer, rate):
    features = _Layers().train()
    kept = copy.deepcopy(features.state_dict())
    image, texture = _image(3, 12, 13), 0.3 + 0.2 * _image(3, 9, 8, seed=1)
    stylizer = GatysStylizer(features, 0.0, 1e3, steps=30, optimizer=optimizer, learning_rate=rate)
    with torch.no_grad():
        found = stylizer(image, texture)
        assert features.training
        features.eval()

        def distance(x):
            pairs = zip(features(x[None]).values(), features(texture[None]).values(), strict=True)
            return sum((gram_matrix(a) - gram_matrix(b)).square().mean().item() for a, b in pairs)

        assert distance(found) < 0.1 * distance(image)
    assert found.min() >= 0
    assert found.max() <= 1
    assert all(value.equal(kept[name]) for name, value in features.state_dict().items())
    assert all(p.grad is None for p in features.parameters())


def test_gatys_with_its_own_texture_or_without_style_stays_at_the_content():
    features, image = _Layers(), _image(3, 12, 13)
    torch.testing.assert_close(GatysStylizer(features, steps=3)(image, image), image)
    mild = GatysStylizer(features, 1.0, 1e-12, steps=3)(image, _image(3, 8, 8, seed=1))
    torch.testing.assert_close(mild, image, rtol=0, atol=1e-4)


def test_gatys_minimises_what_it_says():
    features, image, texture = _Layers().eval(), _image(1, 3, 8, 8), _image(1, 3, 6, 6, seed=1)
    content = _image(1, 3, 8, 8, seed=2)
    found = GatysStylizer(features, 2.0, 3.0).loss(
        image, features(content)["second"], [gram_matrix(maps) for maps in features(texture).values()]
    )
    wanted = 2 * (features(image)["second"] - features(content)["second"]).square().mean()
    for name in ("first", "second"):
        wanted += 3 * (gram_matrix(features(image)[name]) - gram_matrix(features(texture)[name])).square().mean()
    torch.testing.assert_close(found, wanted)


def test_gatys_refuses_what_gives_no_maps():
    stylizer = GatysStylizer(nn.Flatten(), steps=1)
    with pytest.raises(ValueError, match="features must give maps"):
        stylizer(_image(3, 4, 4), _image(3, 4, 4))


def _coder():
    return (
        _network(partial(nn.Conv2d, 3, 5, 3, 2, 1), lambda: nn.BatchNorm2d(5)),
        _network(partial(nn.Conv2d, 5, 3, 1), partial(nn.Upsample, scale_factor=2), seed=1),
    )


def test_adain_in_features_is_its_formula():
    encoder, decoder = _coder()
    image, texture = _image(2, 3, 8, 8), _image(3, 6, 6, seed=1)
    stylizer = AdaINStylizer(encoder, decoder, 0.3, eps=1e-3)
    found = stylizer(image, texture)
    assert stylizer.training
    stylizer.eval()
    with torch.no_grad():
        maps = encoder(image)
        wanted = decoder(0.7 * maps + 0.3 * adain(maps, encoder(texture[None])[0], 1e-3)).clamp(0, 1)
    torch.testing.assert_close(found, wanted)
    assert not found.requires_grad


def test_adain_without_networks_is_that_of_pixels_and_alpha_0_the_content():
    image, texture = _image(3, 7, 9), _image(3, 6, 6, seed=1)
    whole = AdaINStylizer(nn.Identity(), nn.Identity())(image, texture)
    torch.testing.assert_close(whole, adain(image, texture).clamp(0, 1))
    assert AdaINStylizer(nn.Identity(), nn.Identity(), 0.0)(image, texture).equal(image)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_adain_takes_the_weights_of_a_file(tmp_path, suffix):
    first, second = AdaINStylizer(*_coder()), AdaINStylizer(*_coder())
    for parameter in first.parameters():
        parameter.data.mul_(2).add_(0.1)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(first.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(first.state_dict(), path)
    image, texture = _image(3, 8, 8), _image(3, 6, 6, seed=1)
    loaded = AdaINStylizer(*_coder(), weights=path)
    assert loaded(image, texture).equal(first(image, texture))
    assert not loaded(image, texture).equal(second(image, texture))


def test_a_decoder_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="decoder gives images of shape"):
        AdaINStylizer(nn.Identity(), _network(partial(nn.Conv2d, 3, 1, 1)))(_image(3, 8, 8), _image(3, 8, 8))
