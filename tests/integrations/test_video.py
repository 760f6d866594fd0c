"""transformers' models as video encoders, tiny and random."""

from __future__ import annotations

import pytest
import torch

from equipoise.core.models.low_rank import add_lora
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


def test_lora_finds_the_query_and_value_of_both():
    for model, count in ((vivit(), 2), (clip(), 2)):
        assert len(add_lora(VideoEncoder(model), r=2)) == count


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
