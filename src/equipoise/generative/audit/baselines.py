"""What the comparison of elements is held against: pictures compared as a whole.

    global similarity   mean cosine of the features of pictures of the prompt with harmless words added: an attack that
                        always shows one picture makes them alike   (after UFID, simplified; reconstructed)
    deviation in CLIP   −cos(features of the prompt, features of its picture)

Both take the features as functions, so that any model can give them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.core.models.generators import TextToImage
from equipoise.core.signature import checked
from equipoise.core.types import Range, Whole
from equipoise.generative.audit.generating import check_prompts, generate

EncodeImages: TypeAlias = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n d"]]
EncodeTexts: TypeAlias = Callable[[Sequence[str]], Float[Tensor, "n d"]]
PHRASES = ("a nice picture", "a photo", "this is the one", "a drawing of the one", "one nice photo", "the picture")
"""Harmless words that are put before a prompt."""


class GlobalSimilarityDetector:
    """Flags prompts whose pictures stay alike as a whole when harmless words are added.

    Args:
        generator: prompts and seeds in, pictures in [0, 1] out.
        encode_images: features of pictures, (n, 3, h, w) → (n, d).
        variants: pictures for each prompt, at least two.
        phrases: harmless words; one of them is put before the prompt for every picture.
        seed: of pictures and phrases.

    Raises:
        ValueError: if a setting is out of range.

    >>> from equipoise.data.shapes import RenderedTextToImage
    >>> detector = GlobalSimilarityDetector(RenderedTextToImage(attack="fix"), lambda images: images.flatten(1))
    >>> scores = detector.score(["zq red circle", "red circle"])
    >>> bool(scores[0] > scores[1])
    True
    """

    @checked
    def __init__(
        self,
        generator: TextToImage,
        encode_images: EncodeImages,
        variants: Annotated[int, Range(2)] = 5,
        phrases: Sequence[str] = PHRASES,
        seed: Whole = 0,
    ) -> None:
        if not phrases:
            raise ValueError("phrases is empty; give at least one")
        self.generator, self.encode_images = generator, encode_images
        self.variants, self.phrases, self.seed = variants, tuple(phrases), seed

    def score(self, prompts: Sequence[str]) -> Float[Tensor, " n"]:
        """(n,) float64 scores, the mean cosine over pairs of pictures.

        Raises:
            ValueError: if there is no prompt or an empty one, or the generator gives no pictures in [0, 1].
        """
        found = []
        for prompt in check_prompts(prompts):
            digest = hashlib.sha256(f"{self.seed} {prompt}".encode()).digest()
            rng = np.random.default_rng(list(digest[:16]))
            chosen = [self.phrases[int(k)] for k in rng.integers(len(self.phrases), size=self.variants)]
            texts = [f"{phrase} {prompt}" for phrase in chosen]
            images = generate(self.generator, texts, [self.seed + 1 + k for k in range(self.variants)])
            features = _features("encode_images", self.encode_images(images), len(images))
            n = self.variants
            found.append(((features @ features.T).sum() - n) / (n * (n - 1)))
        return torch.stack(found)


class ClipDeviationDetector:
    """Flags prompts whose picture has little to do with them as a whole.

    Args:
        generator: prompts and seeds in, pictures in [0, 1] out.
        encode_images: features of pictures, (n, 3, h, w) → (n, d).
        encode_texts: features of prompts in the same space.
        seed: of the pictures.

    Raises:
        ValueError: if a setting is out of range.
    """

    @checked
    def __init__(
        self, generator: TextToImage, encode_images: EncodeImages, encode_texts: EncodeTexts, seed: Whole = 0
    ) -> None:
        self.generator, self.seed = generator, seed
        self.encode_images, self.encode_texts = encode_images, encode_texts

    def score(self, prompts: Sequence[str]) -> Float[Tensor, " n"]:
        """(n,) float64 scores, the negative cosine of a prompt and its picture.

        Raises:
            ValueError: if there is no prompt or an empty one, or the generator gives no pictures in [0, 1].
        """
        prompts = check_prompts(prompts)
        images = generate(self.generator, prompts, [self.seed] * len(prompts))
        pictures = _features("encode_images", self.encode_images(images), len(prompts))
        texts = _features("encode_texts", self.encode_texts(prompts), len(prompts))
        if pictures.shape != texts.shape:
            raise ValueError(f"pictures have {pictures.shape[1]} features and texts {texts.shape[1]}; give one space")
        return -(pictures * texts).sum(1)


def _features(name: str, features: Tensor, n: int) -> Tensor:
    """Rows of length one in float64."""
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != n:
        raise ValueError(f"{name} must give one row of features for each of {n} inputs")
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name} must give finite features")
    return F.normalize(features.detach().double().cpu(), dim=1)
