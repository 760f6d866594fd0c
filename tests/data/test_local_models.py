import socket

import pytest

from equipoise.data.local_models import local_model

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_folder_is_taken_as_it_is(tmp_path, no_network):
    assert local_model(tmp_path) == str(tmp_path)


@pytest.mark.parametrize("name", ["nowhere/at-all", "./no folder/at/all"])
def test_what_is_not_there_is_refused_without_the_network(name, no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="neither a folder nor in the cache"):
        local_model(name)


def test_a_model_in_the_cache_is_found(tmp_path, no_network, monkeypatch):
    from huggingface_hub import constants

    held = tmp_path / "models--some--model"
    (held / "refs").mkdir(parents=True)
    (held / "refs" / "main").write_text("a" * 40)
    folder = held / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert local_model("some/model") == str(folder)


def test_a_name_is_left_to_the_hub_if_downloads_are_allowed(no_network):
    assert local_model("some/model", allow_download=True) == "some/model"


@pytest.mark.parametrize("load", ["clip", "video", "images", "texts"])
def test_no_loader_asks_the_network(load, no_network):
    pytest.importorskip("transformers", reason="transformers is not installed")
    from equipoise.data.pretrained import image_encoder, text_encoder
    from equipoise.integrations.clip import CLIPTower
    from equipoise.integrations.video import VideoEncoder

    loaders = {
        "clip": lambda: CLIPTower.from_pretrained("nowhere/at-all"),
        "video": lambda: VideoEncoder.from_pretrained("nowhere/at-all"),
        "images": lambda: image_encoder("transformers:nowhere/at-all"),
        "texts": lambda: text_encoder("transformers:nowhere/at-all"),
    }
    with pytest.raises(OSError, match="neither a folder nor in the cache"):
        loaders[load]()
