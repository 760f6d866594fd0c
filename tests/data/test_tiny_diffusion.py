"""The small configuration trains in seconds; what the usual one can do is measured in the claims that use it."""

from dataclasses import replace

import pytest
import torch

from equipoise.core.diffusion import Denoiser
from equipoise.core.models.generators import TextToImage
from equipoise.data.kept_models import kept_folder
from equipoise.data.tiny_clip import TinyCLIPConfig
from equipoise.data.tiny_diffusion import (
    TinyDiffusionConfig,
    tiny_text_to_image,
    train_denoiser,
    training_pairs,
    untrained_tiny_diffusion,
)

pytest.importorskip("transformers", reason="transformers is not installed")
SMALL = TinyDiffusionConfig(
    components=24, width=32, blocks=1, pictures=200, steps=40, clip=TinyCLIPConfig(pictures=64, steps=2, batch=16)
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def pipeline(cache):
    return tiny_text_to_image(SMALL, cache)


def test_it_is_kept_and_loaded(pipeline, cache):
    folder = cache / f"tiny-diffusion-{SMALL.key()}"
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "recipe.json"]
    written = (folder / "model.safetensors").stat().st_mtime_ns
    again = tiny_text_to_image(SMALL, cache)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert bool((again(["dax"], [3]) == pipeline(["dax"], [3])).all())
    assert not any(p.requires_grad for p in again.denoiser.parameters())


def test_it_keeps_the_protocols(pipeline):
    assert isinstance(pipeline, TextToImage)
    assert isinstance(pipeline.denoiser, Denoiser)


def test_pictures_are_in_range_and_follow_prompt_and_seed(pipeline):
    pictures = pipeline(["red circle", "red circle", "blue cross"], [1, 2, 1])
    assert pictures.shape == (3, 3, 16, 16)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    assert not torch.equal(pictures[0], pictures[1])
    torch.testing.assert_close(pipeline(["red circle"], [2])[0], pictures[1], atol=1e-4, rtol=0)
    assert pipeline([], []).shape == (0, 3, 16, 16)
    with pytest.raises(ValueError, match="2 prompts"):
        pipeline(["dax", "wug"], [1])


def test_the_key_changes_with_every_setting():
    others = [replace(SMALL, bias=0.5), replace(SMALL, seed=1), replace(SMALL, clip=TinyCLIPConfig(seed=1))]
    assert len({SMALL.key(), *(other.key() for other in others)}) == 4


def test_training_lowers_the_loss_and_leaves_the_global_seed_alone():
    images, _ = training_pairs(SMALL)
    coder, denoiser = untrained_tiny_diffusion(SMALL)
    latents = coder.fit(images).encode(images)
    condition = torch.zeros(len(latents), SMALL.clip.projection)
    times, noise = (
        torch.full((len(latents),), 60),
        torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)),
    )

    def loss():
        with torch.no_grad():
            noisy = denoiser.schedule.add_noise(latents, noise, times)
            wanted = denoiser.schedule.target(latents, noise, times, "v")
            return float((denoiser.predict(noisy, times, condition) - wanted).square().mean())

    before, state = loss(), torch.random.get_rng_state()
    train_denoiser(denoiser, latents, condition, steps=200, generator=torch.Generator().manual_seed(0), lr=3e-3)
    assert loss() < 0.8 * before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_kept_folder_is_written_once_and_whole(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        kept_folder("model", fail, tmp_path)
    assert list(tmp_path.iterdir()) == []

    def other_is_faster(folder):
        kept_folder("model", lambda own: (own / "first").write_text("x"), tmp_path)

    assert [path.name for path in kept_folder("model", other_is_faster, tmp_path).iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
