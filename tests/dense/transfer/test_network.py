"""IceHrNet: its size by formula, its shapes, where gradients go, seeds, and weights from files."""

import pytest
import torch
from safetensors.torch import save_file

from equipoise.dense import ASPP, HRNetBackbone, IceHrNet

_SMALL = {"blocks": (1, 1, 1, 1), "modules": (1, 1, 1, 1)}


def _convolution(inputs, outputs, kernel, bias, groups=1):
    """Values of a convolution and the affine part of its batch norm."""
    return inputs * outputs * kernel**2 // groups + bias * outputs + 2 * outputs


def _head(width, classes):
    high = 15 * width
    separable = _convolution(high, high, 3, 1, high) + _convolution(high, 256, 1, 1)
    aspp = _convolution(high, 256, 1, 1) + 3 * separable + _convolution(high, 256, 1, 0) + _convolution(1280, 256, 1, 1)
    decoder = _convolution(64, 48, 1, 1) + _convolution(304, 304, 3, 1, 304) + _convolution(304, 256, 1, 1)
    decoder += _convolution(256, 256, 3, 1, 256) + _convolution(256, 256, 1, 1) + 257 * classes
    return aspp, decoder


@pytest.mark.parametrize(("width", "classes", "total"), [(48, 2, 66_760_018), (18, 4, 10_405_472)])
def test_its_size_is_the_published_one_and_that_of_the_formula(width, classes, total):
    with torch.device("meta"):
        counts = IceHrNet(classes, width).parameter_counts()
    assert counts.total == total
    assert (counts.aspp, counts.decoder) == _head(width, classes)
    if width == 48:
        assert counts.with_statistics == 66_853_746


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96)])
@pytest.mark.parametrize("low_level", ["conv1", "stage1"])
def test_logits_have_the_size_of_the_images(size, low_level):
    model = IceHrNet.tiny(3, low_level=low_level).eval()
    assert model(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_the_first_convolution_is_reached_by_the_gradient():
    model = IceHrNet.tiny(2)
    model(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    assert all(each.grad is not None and torch.isfinite(each.grad).all() for each in model.parameters())
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_the_low_level_map_goes_past_the_backbone():
    """The decoder sees the first convolution itself: blanking the high-level maps leaves the result dependent on it."""
    model = IceHrNet.tiny(2).eval()
    for each in model.aspp.parameters():
        torch.nn.init.zeros_(each)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = model(images)
    assert (found[0] - found[1]).abs().max() > 1e-6


def test_seeds_decide_the_weights_and_nothing_else_is_touched():
    before = torch.random.get_rng_state()
    one, same, other = (IceHrNet.tiny(2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_published_initial_weights_are_small():
    model = HRNetBackbone(8, **_SMALL, init="published")
    assert float(model.conv2.weight.detach().std()) == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "checkpoint"])
def test_weights_come_from_a_file_without_its_classifier(kind, tmp_path):
    source = HRNetBackbone(8, **_SMALL, seed=3)
    state = {**source.state_dict(), "classifier.weight": torch.zeros(4, 2)}
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "torch" else {"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    model = IceHrNet(2, 8, **_SMALL, backbone_weights=path)
    found = model.backbone.state_dict()
    assert all(torch.equal(found[name], each) for name, each in source.state_dict().items())


def test_weights_that_do_not_fit_are_refused(plain_inputs, tmp_path):
    save_file(HRNetBackbone(16, **_SMALL).state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="width, blocks and modules must be those of the weights"):
        HRNetBackbone(8, **_SMALL, weights=tmp_path / "wide.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="is no safetensors file"):
        HRNetBackbone(8, **_SMALL, weights=tmp_path / "text.safetensors")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        HRNetBackbone(8, **_SMALL, weights=tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError, match="is no file"):
        HRNetBackbone(8, **_SMALL, weights=tmp_path / "nowhere.pt")


def test_bad_images_and_settings_are_refused(plain_inputs):
    model = IceHrNet.tiny(2)
    with pytest.raises(ValueError, match="too small; pad or resize them to 32"):
        model(torch.rand(2, 3, 31, 40))
    with pytest.raises(ValueError, match=r"images must have shape \(batch, 3, height, width\)"):
        model(torch.rand(2, 1, 40, 40))
    with pytest.raises(ValueError, match="must be floating point"):
        model(torch.zeros(2, 3, 40, 40, dtype=torch.uint8))
    with pytest.raises(ValueError, match="num_classes=1"):
        IceHrNet(1)
    with pytest.raises(ValueError, match="four numbers"):
        HRNetBackbone(8, blocks=(1, 1, 1))
    with pytest.raises(ValueError, match="rates are empty"):
        ASPP(8, ())


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (64, 64)])
def test_one_image_is_refused_in_training_before_anything_moves(plain_inputs, size):
    model = IceHrNet.tiny(2)
    before = {name: each.clone() for name, each in model.named_buffers()}
    images = torch.rand(1, 3, *size)
    with pytest.raises(ValueError, match="a batch of one image cannot be trained on"):
        model(images)
    assert all(each.equal(before[name]) for name, each in model.named_buffers())
    assert model.eval()(images).shape == (1, 2, *size)


def test_one_image_is_trained_on_with_frozen_batch_norms():
    model = IceHrNet.tiny(2)
    for each in model.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            each.eval()
    assert model.training
    model(torch.rand(1, 3, 32, 32)).square().mean().backward()
    assert model.backbone.conv1.weight.grad.isfinite().all()


def test_a_backbone_refuses_one_image_whose_coarsest_map_is_a_pixel(plain_inputs):
    backbone = HRNetBackbone(8, **_SMALL)
    with pytest.raises(ValueError, match="one image of 32 × 32 pixels cannot be trained on"):
        backbone(torch.rand(1, 3, 32, 32))
    assert backbone(torch.rand(1, 3, 32, 33)).high.isfinite().all()
    assert backbone.eval()(torch.rand(1, 3, 32, 32)).high.isfinite().all()


@pytest.mark.slow
def test_four_images_are_learnt_by_heart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(4, 64, 64, dtype=torch.long)
    for k in range(4):
        labels[k, 8 * k : 8 * k + 30, 10:50] = 1
    noise = torch.randn(4, 1, 64, 64, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 7, 1, 3)
    images = (0.5 + torch.where(labels[:, None] == 1, 0.12 * noise, 0.3 * smooth)).expand(4, 3, 64, 64)
    model = IceHrNet.tiny(2)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert float((model(images).argmax(1) == labels).double().mean()) > 0.98
