"""transformers' video and image models as encoders: by name or path, a plain module from frames to one vector.

    VideoEncoder.from_pretrained("google/vivit-b-16x2-kinetics400")     ViViT: (B, T, C, H, W) → (B, D)
    VideoEncoder.from_pretrained("openai/clip-vit-base-patch32")        CLIP by frame, averaged over time
    VideoEncoder.from_pretrained(path_to_qwen_vl)                       the vision tower, averaged over its tokens

Frames are normalised as the model's processor would: that is the caller's step. What goes in is fixed by the model
(ViViT: its own number of frames and size).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from equipoise.data.local_models import local_model
from equipoise.longtail.mistakes.video_features import MeanPoolVideoEncoder

KINDS = ("vivit", "clip", "qwen_vl")


class _CLIPImages(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).image_embeds


class VideoEncoder(nn.Module):
    """A transformers model behind (B, T, C, H, W) → (B, D).

    Args:
        model: `VivitModel`, `CLIPVisionModelWithProjection`, or the vision tower of a Qwen-VL model.
        kind: "vivit", "clip" or "qwen_vl"; by the model's configuration if absent.

    Raises:
        ValueError: on a model of another kind.
    """

    def __init__(self, model: Any, kind: str | None = None) -> None:
        super().__init__()
        kind = kind or _kind(str(model.config.model_type))
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not known; choose one of {', '.join(map(repr, KINDS))}")
        self.kind = kind
        self.model = MeanPoolVideoEncoder(_CLIPImages(model)) if kind == "clip" else model

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, allow_download: bool = False) -> VideoEncoder:
        """Load frozen and in evaluation mode, from a folder or the local cache unless a download is allowed.

        Raises:
            ValueError: on a model of another kind.
            OSError: if the model is not there.
        """
        import transformers

        found = local_model(name_or_path, allow_download=allow_download)
        options: dict[str, Any] = {"local_files_only": not allow_download}
        config = transformers.AutoConfig.from_pretrained(found, **options)
        kind = _kind(config.model_type)
        if kind == "vivit":
            model: Any = transformers.VivitModel.from_pretrained(found, **options)
        elif kind == "clip":
            model = transformers.CLIPVisionModelWithProjection.from_pretrained(found, **options)
        else:
            model = transformers.AutoModelForImageTextToText.from_pretrained(found, **options)
            model = model.model.visual
        return cls(model, kind).requires_grad_(False).eval()

    def forward(
        self, frames: Float[Tensor, "b t c h w"], frame_mask: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Encode; a mask of frames is for "clip" only.

        Raises:
            ValueError: on frames of another shape, or a mask for a model that cannot leave frames out.
        """
        if self.kind == "clip":
            return self.model(frames, frame_mask)
        if frames.ndim != 5:
            raise ValueError(
                f"frames must have shape (videos, time, channels, height, width), got {tuple(frames.shape)}"
            )
        if frame_mask is not None and not bool(frame_mask.all()):
            raise ValueError(f"a {self.kind} model takes whole clips; sample frames instead of masking them")
        if self.kind == "vivit":
            return self.model(pixel_values=frames).last_hidden_state[:, 0]
        return self._towers(frames)

    def _towers(self, frames: Tensor) -> Tensor:
        """Cut clips into the tower's flat list of patches, and average its merged tokens by video."""
        config: Any = self.model.config
        patch, merge, pair = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
        videos, time, channels, height, width = frames.shape
        if time % pair or height % (patch * merge) or width % (patch * merge):
            raise ValueError(
                f"frames {tuple(frames.shape)} must have a number of frames divisible by {pair} and sides by "
                f"{patch * merge}"
            )
        grid = (time // pair, height // patch, width // patch)
        cut = frames.reshape(
            videos, grid[0], pair, channels, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
        )
        # Patches that are merged stand side by side; within a patch: channel, time, row, column.
        patches = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).flatten(6).flatten(0, 5)
        sizes = torch.tensor([grid] * videos, device=frames.device)
        found = self.model(patches, grid_thw=sizes)
        tokens = getattr(found, "pooler_output", None)
        if tokens is None:
            tokens = found[0] if isinstance(found, tuple) else found
        return tokens.reshape(videos, -1, tokens.shape[-1]).mean(1)


def _kind(model_type: str) -> str:
    """The kind of a transformers model type.

    Raises:
        ValueError: if it is none that can be used.
    """
    if model_type == "vivit":
        return "vivit"
    if model_type in ("clip", "clip_vision_model"):
        return "clip"
    if model_type.startswith("qwen") and "vl" in model_type:
        return "qwen_vl"
    raise ValueError(f"a {model_type!r} model is no video encoder here; use ViViT, CLIP or Qwen-VL, or your own module")
