"""Restoration bridges: they learn, they come back from disk, and a stopped training goes on as if it had not been."""

import warnings

import pytest
import torch
from torch import nn

from equipoise.core.models.generators import ImageToImage
from equipoise.data.shapes import ShapesWorld, drop_blocks, pixelate
from equipoise.generative import BridgeModel, BridgeSchedule, BridgeTrainer, RoutedMixture, fit_bridge


def _pairs(n=300, seed=3):
    clean = ShapesWorld(n, seed=seed, returns=("image",), layout="single").tensors()["image"] * 2 - 1
    return clean, pixelate(clean)


class _Convolution(nn.Module):
    """A network over pixels."""

    def __init__(self, channels=3, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels + 1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, x, time):
        told = (time / 100).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return self.layers(torch.cat([x, told], 1))


@pytest.mark.parametrize("cond_x1", [False, True])
def test_it_sharpens_pictures_it_has_not_seen(cond_x1):
    clean, degraded = _pairs(600)
    model = BridgeModel.for_pairs(clean, degraded, components=48, width=64, cond_x1=cond_x1)
    assert isinstance(model, ImageToImage)
    fit = model.fit(clean, degraded, steps=250)
    assert fit.losses[-1] < 0.8 * fit.losses[0]
    fresh, coarse = _pairs(64, seed=9)
    before = (coarse - fresh).square().mean()
    assert (model(coarse) - fresh).square().mean() < 0.6 * before
    assert float(model(coarse).abs().max()) <= 1
    # In a few steps as well.
    assert (model(coarse, steps=2) - fresh).square().mean() < 0.7 * before


def test_a_network_over_pixels_fills_holes_and_leaves_the_rest_alone():
    clean, _ = _pairs(100)
    holes, hidden = drop_blocks(clean, value=0.0, generator=torch.Generator().manual_seed(0))
    model = BridgeModel(_Convolution(6), BridgeSchedule(20), cond_x1=True, steps=4)
    fit_bridge(model, clean, holes, steps=60, learning_rate=1e-2)
    restored = model(holes, known=~hidden)
    known = (~hidden).expand_as(clean)
    assert restored[known].equal(clean[known])
    assert (restored - clean).square().mean() < (holes - clean).square().mean()


def test_with_a_codec_known_pixels_are_put_back_at_the_end():
    clean, degraded = _pairs(40)
    model = BridgeModel.for_pairs(clean, degraded, components=8, width=8)
    known = torch.zeros(40, 1, 16, 16, dtype=torch.bool)
    known[:, :, :4] = True
    restored = model(degraded, known=known)
    assert restored[:, :, :4].equal(degraded[:, :, :4])
    assert restored[:, :, 4:].equal(model(degraded)[:, :, 4:])


def test_the_seed_decides_and_the_batch_does_not():
    clean, degraded = _pairs(40)
    model = BridgeModel.for_pairs(clean, degraded, components=16, width=16).eval()
    whole = model(degraded[:6], 4)
    torch.testing.assert_close(torch.cat([model(one[None], 4) for one in degraded[:6]]), whole, rtol=1e-4, atol=1e-5)
    assert not model(degraded[:6], 5).equal(whole)


def test_the_codec_keeps_the_units_of_pixels():
    clean, degraded = _pairs(400)
    model = BridgeModel.for_pairs(clean, degraded, components=768 // 2)
    a, b = model.encode(clean[:1]), model.encode(clean[1:2])
    assert float((a - b).norm()) == pytest.approx(float((clean[0] - clean[1]).norm()), rel=0.02)


def test_the_same_seed_gives_the_same_weights_and_the_average_is_taken():
    clean, degraded = _pairs(50)

    def trained(average):
        model = BridgeModel.for_pairs(clean, degraded, components=8, width=8, seed=1)
        fit_bridge(model, clean, degraded, steps=30, seed=2, average=average)
        return model(degraded[:4])

    assert trained(0.9).equal(trained(0.9))
    assert not trained(0.9).equal(trained(0.0))


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path):
    clean, degraded = _pairs(50)

    def model():
        return BridgeModel.for_pairs(clean, degraded, components=8, width=8)

    whole = fit_bridge(model(), clean, degraded, steps=120)

    class StopError(Exception):
        pass

    def stop(done, loss):
        if done >= 100:
            raise StopError

    path = tmp_path / "training.pt"
    with pytest.raises(StopError):
        fit_bridge(model(), clean, degraded, steps=120, checkpoint=path, progress=stop)
    seen = []
    resumed = fit_bridge(
        model(), clean, degraded, steps=120, checkpoint=path, progress=lambda done, loss: seen.append(done)
    )
    assert seen == [100, 120]
    assert resumed.losses == whole.losses
    assert resumed.model(degraded[:3]).equal(whole.model(degraded[:3]))
    with pytest.raises(ValueError, match="of other data or settings"):
        fit_bridge(model(), clean, degraded, steps=120, seed=1, checkpoint=path)


