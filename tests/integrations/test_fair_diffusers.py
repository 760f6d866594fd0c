"""A tiny Stable Diffusion pipeline, real but for its size and its weights, with an adapter of its text encoder."""

import copy
import warnings

import pytest
import torch

from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
from equipoise.generative import LightFairDebiaser, References
from equipoise.integrations.clip import CLIPTower
from equipoise.integrations.fair_diffusers import (
    SwitchPromptEmbeds,
    TwoStagePipeline,
    debiased_text_encoder,
    load_pipeline,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is not installed: pip install 'equipoise[diffusers]'"
    )

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("plain_inputs")]
STEPS = 10
PROMPTS = ["a dax", "one nice wug"]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pipeline(clip):
    import transformers

    config = copy.deepcopy(clip.model.config.text_config)
    text_encoder = transformers.CLIPTextModel(config)
    weights = clip.model.text_model.state_dict()
    (getattr(text_encoder, "text_model", text_encoder)).load_state_dict(weights)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    found = diffusers.StableDiffusionPipeline(
        vae,
        text_encoder.eval(),
        clip.tokenizer,
        unet,
        diffusers.DDIMScheduler(num_train_timesteps=1000, steps_offset=1, clip_sample=False),
        None,
        None,
        requires_safety_checker=False,
    )
    found.set_progress_bar_config(disable=True)
    return found


def _no_pictures(prompts, seeds):
    raise AssertionError("references are given")


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    """An adapter that has moved far, so that pictures differ."""
    debiaser = LightFairDebiaser(clip, _no_pictures, ["dax"], ["red", "blue"], steps=30, learning_rate=0.02, keep=0.0)
    generator = torch.Generator().manual_seed(0)
    rows = [[torch.randn(4, 48, generator=generator) for _ in range(2)]]
    debiaser.references = References.of(("dax",), ("red", "blue"), rows)
    debiaser.fit()
    return debiaser.save_adapter(tmp_path_factory.mktemp("fair"))


@pytest.fixture(scope="module")
def debiased(pipeline, folder):
    return debiased_text_encoder(pipeline, folder)


def _draw(pipeline, encoder, fraction, scale=5.0):
    draw = TwoStagePipeline(
        pipeline, encoder, switch_fraction=fraction, num_inference_steps=STEPS, guidance_scale=scale, batch_size=2
    )
    return draw(PROMPTS, [3, 4])


def _read_by_the_unet(pipeline, encoder, fraction, scale, monkeypatch):
    seen = []
    forward = pipeline.unet.forward

    def noted(sample, timestep, encoder_hidden_states, **rest):
        seen.append((float(timestep), encoder_hidden_states.clone()))
        return forward(sample, timestep, encoder_hidden_states=encoder_hidden_states, **rest)

    monkeypatch.setattr(pipeline.unet, "forward", noted)
    _draw(pipeline, encoder, fraction, scale)
    monkeypatch.undo()
    return seen


def _embedded(pipeline, encoder, texts):
    ids = pipeline.tokenizer(texts, padding="max_length", max_length=24, return_tensors="pt").input_ids
    return encoder(ids)[0]


def test_the_adapter_changes_the_token_states_of_a_copy_only(pipeline, debiased):
    texts = ["a dax"]
    before, after = (_embedded(pipeline, encoder, texts) for encoder in (pipeline.text_encoder, debiased))
    assert float((before - after).detach().abs().max()) > 0.01


@pytest.mark.parametrize("scale", [5.0, 1.0])
@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.9, 1.0])
def test_the_denoiser_reads_the_debiased_text_below_the_switch_and_never_as_negative(
    pipeline, debiased, fraction, scale, monkeypatch
):
    seen = _read_by_the_unet(pipeline, debiased, fraction, scale, monkeypatch)
    original = _embedded(pipeline, pipeline.text_encoder, PROMPTS)
    changed = _embedded(pipeline, debiased, PROMPTS)
    negative = _embedded(pipeline, pipeline.text_encoder, ["", ""])
    assert len(seen) == STEPS
    for timestep, given in seen:
        wanted = changed if timestep < fraction * 1000 else original
        if scale > 1:
            torch.testing.assert_close(given[:2], negative)
            given = given[2:]
        torch.testing.assert_close(given, wanted)


