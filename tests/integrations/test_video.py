"""transformers' models as video encoders, tiny and random."""

from __future__ import annotations

import pytest
import torch

from equipoise.integrations.video import VideoEncoder

transformers = pytest.importorskip("transformers")


def vivit():
    return transformers.VivitModel(
        transformers.VivitConfig(
            image_size=8,
            num_frames=4,
            tubelet_size=[2, 4, 4],
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )


def clip():
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            image_size=8,
            patch_size=4,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            projection_dim=12,
        )
    )


def test_a_vivit_model_gives_a_vector_a_video_from_a_path(tmp_path):
    vivit().save_pretrained(tmp_path)
    encoder = VideoEncoder.from_pretrained(tmp_path)
    assert encoder(torch.rand(2, 4, 3, 8, 8)).shape == (2, 16)
    assert not any(value.requires_grad for value in encoder.parameters())
    assert not encoder.training


def test_a_clip_model_pools_the_frames_that_are_there(tmp_path):
    clip().save_pretrained(tmp_path)
    encoder, frames = VideoEncoder.from_pretrained(tmp_path), torch.rand(2, 3, 3, 8, 8)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    found = encoder(frames, mask)
    assert found.shape == (2, 12)
    torch.testing.assert_close(found[:1], encoder(frames[:1, :1]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "targets"), [(vivit, ["query", "value", "q_proj", "v_proj"]), (clip, ["q_proj", "v_proj"])]
)
def test_peft_tunes_an_encoder_from_where_it_stands(make, targets):
    peft = pytest.importorskip("peft")
    encoder, frames = VideoEncoder(make()).eval(), torch.rand(1, 4, 3, 8, 8)
    before = encoder(frames).detach()
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=targets), encoder)
    after = encoder(frames)
    torch.testing.assert_close(after, before)
    after[0, 0].backward()
    tuned = {name.rpartition("lora_")[2][0] for name, value in encoder.named_parameters() if value.requires_grad}
    assert tuned == {"A", "B"}
    assert any(value.grad.abs().sum() > 0 for value in encoder.parameters() if value.requires_grad)


def test_a_qwen_vision_tower_gives_a_vector_a_video():
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(
        depth=1,
        embed_dim=16,
        hidden_size=12,
        num_heads=2,
        mlp_ratio=2,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    encoder = VideoEncoder(Qwen2VisionTransformerPretrainedModel(config).eval(), "qwen_vl")
    frames = torch.rand(2, 4, 3, 16, 8)
    found = encoder(frames)
    assert found.shape == (2, 12)
    torch.testing.assert_close(found[1:], encoder(frames[1:]))


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="no video encoder"):
        VideoEncoder(
            transformers.BertModel(
                transformers.BertConfig(
                    hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
                )
            )
        )
