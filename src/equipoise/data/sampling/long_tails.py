"""Long tails cut out of balanced data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Range, Whole
from equipoise.data.sampling.labels import Labels, class_codes


@checked
def long_tail_counts(
    num_classes: Count,
    max_count: Count,
    ratio: Annotated[float, Range(1)],
    kind: Literal["exponential", "step", "pareto"] = "exponential",
    *,
    reverse: bool = False,
) -> list[int]:
    """How many samples each class keeps in a long tail.

    - exponential: ⌊max_count · ratio^(−i / (num_classes − 1))⌋, from `max_count` down to `max_count / ratio`;
    - step: the first half of the classes (rounded up) keep `max_count`, the others `max_count / ratio`;
    - pareto: ⌊max_count · (i + 1)^−a⌋, the power a chosen so that the last class keeps `max_count / ratio`.

    Args:
        num_classes: classes, the largest first; one class keeps `max_count`.
        max_count: samples of the largest class.
        ratio: of the largest to the smallest class, at least 1 (the imbalance factor ρ).
        kind: "exponential", "step" or "pareto".
        reverse: the smallest class first, as in backward test sets.

    Raises:
        ValueError: if the smallest class would keep nothing.

    Source: the usual protocol for CIFAR-LT (Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware
    Margin Loss", 2019), reconstructed.

    >>> long_tail_counts(10, 90, 30)
    [90, 61, 42, 28, 19, 13, 9, 6, 4, 3]
    """
    if num_classes == 1:
        return [max_count]
    if kind == "exponential":
        shares = [ratio ** (-i / (num_classes - 1)) for i in range(num_classes)]
    elif kind == "pareto":
        power = math.log(ratio) / math.log(num_classes)
        shares = [(i + 1) ** -power for i in range(num_classes)]
    else:
        shares = [1.0 if 2 * i < num_classes else 1 / ratio for i in range(num_classes)]
    # 90 / 30 must be 3 and not 2.9999.
    counts = [int(max_count * share + 1e-9) for share in shares]
    if counts[-1] < 1:
        raise ValueError(
            f"ratio={ratio} leaves the smallest class {max_count / ratio:.2g} of a sample; lower it to at most "
            f"{max_count}"
        )
    return counts[::-1] if reverse else counts


@checked
def long_tail_subset(target: Labels, counts: Sequence[Whole], seed: Whole = 0) -> Int[Tensor, " kept"]:
    """Choose `counts[c]` samples of each class c at random.

    Args:
        target: class of each sample, shape (n,), in 0..C-1.
        counts: how many samples of each of the C classes to keep.
        seed: of the choice.

    Returns:
        Their indices, ascending.

    Raises:
        ValueError: if a class has fewer members than are asked for, or a target has no count.

    >>> long_tail_subset(torch.tensor([0, 0, 0, 1, 1, 1]), [3, 1]).shape
    torch.Size([4])
    """
    labels = class_codes(target)
    members = np.bincount(labels, minlength=len(counts))
    if len(members) > len(counts):
        raise ValueError(f"target holds class {len(members) - 1}, but counts has {len(counts)} entries")
    for c, (there, wanted) in enumerate(zip(members, counts, strict=True)):
        if wanted > there:
            raise ValueError(f"{wanted} samples of class {c} are asked for, it has {there}")
    generator = np.random.default_rng(seed)
    chosen = [generator.permutation(np.flatnonzero(labels == c))[:wanted] for c, wanted in enumerate(counts)]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
