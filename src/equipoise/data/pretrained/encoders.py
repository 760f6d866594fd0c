"""What is asked of an encoder, whoever trained it: features of a batch, and a card that says what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class EncoderCard:
    """Where features come from.

    Attributes:
        name: of the encoder, with where it was found.
        width: of a feature vector.
        licence: of the weights, as their source states it.
        weights: hash of the weights; with `size` it decides what the features of an input are.
        size: side of the square images that are read, in pixels, or most tokens of a text.
        mean: of each colour, from 0 to 1, that is taken off an image; empty for texts.
        std: that it is then divided by; empty for texts.
    """

    name: str
    width: int
    licence: str
    weights: str
    size: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def key(self) -> str:
        """Hash of all that features depend on beside the input."""
        held = repr((self.name, self.width, self.weights, self.size, self.mean, self.std))
        return hashlib.sha256(held.encode()).hexdigest()[:24]


@runtime_checkable
class ImageEncoder(Protocol):
    """Features of images.

    Attributes:
        card: what they are.
    """

    card: EncoderCard

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """Features (n, width) of images from 0 to 1, of any size; not normalised."""
        ...

    def pyramid(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Maps of features from fine to coarse, of images whose own size is kept."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Features of texts.

    Attributes:
        card: what they are.
    """

    card: EncoderCard

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """Features (n, width) of norm 1."""
        ...


def weights_hash(module: nn.Module) -> str:
    """Hash of a module's state: names, shapes and values.

    >>> weights_hash(nn.Linear(1, 1, bias=False)) == weights_hash(nn.Linear(2, 1, bias=False))
    False
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        held = value.detach().cpu().contiguous()
        digest.update(held.view(torch.uint8).numpy().tobytes() if held.ndim else held.view(1).view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


def missing_package(what: str, package: str, extra: str | None = "pretrained") -> ImportError:
    """The error of a package that is not installed, with how to install it."""
    how = f"pip install 'equipoise[{extra}]'" if extra else f"pip install {package}"
    return ImportError(f"{what} needs the package {package}: {how}")
