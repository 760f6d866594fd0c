"""Frames to vectors: pooling over time, and a cache of what a frozen encoder says.

A frozen encoder says the same in every epoch, so it is asked once. `EmbeddingCache` keeps its answers by key in half
precision with a hash of the encoder's weights, on disk as safetensors; segments of one recording can share its key.

Mean pooling of normalised frame embeddings is CLIP4CLIP's "meanP"; that arXiv 2606.02120 uses this form, and the
cache, are a reconstruction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from equipoise.core.signature import checked
from equipoise.core.validate import check_finite


class MeanPoolVideoEncoder(nn.Module):
    """The mean of the embeddings of the frames that are there.

    Args:
        image_encoder: (n, C, H, W) → (n, D).
        unit_frames: scale every frame's embedding to length 1 first.

    >>> encoder = MeanPoolVideoEncoder(torch.nn.Flatten())
    >>> encoder(torch.randn(2, 5, 3, 4, 4)).shape
    torch.Size([2, 48])
    """

    @checked
    def __init__(self, image_encoder: nn.Module, *, unit_frames: bool = True) -> None:
        super().__init__()
        self.image_encoder, self.unit_frames = image_encoder, unit_frames

    def forward(
        self, frames: Float[Tensor, "b t c h w"], frame_mask: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Encode videos.

        Args:
            frames: (B, T, C, H, W).
            frame_mask: (B, T), True where there is a frame; all, if absent. Padding is not encoded.

        Raises:
            ValueError: on another shape, or a video without a frame.
        """
        if frames.ndim != 5:
            raise ValueError(
                f"frames must have shape (videos, time, channels, height, width), got {tuple(frames.shape)}"
            )
        mask = frames.new_ones(frames.shape[:2], dtype=torch.bool) if frame_mask is None else frame_mask.bool()
        if mask.shape != frames.shape[:2]:
            raise ValueError(f"frame_mask must have shape {tuple(frames.shape[:2])}, got {tuple(mask.shape)}")
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"frame_mask leaves video {empty[0]} without a frame; drop it or pass None for it")
        encoded = self.image_encoder(frames[mask])
        if self.unit_frames:
            encoded = normalize(encoded, dim=1)
        video = mask.nonzero()[:, 0]
        total = encoded.new_zeros(len(frames), encoded.shape[1]).index_add(0, video, encoded)
        return total / mask.sum(1, keepdim=True)


def model_hash(model: nn.Module) -> str:
    """A hash of a model's class names, weights and buffers; the same for the same encoder in every process.

    >>> model_hash(torch.nn.Identity()) == model_hash(torch.nn.Identity())
    True
    """
    digest = hashlib.sha256("/".join(type(part).__qualname__ for part in model.modules()).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings of a frozen encoder by key, kept in half precision.

    Args:
        keys: distinct names, one per row; kept as text.
        values: (n, D).
        hash: of the encoder; see `model_hash`.

    Raises:
        ValueError: on repeated keys, another number of rows, NaN, or values that overflow half precision.

    >>> cache = EmbeddingCache.build(torch.nn.Identity(), [(["a", "b"], torch.eye(2))])
    >>> cache["b"]
    tensor([0., 1.])
    """

    @checked
    def __init__(self, keys: Iterable[Hashable], values: Float[Tensor, "n d"], hash: str) -> None:
        self.keys = [str(key) for key in keys]
        self.rows = {key: row for row, key in enumerate(self.keys)}
        if len(self.rows) != len(self.keys):
            raise ValueError("keys repeat; every embedding needs a key of its own")
        if len(values) != len(self.keys):
            raise ValueError(f"values must have shape ({len(self.keys)}, D), got {tuple(values.shape)}")
        self.values = values.detach().cpu().half()
        check_finite("values in half precision", self.values.float())
        self.hash = hash

    @classmethod
    @torch.no_grad()
    def build(cls, model: nn.Module, loader: Iterable[tuple[Iterable[Hashable], Tensor]]) -> EmbeddingCache:
        """Encode batches of (keys, input), in evaluation mode; a key that was seen is not kept twice."""
        training = model.training
        keys: dict[Hashable, Tensor] = {}
        model.eval()
        try:
            for names, batch in loader:
                for name, value in zip(names, model(batch), strict=True):
                    keys.setdefault(str(name), value.cpu())
        finally:
            model.train(training)
        if not keys:
            raise ValueError("the loader gave nothing to embed")
        return cls(keys, torch.stack(list(keys.values())), model_hash(model))

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys)

    def __getitem__(self, key: Hashable) -> Float[Tensor, " d"]:
        """The embedding of a key in float32.

        Raises:
            KeyError: naming a key that is not there.
        """
        return self.values[self._row(key)].float()

    def take(self, keys: Iterable[Hashable]) -> Float[Tensor, "n d"]:
        """The embeddings of several keys, which may repeat."""
        return self.values[[self._row(key) for key in keys]].float()

    def _row(self, key: Hashable) -> int:
        if str(key) not in self.rows:
            raise KeyError(f"no embedding is cached for {str(key)!r}")
        return self.rows[str(key)]

    def save(self, path: str | Path) -> None:
        """Write as safetensors, with keys and hash in its header."""
        from safetensors.torch import save_file

        save_file({"values": self.values}, str(path), {"keys": json.dumps(self.keys), "hash": self.hash})

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> EmbeddingCache:
        """Read what `save` wrote.

        Args:
            path: of the file.
            model: the encoder that the embeddings should be of; not checked if absent.

        Raises:
            ValueError: if the cache was built with another model.
        """
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            header, values = file.metadata(), file.get_tensor("values")
        if model is not None and model_hash(model) != header["hash"]:
            raise ValueError("cache was built with another model; build it again with this one")
        return cls(json.loads(header["keys"]), values, header["hash"])
