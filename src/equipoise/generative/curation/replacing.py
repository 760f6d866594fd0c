"""Synthetic identities in place of those that became too small, and the order of the merged set.

    removed = identities of fewer than `min_images` images        order = as many synthetic ones, then the others

"Hybrid Generative Fusion", ICCV workshops 2025, as in the authors' code, which draws the synthetic ones at random;
without a generator they are taken as given.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from equipoise.core.signature import as_whole, checked
from equipoise.core.types import Count
from equipoise.generative.curation.combining import unique_samples


class Replacement(NamedTuple):
    """What `replace_small_identities` decides.

    Attributes:
        removed: identities that are too small, in the order given.
        order: identities of the merged set.
    """

    removed: list[Any]
    order: list[Any]


@checked
def replace_small_identities(
    image_counts: Mapping[Any, int],
    synthetic_identities: Sequence[Any],
    min_images: Count = 10,
    synthetic_first: bool = True,
    generator: torch.Generator | None = None,
    *,
    allow_short: bool = False,
) -> Replacement:
    """The identities of the merged data set, one synthetic one for each that is removed.

    A list that begins with synthetic identities trains on them first only where the trainer does not shuffle; see
    `CurriculumSampler`.

    Args:
        image_counts: identity → images it has.
        synthetic_identities: to take, none of them among the others.
        min_images: identities of fewer images are removed.
        synthetic_first: whether the synthetic ones stand in front.
        generator: draws the synthetic ones; they are the first ones without it.
        allow_short: whether too few synthetic ones are a warning, and all are taken.

    Raises:
        ValueError: on a bad argument, by name; if names repeat, or there are too few synthetic identities.

    >>> replace_small_identities({"a": 12, "b": 4}, ["s1", "s2"])
    Replacement(removed=['b'], order=['s1', 'a'])
    """
    if not image_counts:
        raise ValueError("image_counts is empty; there is nothing to merge")
    counts = {name: as_whole(f"image_counts[{name!r}]", count) for name, count in image_counts.items()}
    below = [name for name, count in counts.items() if count < 0]
    if below:
        raise ValueError(f"image_counts[{below[0]!r}]={counts[below[0]]} must be at least 0")
    synthetic = unique_samples("synthetic_identities", synthetic_identities)
    both = [name for name in synthetic if name in counts]
    if both:
        raise ValueError(f"synthetic_identities hold {both[0]!r}, which is in image_counts as well; rename one of them")
    removed = [name for name, count in counts.items() if count < min_images]
    if len(synthetic) < len(removed):
        short = f"synthetic_identities has {len(synthetic)} names, and {len(removed)} identities are to be replaced"
        if not allow_short:
            raise ValueError(f"{short}; make more, lower min_images, or pass allow_short=True")
        warnings.warn(short, UserWarning, stacklevel=2)
    taken = list(range(len(synthetic)))
    if generator is not None:
        taken = torch.randperm(len(synthetic), generator=generator, device=generator.device).tolist()
    new = [synthetic[place] for place in taken[: len(removed)]]
    others = [name for name, count in counts.items() if count >= min_images]
    return Replacement(removed, [*new, *others] if synthetic_first else [*others, *new])