def test_the_ends_are_the_plain_pipelines(pipeline, debiased):
    def plain(encoder):
        before, pipeline.text_encoder = pipeline.text_encoder, encoder
        try:
            embeds, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
        finally:
            pipeline.text_encoder = before
        _, negative = pipeline.encode_prompt(PROMPTS, "cpu", 1, True, ["", ""])
        return pipeline(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
            output_type="pt",
        ).images

    original = _draw(pipeline, debiased, 0.0)
    torch.testing.assert_close(original, plain(pipeline.text_encoder))
    torch.testing.assert_close(_draw(pipeline, None, 1.0), original)
    torch.testing.assert_close(_draw(pipeline, debiased, 1.0), plain(debiased))
    assert original.shape == (2, 3, 16, 16)
    assert 0 <= float(original.min()) <= float(original.max()) <= 1


def test_pictures_do_not_depend_on_their_batch_and_the_encoder_is_put_back(pipeline, debiased):
    encoder = pipeline.text_encoder
    draw = TwoStagePipeline(pipeline, debiased, switch_fraction=0.5, num_inference_steps=STEPS, batch_size=1)
    both = TwoStagePipeline(pipeline, debiased, switch_fraction=0.5, num_inference_steps=STEPS, batch_size=2)
    torch.testing.assert_close(draw(PROMPTS, [3, 4]), both(PROMPTS, [3, 4]), rtol=1e-3, atol=1e-3)
    assert pipeline.text_encoder is encoder


def test_the_callback_works_in_a_call_of_ones_own(pipeline, debiased):
    changed = _embedded(pipeline, debiased, PROMPTS[:1]).detach().repeat(2, 1, 1)
    switch = SwitchPromptEmbeds(changed, 0.5)
    found = pipeline(
        PROMPTS[:1],
        num_images_per_prompt=2,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        output_type="pt",
        callback_on_step_end=switch,
        callback_on_step_end_tensor_inputs=switch.tensor_inputs,
    ).images
    draw = TwoStagePipeline(pipeline, debiased, switch_fraction=0.5, num_inference_steps=STEPS, guidance_scale=5.0)
    torch.testing.assert_close(found, draw(PROMPTS[:1] * 2, [3, 4]), rtol=1e-3, atol=1e-3)


def test_a_pipeline_is_saved_and_loaded_from_its_folder(pipeline, debiased, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    torch.testing.assert_close(_draw(loaded, None, 0.0), _draw(pipeline, None, 0.0))
    with pytest.raises(OSError, match="nowhere"):
        load_pipeline(tmp_path / "nowhere")


def test_what_does_not_fit_is_refused(pipeline, debiased):
    states = torch.zeros(1, 24, 64)
    with pytest.raises(ValueError, match=r"switch_fraction=1\.5"):
        SwitchPromptEmbeds(states, 1.5)
    with pytest.raises(ValueError, match="switch_fraction=-1"):
        TwoStagePipeline(pipeline, debiased, switch_fraction=-1)
    switch = SwitchPromptEmbeds(states, 1.0)
    pipeline.scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="passes no prompt_embeds"):
        switch(pipeline, 0, 999, {})
    with pytest.raises(ValueError, match=r"of shape \(3, 24, 64\), the debiased ones are \(1, 24, 64\)"):
        switch(pipeline, 0, 999, {"prompt_embeds": torch.zeros(3, 24, 64)})
    with pytest.raises(ValueError, match="2 prompts need as many seeds"):
        TwoStagePipeline(pipeline)(PROMPTS, [0])


def test_two_pictures_of_a_prompt_are_not_taken_for_a_negative_one(pipeline):
    pipeline.scheduler.set_timesteps(4)
    switch, held = SwitchPromptEmbeds(torch.ones(1, 24, 64), 1.0), {"prompt_embeds": torch.zeros(2, 24, 64)}
    before = pipeline._guidance_scale
    try:
        pipeline._guidance_scale = 1.0
        with pytest.raises(ValueError, match="one for each prompt and picture"):
            switch(pipeline, 0, 999, dict(held))
        pipeline._guidance_scale = 5.0
        assert switch(pipeline, 0, 999, dict(held))["prompt_embeds"].mean((1, 2)).tolist() == [0, 1]
        with pytest.raises(ValueError, match="one for each prompt and picture"):
            switch(pipeline, 0, 999, {"prompt_embeds": torch.zeros(1, 24, 64)})
    finally:
        pipeline._guidance_scale = before


@pytest.mark.parametrize("name", ["num_images_per_prompt", "generator", "callback_on_step_end"])
def test_what_a_call_gives_is_no_setting(pipeline, name):
    with pytest.raises(ValueError, match=name):
        TwoStagePipeline(pipeline, **{name: 2})
