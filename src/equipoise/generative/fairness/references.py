"""What a model itself draws for prompts that name an attribute value, as unit embeddings: nothing real is needed.

Source: LightFair, NeurIPS 2025, which takes no auxiliary pictures. Reconstructed: that references are drawn from the
prompts that name a value, by the original text encoder, is inferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.generators import TextToImage
from equipoise.core.models.two_tower import TwoTower
from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.generative.fairness.balance import attribute_centers, unit
from equipoise.generative.fairness.foreground import weigh_foreground
from equipoise.generative.fairness.prompts import FairPrompts

Pixels = Callable[[Tensor], Tensor]
"""Pictures in [0, 1] to what the image tower reads."""
Maps = Callable[[Tensor, Sequence[str]], Tensor]
"""Pictures and their prompts to maps of the foreground."""


@dataclass(frozen=True)
class References:
    """Pictures of every attribute value of some concepts.

    Attributes:
        concepts: C of them.
        values: A of them.
        embeddings: of each concept and value (n, D) unit embeddings.
        centers: (C, A, D) unit centres.
        means: (C, A, D) means of unit embeddings, which are shorter than 1 the more the pictures differ.
    """

    concepts: tuple[str, ...]
    values: tuple[str, ...]
    embeddings: tuple[tuple[Tensor, ...], ...]
    centers: Float[Tensor, "concepts attributes d"]
    means: Float[Tensor, "concepts attributes d"]

    @classmethod
    def of(cls, concepts: Sequence[str], values: Sequence[str], embeddings: Sequence[Sequence[Tensor]]) -> References:
        """References of embeddings of any norm but 0.

        Raises:
            ValueError: as `attribute_centers`, or if a concept or value has none.
        """
        if len(embeddings) != len(concepts) or any(len(row) != len(values) for row in embeddings):
            raise ValueError(f"embeddings must be of {len(concepts)} concepts, {len(values)} values each")
        named = [dict(zip(values, row, strict=True)) for row in embeddings]
        centers = torch.stack([attribute_centers(row) for row in named])
        rows = tuple(tuple(unit("embeddings", each) for each in row) for row in embeddings)
        means = torch.stack([torch.stack([each.mean(0) for each in row]) for row in rows])
        return cls(tuple(concepts), tuple(values), rows, centers, means)

    def at(self, concept: str) -> int:
        """Place of a concept.

        Raises:
            ValueError: if there are no references for it.
        """
        if concept not in self.concepts:
            raise ValueError(f"there are no references for {concept!r}, only for {', '.join(self.concepts)}")
        return self.concepts.index(concept)


@torch.no_grad()
@checked
def draw_references(
    tower: TwoTower,
    generator: TextToImage,
    prompts: FairPrompts,
    n: Count,
    *,
    pixels: Pixels | None = None,
    foreground: Maps | None = None,
    seed: Whole = 0,
    batch_size: Count = 32,
) -> References:
    """Draw n pictures for every concept and value, with the templates in turn, and embed them.

    Args:
        tower: its image side embeds.
        generator: draws.
        prompts: of the concepts and values.
        n: pictures for each.
        pixels: pictures in [0, 1] to what the image tower reads; as they are if absent.
        foreground: maps of what the pictures are of, see `weigh_foreground`; the whole picture counts if absent.
        seed: pictures of the same place in the list have the same noise for every concept and value.
        batch_size: pictures drawn at once.

    Raises:
        ValueError: if n is below 1.
    """
    found = []
    for concept in prompts.concepts:
        row = []
        for value in prompts.values:
            templates = prompts.naming(concept, value)
            asked = [templates[k % len(templates)] for k in range(n)]
            parts = []
            for start in range(0, n, batch_size):
                part = asked[start : start + batch_size]
                pictures = generator(part, [seed * 1_000_003 + start + k for k in range(len(part))])
                parts.append(embed_pictures(tower, pictures, part, pixels=pixels, foreground=foreground))
            row.append(torch.cat(parts))
        found.append(row)
    return References.of(prompts.concepts, prompts.values, found)


@torch.no_grad()
def embed_pictures(
    tower: TwoTower,
    pictures: Float[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    *,
    pixels: Pixels | None = None,
    foreground: Maps | None = None,
) -> Float[Tensor, "n d"]:
    """Unit embeddings of pictures in [0, 1], in float32."""
    if foreground is not None:
        pictures = weigh_foreground(pictures, foreground(pictures, prompts))
    found = tower.encode_image((pictures if pixels is None else pixels(pictures)).to(tower.logit_scale.device))
    return unit("the embeddings of pictures", found.float())
