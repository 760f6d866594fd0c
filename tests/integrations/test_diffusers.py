"""On a pipeline that is built from a configuration: real code, random weights."""

import socket

import pytest
import torch

from equipoise.core.diffusion import Denoiser, ddim_sample
from equipoise.core.models.generators import TextToImage
from equipoise.integrations.diffusers import DiffusersDenoiser, DiffusersTextToImage

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def pipeline():
    from equipoise.data.shapes import VOCABULARY
    from equipoise.data.tiny_clip import tiny_tokenizer

    torch.manual_seed(0)
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=24,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    coder = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    return diffusers.StableDiffusionPipeline(
        vae=coder.eval(),
        text_encoder=text.eval(),
        tokenizer=tiny_tokenizer(),
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def test_pictures_follow_prompt_and_seed_and_not_the_batch(pipeline):
    paint = DiffusersTextToImage(pipeline, count=2, batch_size=2)
    assert isinstance(paint, TextToImage)
    pictures = paint(["red circle", "blue cross", "red circle"], [1, 1, 2])
    assert pictures.shape == (3, 3, 16, 16)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    torch.testing.assert_close(paint(["red circle"], [2])[0], pictures[2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pictures[0], pictures[2])


def test_the_callback_sees_negative_and_positive_embeddings(pipeline):
    seen = []

    def look(_, step, timestep, tensors):
        seen.append((step, tuple(tensors["prompt_embeds"].shape)))
        return tensors

    DiffusersTextToImage(pipeline, count=2, guidance=3.0)(["dax", "wug"], [0, 1], callback=look)
    assert seen == [(0, (4, 24, 16)), (1, (4, 24, 16))]


def test_a_saved_pipeline_is_loaded_without_the_network(pipeline, tmp_path, monkeypatch):
    pipeline.save_pretrained(tmp_path)

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    again = DiffusersTextToImage.from_pretrained(tmp_path, count=2)
    first = DiffusersTextToImage(pipeline, count=2)
    torch.testing.assert_close(again(["dax"], [5]), first(["dax"], [5]), atol=1e-4, rtol=1e-4)
    with pytest.raises(OSError, match="neither a folder nor in the cache"):
        DiffusersTextToImage.from_pretrained("nowhere/at-all")


def test_our_sampler_gives_the_latents_of_the_pipeline(pipeline):
    denoiser = DiffusersDenoiser(pipeline.unet, pipeline.scheduler)
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.prediction_type, denoiser.shape) == ("epsilon", (4, 8, 8))
    states, _ = pipeline.encode_prompt(["red circle"], "cpu", 1, do_classifier_free_guidance=False)
    with torch.no_grad():
        theirs = pipeline(
            ["red circle"],
            num_inference_steps=5,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(3)],
            output_type="latent",
        ).images
    steps = [*pipeline.scheduler.timesteps.tolist(), -1]
    assert steps == [801, 601, 401, 201, 1, -1]
    torch.testing.assert_close(ddim_sample(denoiser, states, [3], steps=steps), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"count": 0}, {"batch_size": 0}, {"guidance": 0.5}])
def test_bad_settings_are_refused(pipeline, settings):
    with pytest.raises(ValueError, match="at least 1"):
        DiffusersTextToImage(pipeline, **settings)


def test_prompts_need_as_many_seeds(pipeline):
    paint = DiffusersTextToImage(pipeline, count=1)
    for prompts, seeds in (([], []), (["dax"], [1, 2])):
        with pytest.raises(ValueError, match="as many seeds"):
            paint(prompts, seeds)


def test_a_scheduler_of_another_kind_is_refused(pipeline):
    odd = diffusers.FlowMatchEulerDiscreteScheduler()
    odd.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="prediction_type='flow'"):
        DiffusersDenoiser(pipeline.unet, odd)
