"""Identities as directions: samples around them, pictures of samples through a fixed curved map, and a noisy source.

z = unit(centre + spread · N / √d)        picture = tanh(2 z A) + noise · N        embedding = z + .25 N / √d
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

DIM, WIDTH = 32, 48
_BLUR = 0.25
_MAP = torch.randn(DIM, WIDTH, generator=Generator().manual_seed(99)) / DIM**0.5
_BESIDE = torch.randn(8, WIDTH, generator=Generator().manual_seed(98)) / DIM**0.5


class LatentSample(NamedTuple):
    """A sample.

    Attributes:
        picture: (48,) what a recogniser sees.
        embedding: (32,) what a finished recogniser would say of it.
        identity: whom it shows; −1 for nobody of the world.
    """

    picture: Tensor
    embedding: Tensor
    identity: int


def centres(count: int, generator: Generator) -> Tensor:
    """Directions of identities, uniform on the sphere."""
    return normalize(torch.randn(count, DIM, generator=generator), dim=1)


def draw(
    centre: Tensor,
    identity: Sequence[int],
    generator: Generator,
    spread: float = 0.55,
    noise: float = 0.25,
    beside: float = 0.0,
) -> list[LatentSample]:
    """A sample around each row of centres (n, d)."""
    size = (len(centre), DIM)
    z = normalize(centre + spread * torch.randn(size, generator=generator) / DIM**0.5, dim=1)
    shown = z @ _MAP + beside * torch.randn(len(centre), 8, generator=generator) @ _BESIDE
    picture = torch.tanh(2 * shown) + noise * torch.randn(len(centre), WIDTH, generator=generator)
    embedding = z + _BLUR * torch.randn(size, generator=generator) / DIM**0.5
    return [LatentSample(*each) for each in zip(picture, embedding, identity, strict=True)]


def noisy_source(
    identities: Tensor,
    generator: Generator,
    *,
    samples: int = 20,
    few: int = 4,
    share: float = 0.25,
    wrong: float = 0.3,
    beside: float = 0.0,
) -> dict[str, dict[str, LatentSample]]:
    """A folder of each identity: a share of them has few samples, and some of all samples show another identity."""
    count = len(identities)
    small = torch.randperm(count, generator=generator)[: round(share * count)].tolist()
    source = {}
    for who in range(count):
        size = few if who in small else samples
        other = (who + torch.randint(1, count, (size,), generator=generator)) % count
        shown = torch.where(torch.rand(size, generator=generator) < wrong, other, torch.tensor(who))
        drawn = draw(identities[shown], shown.tolist(), generator, beside=beside)
        source[str(who)] = {f"{who}-{k}": sample for k, sample in enumerate(drawn)}
    return source


def embed(samples: Sequence[LatentSample]) -> Tensor:
    """The embeddings of samples."""
    return torch.stack([sample.embedding for sample in samples])
