"""Somebody, or something, that looks at the samples of an identity and names those that do not belong.

A judge gives the numbers of outliers among the samples it is shown. A judge that could not give an answer raises
`JudgeError`; whoever cleans then keeps everything and says so. Nothing here sends a sample anywhere. "Hybrid Generative
Fusion", ICCV workshops 2025: the judge is a vision-language model there; the offline judges are those of this library.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from equipoise.core.models import judges
from equipoise.core.models.two_tower import cosines, unit_rows
from equipoise.core.signature import checked
from equipoise.core.types import OpenFraction, Probability, Whole


class JudgeError(judges.JudgeError):
    """A judge gave no answer that can be used; audits take it for no answer, too."""


@runtime_checkable
class IdentityJudge(Protocol):
    """Who says which samples of an identity show somebody else than the most of them do."""

    def outliers(self, images: Sequence[Any]) -> list[int]:
        """Numbers, from 0, of the samples that do not belong.

        Raises:
            JudgeError: if there is no answer.
        """
        ...


class MedoidJudge:
    """A judge by distance in an embedding of its own: what is unlike the most central sample does not belong.

    Args:
        embedder: samples → (n, d), preferably another model than the one that clusters.
        threshold: cosine with the medoid below which a sample does not belong, in (0, 1).

    >>> rows = [torch.tensor([1.0, 0.0]), torch.tensor([0.9, 0.1]), torch.tensor([0.0, 1.0])]
    >>> MedoidJudge(torch.stack, 0.5).outliers(rows)
    [2]
    """

    @checked
    def __init__(self, embedder: Callable[[Sequence[Any]], Tensor], threshold: OpenFraction = 0.5) -> None:
        self.embedder, self.threshold = embedder, threshold

    def outliers(self, images: Sequence[Any]) -> list[int]:
        """Numbers of the samples whose cosine with the medoid is below the threshold."""
        if not len(images):
            return []
        unit = unit_rows("embeddings", self.embedder(images).detach().double())
        near = cosines(unit, unit)
        medoid = int(near.sum(1).argmax())
        return torch.nonzero(near[medoid] < self.threshold)[:, 0].tolist()


class NoisyOracleJudge:
    """A judge that knows the truth and errs at a known rate: for simulations and tests.

    Args:
        label: sample → whom it shows.
        flip: chance that a sample is judged wrongly.
        seed: the same samples with the same seed get the same answer, whoever else is judged.

    >>> NoisyOracleJudge(lambda sample: sample, flip=0.0).outliers(["a", "b", "a"])
    [1]
    """

    @checked
    def __init__(self, label: Callable[[Any], Hashable], flip: Probability = 0.1, seed: Whole = 0) -> None:
        self.label, self.flip, self.seed = label, flip, seed

    def outliers(self, images: Sequence[Any]) -> list[int]:
        """Numbers of the samples that do not show whom most show, each flipped with a chance; first of equal counts."""
        labels = [self.label(image) for image in images]
        if not labels:
            return []
        common = Counter(labels).most_common(1)[0][0]
        generator = np.random.default_rng((self.seed, zlib.crc32(repr(labels).encode())))
        flipped = generator.random(len(labels)) < self.flip
        return [k for k, label in enumerate(labels) if (label != common) != flipped[k]]


def checked_outliers(found: Sequence[int], size: int) -> list[int]:
    """The outliers in order, each once.

    Raises:
        ValueError: if one is no number of a sample.

    >>> checked_outliers([2, 0, 2], 3)
    [0, 2]
    """
    numbers = []
    for each in found:
        if isinstance(each, bool) or not isinstance(each, int | np.integer) or not 0 <= each < size:
            raise ValueError(f"the judge names sample {each!r}, which is none of the {size} it was shown")
        numbers.append(int(each))
    return sorted(set(numbers))