@pytest.mark.parametrize("kind", ["vector", "mixture", "two layers", "pruned"])
def test_a_saved_model_restores_alike(kind, tmp_path):
    clean, degraded = _pairs(60)
    model = BridgeModel.for_pairs(clean, degraded, components=8, width=8, steps=4, cond_x1=kind == "vector")
    if kind != "vector":
        other = BridgeModel.for_pairs(clean, degraded, components=8, width=8, seed=7)
        two = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
        router = two if kind == "two layers" else nn.Linear(8, 2)
        model.network = RoutedMixture([model.network, other.network], router, skip_below=1e-4)
        if kind == "pruned":
            model.network = model.network.without([1])
    model.fit(clean, degraded, steps=10)
    loaded = BridgeModel.load(model.save(tmp_path / "bridge"))
    assert loaded(degraded[:5], 3).equal(model(degraded[:5], 3))
    assert not list((tmp_path / "bridge").glob("*.p*"))


def test_a_network_of_ones_own_is_given_to_load(tmp_path):
    degraded = _pairs(4)[1]
    model = BridgeModel(_Convolution(), BridgeSchedule(10), steps=3)
    model.save(tmp_path)
    with pytest.raises(ValueError, match="give network="):
        BridgeModel.load(tmp_path)
    assert BridgeModel.load(tmp_path, _Convolution())(degraded).equal(model(degraded))
    (tmp_path / "bridge.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no bridge"):
        BridgeModel.load(tmp_path)
    with pytest.raises(ValueError, match="holds no bridge"):
        BridgeModel.load(tmp_path / "nowhere")


def test_a_mixture_learns_and_a_price_on_its_weights_evens_them_out():
    clean, degraded = _pairs(100)

    def trained(price):
        model = BridgeModel.for_pairs(clean, degraded, components=16, width=16)
        other = BridgeModel.for_pairs(clean, degraded, components=16, width=16, seed=5)
        router = nn.Linear(16, 2)
        nn.init.zeros_(router.weight)
        router.bias.data = torch.tensor([2.0, 0.0])
        model.network = RoutedMixture([model.network, other.network], router)
        model.fit(clean, degraded, steps=100, reallocation=price, learning_rate=1e-2)
        weights = model.network.route(model.encode(degraded)).detach()
        return float((weights - 0.5).square().sum(1).mean())

    assert trained(10.0) < 0.5 * trained(0.0)


def test_only_what_asks_for_gradients_is_trained():
    clean, degraded = _pairs(30)
    model = BridgeModel.for_pairs(clean, degraded, components=8, width=8)
    model.network.time.requires_grad_(False)
    kept = [p.clone() for p in model.network.time.parameters()]
    trainer = BridgeTrainer(model, lambda g, n: (torch.zeros(n, 8), torch.ones(n, 8)), 5)
    trainer.epoch()
    trainer.finish()
    assert all(a.equal(b) for a, b in zip(kept, model.network.time.parameters(), strict=True))
    assert not model.training


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    clean, degraded = _pairs(20)
    model = BridgeModel.for_pairs(clean, degraded, components=8, width=8)
    for call, said in (
        (lambda: BridgeModel.for_pairs(clean, degraded[:, :1]), "degraded must have shape"),
        (lambda: BridgeModel.for_pairs(clean[:3], degraded[:3], components=50), "components"),
        (lambda: BridgeModel(nn.Identity(), steps=100), "steps=100 must be below"),
        (lambda: model.fit(clean, degraded[:5]), "degraded must have shape"),
        (lambda: model.fit(clean, degraded, steps=0), "steps=0"),
        (lambda: model.fit(clean, degraded, average=1.0), "average=1.0"),
        (lambda: model.fit(clean.tolist(), degraded), "clean must be a torch.Tensor"),
        (lambda: model(degraded[0]), "images must have shape"),
        (lambda: model(degraded, known=torch.ones(20, 2, 16, 16, dtype=torch.bool)), "known must have 1 or 3"),
        (lambda: BridgeModel(nn.Identity().train())(degraded), "takes"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            call()
    with pytest.warns(UserWarning, match="reach beyond"):
        model(2 * degraded)
    free = BridgeModel.for_pairs(clean, degraded, components=8, width=8, clip=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free(2 * degraded)
