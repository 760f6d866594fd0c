"""The image tower of transformers' CLIP as a module of its own, to be tuned, and put back.

    encoder = CLIPImageEncoder(model)               normalised images to features
    tuned = DCRTrainer(encoder, ...).export()
    put_back(model, tuned)                          the model with the tuned tower; save it as ever

Without the text tower, low-rank adapters on all linear layers lie where they are used, and nowhere else.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class CLIPImageEncoder(nn.Module):
    """Features (n, d) of normalised images (n, 3, side, side), as `get_image_features` gives them.

    Args:
        model: transformers' `CLIPModel`; its image tower and projection are copied.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = copy.deepcopy(model.vision_model)
        self.visual_projection = copy.deepcopy(model.visual_projection)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Features, not normalised."""
        features: Tensor = self.visual_projection(self.vision_model(pixel_values=images).pooler_output)
        return features


@torch.no_grad()
def put_back(model: Any, encoder: nn.Module) -> None:
    """Give a `CLIPModel` the weights of a `CLIPImageEncoder`, in place.

    Raises:
        RuntimeError: if it is of another architecture.
    """
    state = encoder.state_dict()
    for name in ("vision_model", "visual_projection"):
        start = f"{name}."
        part = {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}
        getattr(model, name).load_state_dict(part)
