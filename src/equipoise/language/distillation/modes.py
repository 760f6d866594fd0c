"""How a causal model is asked: which inputs it gets, in which mode, and which token each place predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.language.distillation.data import IGNORED

_INPUTS = ("input_ids", "attention_mask", "position_ids")


def next_labels(labels: Tensor) -> Tensor:
    """Labels (B, T) at the place of the token before them; the last place has none."""
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def forward(model: nn.Module, batch: Mapping[str, Tensor], **more: Any) -> Any:
    """The model's outputs for a batch, whose labels it does not see."""
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    if hasattr(getattr(model, "module", model), "config"):
        more["use_cache"] = False
    return model(**inputs, **more)
