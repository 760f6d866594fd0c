"""Parts of comparisons in which every annotator, and every kind of answer, is represented alike."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import NumClasses, Whole
from equipoise.data.comparisons.answers import Comparisons


@checked
def comparison_folds(comparisons: Comparisons, folds: NumClasses = 5, *, seed: Whole = 0) -> Int[Tensor, " n"]:
    """The fold of each comparison, 0 to `folds` − 1, by annotator and stratified by the answer.

    The answers of a person, those of one label after those of another, are dealt out in turn from a random fold on: the
    folds of a person differ by at most one answer, of each label too. One fold of five is a test part of a fifth.

    Args:
        comparisons: what to part.
        folds: how many.
        seed: of the parts.

    Raises:
        ValueError: on a bad setting, by name.

    >>> said = Comparisons.from_columns([0] * 4, [0] * 4, [1] * 4, [1, 1, 0, 0])
    >>> fold = comparison_folds(said, 2)
    >>> said.label[fold == 0].sort().values.tolist()
    [0, 1]
    """
    generator = np.random.default_rng(seed)
    who, label = comparisons.annotator.numpy(), comparisons.label.numpy()
    order = np.lexsort((generator.random(len(who)), label, who))
    first = np.concatenate([[0], np.cumsum(comparisons.per_annotator.numpy())])
    begins = generator.integers(folds, size=comparisons.num_annotators)
    fold = np.empty(len(who), dtype=np.int64)
    place = np.arange(len(who)) - first[who[order]]
    fold[order] = (place + begins[who[order]]) % folds
    return torch.from_numpy(fold)
