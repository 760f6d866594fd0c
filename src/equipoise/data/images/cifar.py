"""CIFAR-10 and CIFAR-100 from a folder or a file that you have; nothing is downloaded and nothing is unpickled.

Read are the binary version of the authors' distribution (`cifar-10-batches-bin`, `cifar-100-binary`: a label, or a
coarse and a fine one, and 3,072 bytes an image) and npz files with images as arrays.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from equipoise.core.signature import checked

_PIXELS = 3 * 32 * 32
_FILES = {
    ("cifar10", "train"): [f"data_batch_{k}.bin" for k in range(1, 6)],
    ("cifar10", "test"): ["test_batch.bin"],
    ("cifar100", "train"): ["train.bin"],
    ("cifar100", "test"): ["test.bin"],
}


@dataclass(frozen=True)
class Images:
    """Pictures with their classes.

    Attributes:
        images: (n, 3, 32, 32) uint8.
        target: (n,) int64 classes; of CIFAR-100 the fine ones.
        coarse: (n,) int64 coarse classes of CIFAR-100, else None.
    """

    images: UInt8[Tensor, "n 3 32 32"]
    target: Int[Tensor, " n"]
    coarse: Int[Tensor, " n"] | None = None


@checked
def read_cifar(path: str | Path, split: Literal["train", "test"] = "train") -> Images:
    """Read a split of CIFAR-10 or CIFAR-100.

    Args:
        path: the folder of the binary version; or an npz file with `<split>_images`, (n, 32, 32, 3) or (n, 3, 32, 32)
            uint8, `<split>_labels` (n,), and for CIFAR-100 perhaps `<split>_coarse` (n,).
        split: "train" or "test".

    Raises:
        FileNotFoundError: if there is no such folder or file, or the folder has no binary files of CIFAR.
        ValueError: if a file is not what its name says.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.is_file():
        return _from_arrays(path, split)
    for name in ("cifar10", "cifar100"):
        files = [path / file for file in _FILES[name, split]]
        if all(file.exists() for file in files):
            return _from_binary(files, labels=1 if name == "cifar10" else 2)
    raise FileNotFoundError(
        f"{path} holds neither {_FILES['cifar10', split][0]} nor {_FILES['cifar100', split][0]}; give the folder of "
        "the binary version, since the Python version is pickled"
    )


def _from_binary(files: list[Path], labels: int) -> Images:
    rows = []
    for file in files:
        stream = np.fromfile(file, np.uint8)
        if not len(stream) or len(stream) % (labels + _PIXELS):
            raise ValueError(f"{file} holds {len(stream)} bytes, which are no whole images of CIFAR")
        rows.append(stream.reshape(-1, labels + _PIXELS))
    table = np.concatenate(rows)
    images = torch.from_numpy(table[:, labels:].reshape(-1, 3, 32, 32).copy())
    target = torch.from_numpy(table[:, labels - 1].astype(np.int64))
    return Images(images, target, torch.from_numpy(table[:, 0].astype(np.int64)) if labels == 2 else None)


def _from_arrays(path: Path, split: str) -> Images:
    with np.load(path, allow_pickle=False) as held:
        names = {f"{split}_images", f"{split}_labels"}
        if not names <= set(held.files):
            raise ValueError(f"{path} must hold {' and '.join(sorted(names))}; it has {', '.join(held.files)}")
        pixels, labels = held[f"{split}_images"], held[f"{split}_labels"]
        coarse = held[f"{split}_coarse"] if f"{split}_coarse" in held.files else None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(labels):
        raise ValueError(f"{split}_images must be uint8 (n, 32, 32, 3), as many as labels, got {pixels.shape}")
    if pixels.shape[1:] == (32, 32, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.shape[1:] != (3, 32, 32):
        raise ValueError(f"{split}_images must be (n, 32, 32, 3) or (n, 3, 32, 32), got {pixels.shape}")
    images, target = torch.from_numpy(pixels.copy()), torch.from_numpy(labels.astype(np.int64))
    return Images(images, target, None if coarse is None else torch.from_numpy(coarse.astype(np.int64)))
