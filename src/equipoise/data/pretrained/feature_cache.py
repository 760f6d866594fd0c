"""Features that are computed once: kept on disk by weights, size and content, and read back as a memory map.

A data set is cut into parts of 512 inputs; each part's features are one file under the hash of the encoder's card and
of the inputs' bytes. A file is written aside and moved into place, so that two runs side by side, or one that is
killed, leave whole files only, and a second run goes on where the first was cut off. When all parts are there they are
joined into one file, which is what is mapped.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.data.pretrained.encoders import ImageEncoder, TextEncoder

_PART = 512


def cached_features(
    encoder: ImageEncoder | TextEncoder,
    inputs: Tensor | np.ndarray | Sequence[str],
    *,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Features of many images or texts; those that were computed before are read.

    Args:
        encoder: of `image_encoder` or `text_encoder`.
        inputs: images (n, 3, h, w), uint8 from 0 to 255 or float from 0 to 1; or texts.
        cache_dir: a folder for the files; by default `equipoise/features` in the user's cache folder
            (`XDG_CACHE_HOME`, or `~/.cache`). It may be deleted at any time.
        batch_size: inputs that go through the encoder at once.
        progress: called with how many are done and how many there are.

    Returns:
        (n, width) float32, a read-only memory map.

    Raises:
        ValueError: if there is nothing to encode, or as the encoder.
    """
    total = len(inputs)
    if not total:
        raise ValueError("there is nothing to encode: inputs are empty")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equipoise"
    folder = Path(cache_dir or root / "features") / encoder.card.key()
    names = [_content(inputs[at : at + _PART]) for at in range(0, total, _PART)]
    whole = folder / f"all-{hashlib.sha256(''.join(names).encode()).hexdigest()[:32]}.npy"
    if not whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        parts = [folder / f"part-{name}.npy" for name in names]
        for k, part in enumerate(parts):
            if not part.exists():
                features = _encoded(encoder, inputs[k * _PART : (k + 1) * _PART], batch_size)
                _write(part, features, min(total - k * _PART, _PART), encoder.card.width)
            if progress is not None:
                progress(min((k + 1) * _PART, total), total)
        try:
            _write(whole, (np.load(part, allow_pickle=False) for part in parts), total, encoder.card.width)
        except FileNotFoundError:
            # Another run has joined the parts and taken them away.
            if not whole.exists():
                raise
        for part in set(parts):
            part.unlink(missing_ok=True)
    elif progress is not None:
        progress(total, total)
    return np.load(whole, mmap_mode="r", allow_pickle=False)


@torch.inference_mode()
def _encoded(encoder: Any, inputs: Any, batch_size: int) -> Iterator[np.ndarray]:
    for at in range(0, len(inputs), batch_size):
        some = inputs[at : at + batch_size]
        if isinstance(some, np.ndarray):
            some = torch.from_numpy(np.ascontiguousarray(some))
        if isinstance(some, Tensor) and some.dtype == torch.uint8:
            some = some.float() / 255
        yield encoder(some).float().cpu().numpy()


def _write(path: Path, blocks: Iterator[np.ndarray], rows: int, width: int) -> None:
    """Write blocks of rows into one file, one block in memory at a time."""
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix="writing-", suffix=".npy")
    os.close(handle)
    try:
        held = np.lib.format.open_memmap(aside, "w+", np.float32, (rows, width))
        at = 0
        for block in blocks:
            held[at : at + len(block)] = block
            at += len(block)
        held.flush()
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _content(inputs: Any) -> str:
    """Hash of the inputs: bytes, type and shape of images, or the texts."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(inputs, Tensor):
        inputs = inputs.detach().cpu().contiguous().numpy()
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "uif":
        held = np.ascontiguousarray(inputs)
        digest.update(f"{held.dtype} {held.shape}".encode())
        digest.update(held.view(np.uint8).reshape(-1).data)
    else:
        for text in inputs:
            written = str(text).encode()
            digest.update(f"{len(written)} ".encode() + written)
    return digest.hexdigest()
